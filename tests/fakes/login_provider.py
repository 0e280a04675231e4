"""
An honest OpenID Provider for logins in small, over a real socket: every endpoint that a client asks, and what it asked.

It gives out one code at a time and rotates refresh tokens; which person it speaks of is ``sub``. Its lies are in
``evil_login``.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qsl

from aiohttp import web

from policies.tables import ClientSpec, IntrospectionSpec, LoginSpec, ProviderSpec
from tests.fakes.identity import a_provider
from tests.fakes.provider import FakeProvider, Key, b64, compact

CLIENT_ID = "portero"
SECRET = "s3cr&t of=acme%"
"""Signs that have to be encoded before they go into a header."""
REDIRECT_URI = "http://acme.localhost/.portero/callback"
VERIFIER = "verifier-" + "v" * 40
CODE = "good-code"
NONCE = "nonce-of-this-login"
EVENT = "http://schemas.openid.net/event/backchannel-logout"


class Asked(NamedTuple):
    """One request that the provider got."""

    endpoint: str
    fields: Mapping[str, str]
    form: Mapping[str, str]


class LoginProvider(FakeProvider):
    """Attributes may be changed by a test at any time; see the bases for more."""

    def __init__(self, *keys: Key, **options: Any) -> None:
        super().__init__(*keys, **options)
        self.metadata: dict[str, Any] = {}
        """Members of the discovery document to add, to change, or (None) to leave out."""
        self.id_claims: dict[str, Any] = {}
        """Claims of ID tokens to add, to change, or (None) to leave out."""
        self.answer: dict[str, Any] = {}
        """Members of the token answer, likewise."""
        self.about: dict[str, Any] = {"sub": "ana", "groups": ["from-userinfo"]}
        """What userinfo says."""
        self.introspected: Any = {"active": True, "sub": "ana"}
        self.introspection_status = 200
        self.refusal: tuple[int, Any] | None = None
        """Status and body of the token endpoint instead of tokens."""
        self.refresh_token = "refresh-1"
        self.asked: list[Asked] = []

    def of(self, endpoint: str) -> list[Asked]:
        """What one endpoint was asked."""
        return [asked for asked in self.asked if asked.endpoint == endpoint]

    async def discovery(self, request: web.Request) -> web.StreamResponse:
        every = {"issuer": self.issuer, "jwks_uri": self.jwks_uri, **self.endpoints(), **self.metadata}
        return web.json_response({name: value for name, value in every.items() if value is not None})

    def endpoints(self) -> dict[str, str]:
        paths = ("authorization", "token", "userinfo", "introspection", "revocation", "end_session")
        return {f"{path}_endpoint": f"{self.issuer}/{path}" for path in paths}

    def build(self, app: web.Application) -> None:
        app.router.add_get("/userinfo", self._about)
        app.router.add_post("/{endpoint}", self._post)

    def id_token(self, access_token: str, nonce: str | None = NONCE) -> str:
        key = self.keys[-1]
        return compact({"typ": "JWT", "alg": key.alg, "kid": key.kid}, self.login_claims(access_token, nonce), key)

    def login_claims(self, access_token: str, nonce: str | None = NONCE) -> dict[str, Any]:
        claims = self.claims("ana", aud=CLIENT_ID, nonce=nonce, groups=["analysts"], at_hash=at_hash(access_token))
        claims |= self.id_claims
        return {name: value for name, value in claims.items() if value is not None}

    def logout_token(self, **claims: Any) -> str:
        key = self.keys[-1]
        return compact({"typ": "logout+jwt", "alg": key.alg, "kid": key.kid}, self.logout_claims(**claims), key)

    def logout_claims(self, **claims: Any) -> dict[str, Any]:
        every = self.claims("ana", aud=CLIENT_ID, ttl_s=120, sid="s1", jti="j1", events={EVENT: {}}) | claims
        return {name: value for name, value in every.items() if value is not None}

    async def _about(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(Asked("userinfo", dict(request.headers), {}))
        return await self.userinfo(request)

    async def userinfo(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self.about)

    async def _post(self, request: web.Request) -> web.StreamResponse:
        endpoint = request.match_info["endpoint"]
        form = dict(parse_qsl((await request.read()).decode(), keep_blank_values=True, strict_parsing=True))
        self.asked.append(Asked(endpoint, dict(request.headers), form))
        return await self.post(request, endpoint, form)

    async def post(self, request: web.Request, endpoint: str, form: Mapping[str, str]) -> web.StreamResponse:
        match endpoint:
            case "token":
                return self._grant(form)
            case "par":
                return web.json_response({"request_uri": "urn:example:1", "expires_in": 60}, status=201)
            case "introspection":
                return web.json_response(self.introspected, status=self.introspection_status)
            case "revocation":
                return web.Response()
        return web.Response(status=404)

    def _grant(self, form: Mapping[str, str]) -> web.Response:
        if self.refusal is not None:
            status, body = self.refusal
            return web.Response(status=status, text=json.dumps(body), content_type="application/json")
        is_login = form.get("grant_type") == "authorization_code"
        if is_login and (form.get("code"), form.get("code_verifier")) != (CODE, VERIFIER):
            return web.json_response({"error": "invalid_grant"}, status=400)
        if not is_login and form.get("refresh_token") != self.refresh_token:
            return web.json_response({"error": "invalid_grant"}, status=400)
        self.refresh_token = f"refresh-{len(self.asked) + 1}"
        access_token = self.mint(groups=["from-access-token"], scope="openid")
        tokens = {
            "access_token": access_token,
            "token_type": "Bearer",
            "expires_in": 300,
            "refresh_token": self.refresh_token,
            "id_token": self.id_token(access_token, NONCE if is_login else None),
        } | self.answer
        return web.json_response({name: value for name, value in tokens.items() if value is not None})


def at_hash(access_token: str) -> str:
    """Source: OpenID Connect Core section 3.1.3.6, for algorithms with SHA-256."""
    return b64(sha256(access_token.encode()).digest()[:16])


def s256(verifier: str) -> str:
    return urlsafe_b64encode(sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def a_client(auth: Any = "client_secret_basic", secret: str | None = "client") -> ClientSpec:
    return ClientSpec(CLIENT_ID, auth, None if auth == "none" else secret)


class HasIssuer(Protocol):
    @property
    def issuer(self) -> str: ...


def a_login(provider: HasIssuer, **changes: Any) -> ProviderSpec:
    """The tenant's entry for a provider at which people log in."""
    client, pushes = changes.pop("client", a_client()), changes.pop("pushes", "auto")
    spec = a_provider(
        provider.issuer,
        login=LoginSpec(client, ("openid", "profile"), "Acme staff", pushes),
        introspection=IntrospectionSpec(client),
    )
    return replace(spec, **changes)


def secrets_folder(root: Path, *, tenant: str = "acme", name: str = "client", content: bytes | None = None) -> Path:
    """``root`` with one secret in it, that only its owner may read."""
    folder = root / tenant
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(SECRET.encode() if content is None else content)
    path.chmod(0o600)
    return root
