"""
A whole Portero and a provider that others wrote, with a tenant for each way to be its client (``tests/worlds/oidc``).

One process of ``oidc-provider`` holds an issuer for each provider of the policies; both sides stay up for a whole
module of tests. Hosts are names below ``localhost``, so that browsers keep the cookies.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import tempfile
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from authproxy.app import App
from authproxy.settings import Settings
from tests.fakes.oidc_provider import PEOPLE, Issuer, IssuerSettings, OidcProvider, Ttl, running_oidc_provider
from tests.fakes.openfaas import FakeOpenFaas
from tests.fakes.provider import Key
from tests.fakes.relying_party import RelyingParty, Reply
from tests.fakes.scripted_browser import Page, ScriptedBrowser
from tests.fakes.world import BACKEND

SOURCE: Final = Path(__file__).parents[1] / "worlds" / "oidc"
SECRET: Final = "a-secret-of-logins"
LOGIN_KEY: Final = Key("login-key", "EC", 31)
SHORT_S: Final = 3
"""Life of the access tokens of ``staff`` and ``partner``; what userinfo says in ``globex`` lives for less."""
TENANT_OF: Final = {
    "acme": "acme",
    "globex": "globex",
    "staff": "initech",
    "partner": "initech",
    "umbrella": "umbrella",
}
"""Issuer -> the tenant whose provider it is."""
PROGRAM: Final = {"program": {"groups": ["ci"]}}
ISSUERS: Final = (
    IssuerSettings("acme", client_claims=PROGRAM, ends_tokens_with_session=False),
    IssuerSettings("globex", access_tokens="userinfo", algorithm="RS256", id_token_claims=False, par="require"),
    IssuerSettings("staff", algorithm="EdDSA", id_token_claims=False, ttl=Ttl(access_token=SHORT_S)),
    IssuerSettings("partner", ttl=Ttl(access_token=SHORT_S), ends_tokens_with_session=False),
    IssuerSettings("umbrella", client_claims=PROGRAM, mtls=True),
)
_PROOFS: Final[Mapping[str, Mapping[str, Any]]] = {
    "globex": {
        "token_endpoint_auth_method": "private_key_jwt",
        "token_endpoint_auth_signing_alg": "ES256",
        "jwks": {"keys": [LOGIN_KEY.jwk()]},
    },
    "staff": {"token_endpoint_auth_method": "client_secret_post", "client_secret": SECRET},
}


@dataclass(slots=True)
class OidcWorld:
    """What runs."""

    folder: Path
    provider: OidcProvider
    faas: FakeOpenFaas
    app: App
    addresses: Mapping[str, str]
    """What stands in the policies -> the address that it means."""

    def origin(self, tenant: str = "acme") -> str:
        """A tenant's address as browsers have it."""
        return f"http://{tenant}.localhost:{self.app.public_address[1]}"

    def issuer(self, name: str = "acme") -> Issuer:
        return self.provider[name]

    def browser(self) -> ScriptedBrowser:
        """A new one, with no cookies."""
        return ScriptedBrowser()

    def login_client(self, issuer: str) -> dict[str, Any]:
        """How Portero is registered there."""
        origin = self.origin(TENANT_OF[issuer])
        proof = _PROOFS.get(issuer, {"token_endpoint_auth_method": "client_secret_basic", "client_secret": SECRET})
        return {
            "client_id": "portero",
            "redirect_uris": [f"{origin}/.portero/callback"],
            "post_logout_redirect_uris": [f"{origin}/.portero/logout"],
            "backchannel_logout_uri": f"{origin}/.portero/backchannel-logout",
            "backchannel_logout_session_required": True,
            **proof,
        }

    def program_client(self, *, is_bound: bool) -> dict[str, Any]:
        """How programs are registered. ``is_bound``: their tokens are bound to a certificate."""
        return {
            "client_id": "program",
            "client_secret": SECRET,
            "grant_types": ["client_credentials"],
            "redirect_uris": [],
            "response_types": [],
            "tls_client_certificate_bound_access_tokens": is_bound,
        }

    async def register(self) -> None:
        """Make every client what it was at the beginning."""
        for name in TENANT_OF:
            program = self.program_client(is_bound=name == "umbrella")
            await self.issuer(name).set_clients(self.login_client(name), program)

    async def program(self, issuer: str = "acme") -> RelyingParty:
        """A program that gets tokens by client credentials."""
        made = RelyingParty(self.issuer(issuer).issuer, client_id="program", client_secret=SECRET)
        await made.discover()
        return made

    async def ask(self, authorization: str, path: str, *, tenant: str = "acme", **fields: str) -> Reply:
        """A program's request; underscores in the names of ``fields`` are hyphens."""
        sent = {name.replace("_", "-"): value for name, value in fields.items()}
        return await ask(self.app.public_address, tenant, path, {"Authorization": authorization, **sent})


async def ask(address: tuple[str, int], tenant: str, path: str, fields: Mapping[str, str], *, tls: Any = None) -> Reply:
    """One GET on a connection of its own; with ``tls`` over https, the name asked for being the tenant's."""
    host, port = address
    name = f"{tenant}.localhost"
    async with (
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
        session.get(
            f"{'https' if tls else 'http'}://{host}:{port}{path}",
            headers={"Host": f"{name}:{port}", **fields},
            allow_redirects=False,
            ssl=tls or True,
            server_hostname=name if tls else None,
        ) as answer,
    ):
        body = await answer.json()
        return Reply(answer.status, body, {key.lower(): value for key, value in answer.headers.items()})


def outcome(reply: Reply | Page) -> tuple[int, str | None]:
    """Status and reason."""
    reason = reply.field("X-Portero-Reason") if isinstance(reply, Page) else reply.fields.get("x-portero-reason")
    return reply.status, reason


async def whoami(world: OidcWorld, browser: ScriptedBrowser, tenant: str = "acme") -> Page:
    """As a script of the tenant's page asks."""
    page = Page(world.origin(tenant) + "/", 200, (), b"", ())
    return await browser.fetch(page, "/.portero/whoami")


def told(page: Page) -> dict[str, Any]:
    """Raises: AssertionError when nothing is told."""
    if page.status != 200:
        raise AssertionError(f"{page.status} of {page.url}: {page.text[:500]}")
    return dict(json.loads(page.text))


def people(**groups: list[str]) -> dict[str, dict[str, Any]]:
    """The usual accounts, with these groups for those who are named."""
    return {sub: {**claims, "groups": groups.get(sub, claims["groups"])} for sub, claims in PEOPLE.items()}


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate of its own authority, and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def escaped(self) -> str:
        """As nginx writes ``$ssl_client_escaped_cert``."""
        return quote(self.pem.decode("ascii"), safe="")

    @property
    def field(self) -> str:
        """As RFC 9440 section 2.2 has it."""
        return f":{b64encode(self.certificate.public_bytes(Encoding.DER)).decode('ascii')}:"

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Certificate and key as files."""
        folder.mkdir(parents=True, exist_ok=True)
        files = folder / "tls.crt", folder / "tls.key"
        files[1].touch(mode=0o600)
        files[0].write_bytes(self.pem)
        files[1].write_bytes(self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return files


def a_certificate(name: str) -> Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Certificate(certificate, key)


@contextlib.asynccontextmanager
async def running_portero(folder: Path, **settings: Any) -> AsyncIterator[App]:
    """One Portero on the policies and secrets below ``folder``."""
    usual = {
        "policies": folder / "policies",
        "secrets": folder / "secrets",
        "listen": ("127.0.0.1", 0),
        "admin": ("127.0.0.1", 0),
        "audit": "off",
        "allow_loopback_http": True,
        "drain": 1.0,
    }
    app = App(Settings.model_validate(usual | settings))
    await app.start()
    try:
        yield app
    finally:
        await app.stop(0.5)


@contextlib.asynccontextmanager
async def running_oidc_world() -> AsyncIterator[OidcWorld]:
    """Everything started, every client registered, until the block ends."""
    with tempfile.TemporaryDirectory(prefix="portero-oidc-") as name:
        folder = Path(name)
        async with running_oidc_provider(ISSUERS) as provider, FakeOpenFaas() as faas:
            addresses = {BACKEND: faas.url, **{f"https://{one}.id.test": provider[one].issuer for one in TENANT_OF}}
            write_policies(folder, addresses)
            for tenant in sorted(set(TENANT_OF.values())):
                _write_secret(folder / "secrets" / tenant / "login-client", SECRET.encode())
                for function in ("report", "job"):
                    faas.add(function, tenant)
            _write_secret(folder / "secrets" / "globex" / "login-key.pem", LOGIN_KEY.pem())
            async with running_portero(folder) as app:
                world = OidcWorld(folder, provider, faas, app, addresses)
                await world.register()
                yield world


def write_policies(folder: Path, words: Mapping[str, str]) -> None:
    """The world's policy files, with words of theirs replaced."""
    target = folder / "policies"
    target.mkdir(parents=True, exist_ok=True)
    for file in SOURCE.glob("*.yaml"):
        text = file.read_text(encoding="utf-8")
        for written, real in words.items():
            text = text.replace(written, real)
        (target / file.name).write_text(text, encoding="utf-8")


def _write_secret(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch(mode=0o600)
    file.write_bytes(content)
