"""
``portero token issue``: a service account makes its own token with its own key; nothing is asked and nothing stored.

It decides nothing about access: a token is worth what the tenant's policy and the account's public key make of it.
"""

from __future__ import annotations

import re
import time
import uuid
from pathlib import Path
from typing import Any, Final

import click
import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from authproxy.identity.keys import signing_key
from policies.claims import MAX_ACCOUNT_LIFETIME_S, account_issuer

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

MAX_KEY_BYTES: Final = 64 * 1024
_DURATION: Final = re.compile(r"([1-9][0-9]{0,6})(s|m|h)")
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600}
_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?")

EXAMPLE: Final = """\b
Example: portero token issue --account survey-ci.key.pem --tenant acme \\
           --name survey-ci --audience survey"""


class Duration(click.ParamType[int]):
    """``90s``, ``10m`` or ``1h`` as whole seconds, at most an hour."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = _DURATION.fullmatch(str(value))
        if match is None:
            self.fail(f"{value!r} is not a duration like 90s, 10m or 1h", param, ctx)
        seconds = int(match[1]) * _UNITS_S[match[2]]
        if seconds > MAX_ACCOUNT_LIFETIME_S:
            self.fail(f"{value!r} is longer than 1h, which no policy accepts", param, ctx)
        return seconds


def _name(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if _NAME.fullmatch(value) is None:
        raise click.BadParameter(f"{value!r} is not a name: letters, digits and . _ - inside", ctx, param)
    return value


@click.group(epilog=EXAMPLE)
def token() -> None:
    """Tokens of service accounts."""


@token.command(epilog=EXAMPLE)
@click.option(
    "--account",
    "file",
    required=True,
    metavar="FILE.pem",
    type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path),
    help="The account's private key (PEM, not encrypted). Its public key is what the policy names.",
)
@click.option("--tenant", required=True, callback=_name, help="The tenant whose account it is.")
@click.option("--name", required=True, callback=_name, help="The account's name in the tenant's policy.")
@click.option("--audience", "audiences", required=True, multiple=True, help="Who the token is for; may be repeated.")
@click.option("--ttl", type=Duration(), default="10m", show_default=True, help="How long it is good: 90s, 10m, 1h.")
def issue(file: Path, tenant: str, name: str, audiences: tuple[str, ...], ttl: int) -> None:
    """Print a signed token for one service account."""
    if not all(audiences):
        raise click.BadParameter("an audience may not be empty", param_hint="--audience")
    key = _read_key(file)
    now = int(time.time())
    claims = {
        "iss": account_issuer(tenant, name),
        "sub": name,
        "aud": audiences[0] if len(audiences) == 1 else list(audiences),
        "iat": now,
        "exp": now + ttl,
        "jti": uuid.uuid4().hex,
    }
    click.echo(jwt.encode(claims, key, algorithm=_algorithm(key, file), headers={"typ": "JWT"}))


def _read_key(file: Path) -> PrivateKey:
    """Raises: click.ClickException; its text names the file and never quotes it."""
    try:
        with file.open("rb") as opened:
            pem = opened.read(MAX_KEY_BYTES + 1)
    except OSError as error:
        raise click.ClickException(f"{file}: cannot be read: {error.strerror}") from error
    if len(pem) > MAX_KEY_BYTES:
        raise click.ClickException(f"{file}: larger than {MAX_KEY_BYTES} bytes, which no key is")
    if b"PRIVATE KEY-----" not in pem:
        if b"PUBLIC KEY" in pem or b"-----BEGIN CERTIFICATE" in pem:
            raise click.ClickException(f"{file}: a public key; a token is signed with the private key of the account")
        raise click.ClickException(f"{file}: not a private key in PEM form (-----BEGIN PRIVATE KEY-----)")
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError as error:  # cryptography's way to say that a password is needed
        raise click.ClickException(f"{file}: the key is encrypted; decrypt it first (openssl pkey)") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise click.ClickException(f"{file}: not a private key that can be read") from error
    if not isinstance(key, PrivateKey):
        raise click.ClickException(f"{file}: of another kind than RSA, P-256, P-384, P-521 or Ed25519")
    return key


def _algorithm(key: PrivateKey, file: Path) -> str:
    """The algorithm that Portero accepts for such a key; RSA as Dispatch had it."""
    public = signing_key(key.public_key())
    if public is None:
        raise click.ClickException(f"{file}: of another kind or size than RSA 2048 to 8192, P-256/384/521 or Ed25519")
    return "RS256" if "RS256" in public.algorithms else min(public.algorithms)
