"""
A provider that lies on demand: each ``lie`` is one thing that a hostile or broken provider does (attack family A5).

While ``lie`` is None it is honest, so that a test can first show what would have worked.
"""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

from aiohttp import web

from tests.fakes.provider import FakeProvider, Key, b64

NEVER_LEARNED = Key("evil", "EC", 66)
"""The key that each lie tries to make Portero believe in."""


class EvilProvider(FakeProvider):
    """An honest provider until ``lie`` is set; see ``LIES`` for what it can be."""

    lie: str | None = None
    elsewhere: str = ""
    """Where redirects and foreign jwks_uri lead."""

    def is_silent(self, url: str) -> bool:
        """Whether the lie is that nothing whole comes from ``url``."""
        return self.lie in {"hang", "drip"} and url == self.jwks_uri

    async def discovery(self, request: web.Request) -> web.StreamResponse:
        honest = {"issuer": self.issuer, "jwks_uri": self.jwks_uri}
        match self.lie:
            case "discovery-other-issuer":
                return web.json_response(honest | {"issuer": self.issuer + "/"})
            case "discovery-no-issuer":
                return web.json_response({"jwks_uri": self.jwks_uri})
            case "discovery-redirect":
                raise web.HTTPFound(self.elsewhere)
            case "discovery-jwks-elsewhere":
                return web.json_response(honest | {"jwks_uri": self.elsewhere})
            case "discovery-jwks-file":
                return web.json_response(honest | {"jwks_uri": "file:///etc/passwd"})
            case "discovery-jwks-userinfo":
                return web.json_response(honest | {"jwks_uri": self.jwks_uri.replace("://", "://127.0.0.1@")})
            case "discovery-jwks-number":
                return web.json_response(honest | {"jwks_uri": 7})
            case "discovery-jwks-garbage":
                return web.json_response(honest | {"jwks_uri": "http://[::1"})
            case "discovery-duplicate":
                members = f'"issuer": {json.dumps(self.issuer)}'
                return _json(f'{{{members}, {members}, "jwks_uri": {json.dumps(self.jwks_uri)}}}')
            case _:
                return web.json_response(honest)

    async def jwks(self, request: web.Request) -> web.StreamResponse:
        evil = NEVER_LEARNED.jwk()
        match self.lie:
            case "redirect":
                raise web.HTTPFound(self.elsewhere)
            case "redirect-permanent":
                raise web.HTTPPermanentRedirect(self.elsewhere)
            case "status-500":
                return web.json_response({"keys": [evil]}, status=500)
            case "status-206":
                return web.json_response({"keys": [evil]}, status=206)
            case "hang":
                await asyncio.sleep(60)
            case "drip":
                return await self._drip(request)
            case "endless":
                return await self._endless(request)
            case "gzip":
                body = gzip.compress(json.dumps({"keys": [evil]}).encode())
                return web.Response(body=body, headers={"Content-Encoding": "gzip"}, content_type="application/json")
            case "cut":
                return await self._cut(request)
        text = _lie(self.lie, evil, self.keys)
        return await super().jwks(request) if text is None else _json(text)

    async def _drip(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.02)

    async def _endless(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            self.requests["pieces"] += 1
            await response.write(b" " * 65536)

    async def _cut(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b'{"keys": [')
        if request.transport is not None:
            request.transport.abort()
        return response


def _json(text: str) -> web.Response:
    return web.Response(text=text, content_type="application/json")


def _lie(lie: str | None, evil: dict[str, Any], keys: list[Key]) -> str | None:
    """The body of a JWKS that must not be taken; None for an honest one."""
    good = [key.jwk() for key in keys]
    bodies: dict[str, Any] = {
        "empty-set": {"keys": []},
        "no-keys": {},
        "keys-object": {"keys": {"evil": evil}},
        "keys-null": {"keys": None},
        "keys-strings": {"keys": ["evil"]},
        "array": [evil],
        "number": 7,
        "many-keys": {"keys": [evil | {"kid": f"evil{number}"} for number in range(65)] + [evil]},
        "oct-only": {"keys": [{"kty": "oct", "kid": "evil", "k": b64(b"x" * 32), "alg": "HS256"}]},
        "private-key": {"keys": [*good, evil | {"d": b64(b"\1" * 32)}]},
        "private-rsa": {"keys": [evil, {"kty": "RSA", "n": "AQAB", "e": "AQAB", "p": "AQAB", "kid": "other"}]},
        "kid-collision": {"keys": [evil, Key("evil", "EC", 67).jwk()]},
        "kid-number": {"keys": [evil | {"kid": 7}]},
        "kid-list": {"keys": [evil | {"kid": ["evil"]}]},
        "use-enc": {"keys": [evil | {"use": "enc"}]},
        "key-ops-sign": {"keys": [evil | {"key_ops": ["sign"]}]},
        "key-ops-text": {"keys": [evil | {"key_ops": "verify"}]},
        "alg-of-other-kind": {"keys": [evil | {"alg": "RS256"}]},
        "alg-list": {"keys": [evil | {"alg": ["ES256"]}]},
        "alg-hs": {"keys": [evil | {"alg": "HS256"}]},
        "off-curve": {"keys": [evil | {"x": evil["y"]}]},
        "other-curve": {"keys": [evil | {"crv": "secp256k1"}]},
        "curve-list": {"keys": [evil | {"crv": ["P-256"]}]},
        "kty-list": {"keys": [evil | {"kty": ["EC"]}]},
        "bad-base64": {"keys": [evil | {"x": "!!" + evil["x"]}]},
        "x-number": {"keys": [evil | {"x": 7}]},
    }
    texts = {
        "not-json": "<html>sign in</html>",
        "nothing": "",
        "duplicate-member": f'{{"keys": [], "keys": [{json.dumps(evil)}]}}',
        "deep": '{"keys": ' + "[" * 50_000 + "]" * 50_000 + "}",
        "deep-twenty": '{"keys": [' + json.dumps(evil) + '], "x": ' + "[" * 20 + "]" * 20 + "}",
        "nan": f'{{"keys": [{json.dumps(evil)}], "x": NaN}}',
        "huge-number": f'{{"keys": [{json.dumps(evil)}], "x": {"9" * 5000}}}',
        "100000-keys": '{"keys": [' + ",".join(['{"kty": "EC"}'] * 100_000) + "]}",
    }
    if lie in bodies:
        return json.dumps(bodies[lie])
    return texts.get(lie or "")


LIES = (
    *("redirect", "redirect-permanent", "status-500", "status-206", "hang", "drip", "endless", "gzip", "cut"),
    *("empty-set", "no-keys", "keys-object", "keys-null", "keys-strings", "array", "number", "many-keys", "oct-only"),
    *("private-key", "private-rsa", "kid-collision", "kid-number", "kid-list", "use-enc", "key-ops-sign"),
    *("key-ops-text", "alg-of-other-kind", "alg-list", "alg-hs", "off-curve", "other-curve", "curve-list"),
    *("kty-list", "bad-base64", "x-number", "not-json", "nothing", "duplicate-member", "deep", "deep-twenty", "nan"),
    *("huge-number", "100000-keys"),
)
DISCOVERY_LIES = (
    *("discovery-other-issuer", "discovery-no-issuer", "discovery-redirect", "discovery-jwks-elsewhere"),
    *("discovery-jwks-file", "discovery-jwks-userinfo", "discovery-jwks-number", "discovery-jwks-garbage"),
    "discovery-duplicate",
)
