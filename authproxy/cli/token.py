"""
``portero token``: a service account's own token, made with its own key (nothing is asked and nothing stored), and API
keys, whose digests stand in a file.

It decides nothing about access: a token is worth what the tenant's policy and the account's public key make of it, an
API key what the policy's entry of its name does.
"""

from __future__ import annotations

import re
import time
import uuid
from pathlib import Path
from typing import Final

import click
import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from authproxy.cli import api_keys
from authproxy.cli.durations import Duration
from authproxy.identity.providers.keys import signing_key
from authproxy.identity.tokens.api_key_file import MAX_NOTE_CHARS
from policies.claims import MAX_ACCOUNT_LIFETIME_S, account_issuer

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

MAX_KEY_BYTES: Final = 64 * 1024
_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?")

EXAMPLE: Final = """\b
Example: portero token issue --account survey-ci.key.pem --tenant acme \\
           --name survey-ci --audience survey
         portero token issue --api-key --tenant acme --name reporting \\
           --keys secrets/acme/api-keys --note "monthly export\""""
REVOKE_EXAMPLE: Final = """\b
Example: portero token revoke --keys secrets/acme/api-keys k3v5x2m7q4ab
         portero token revoke --keys secrets/acme/api-keys --name reporting"""

_KEYS: Final = click.option(
    "--keys",
    required=True,
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path),
    help="The tenant's file of API keys: SECRETS/TENANT/api-keys.",
)


def _name(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if _NAME.fullmatch(value) is None:
        raise click.BadParameter(f"{value!r} is not a name: letters, digits and . _ - inside", ctx, param)
    return value


@click.group(epilog=EXAMPLE)
def token() -> None:
    """Tokens of service accounts, and API keys."""


@token.command(epilog=EXAMPLE)
@click.option(
    "--account",
    "file",
    metavar="FILE.pem",
    type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path),
    help="The account's private key (PEM, not encrypted). Its public key is what the policy names.",
)
@click.option("--api-key", "is_api_key", is_flag=True, help="Make an API key instead and keep its digest in --keys.")
@click.option("--tenant", required=True, callback=_name, help="The tenant whose caller it is.")
@click.option("--name", required=True, callback=_name, help="The caller's name in the tenant's policy.")
@click.option("--audience", "audiences", multiple=True, help="Who an account's token is for; may be repeated.")
@click.option(
    "--ttl",
    type=Duration(int(MAX_ACCOUNT_LIFETIME_S), ", which no policy accepts"),
    default="10m",
    show_default=True,
    help="How long an account's token is good: 90s, 10m, 1h.",
)
@click.option(
    "--keys",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The tenant's file of API keys: SECRETS/TENANT/api-keys; made when there is none.",
)
@click.option("--note", default="", help="What an API key is for; shown by: portero token list.")
def issue(
    file: Path | None,
    is_api_key: bool,
    tenant: str,
    name: str,
    audiences: tuple[str, ...],
    ttl: int,
    keys: Path | None,
    note: str,
) -> None:
    """Print a signed token for one service account, or an API key."""
    if is_api_key == (file is not None):
        raise click.UsageError("give one of --account FILE.pem and --api-key")
    if is_api_key:
        if keys is None:
            raise click.UsageError("an API key needs --keys FILE, where its digest is kept")
        if audiences:
            raise click.UsageError("--audience is of an account's token; an API key is for the whole tenant")
        if len(note) > MAX_NOTE_CHARS or not note.isprintable():
            raise click.BadParameter(f"one line of at most {MAX_NOTE_CHARS} characters", param_hint="--note")
        api_keys.issue(keys, tenant, name, note)
        return
    if keys is not None or note:
        raise click.UsageError("--keys and --note are of an API key: give --api-key")
    if file is not None:
        _issue_account(file, tenant, name, audiences, ttl)


@token.command("list", epilog="Example: portero token list --keys secrets/acme/api-keys")
@_KEYS
def list_(keys: Path) -> None:
    """Show a tenant's API keys: id, name, when they were made, note."""
    api_keys.show(keys)


@token.command(epilog=REVOKE_EXAMPLE)
@_KEYS
@click.argument("key_id", metavar="[ID]", required=False)
@click.option("--name", help="Revoke every key of this name.")
def revoke(keys: Path, key_id: str | None, name: str | None) -> None:
    """Revoke one API key by its id, or every key of a name."""
    if (key_id is None) == (name is None):
        raise click.UsageError("give one of ID and --name")
    api_keys.revoke(keys, key_id, name)


def _issue_account(file: Path, tenant: str, name: str, audiences: tuple[str, ...], ttl: int) -> None:
    if not audiences:
        raise click.UsageError("an account's token needs --audience: who it is for")
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
