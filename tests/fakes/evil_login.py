"""
A provider that lies on demand to whoever logs in there: attack families A4 (tokens), A5 (endpoints), A9 and A10.

``lie`` is what an endpoint does instead of answering, ``forge`` how a token is made. While both are None it is honest,
so that a test can first show what would have worked.
"""

from __future__ import annotations

import asyncio
import gzip
import hmac
import json
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from tests.fakes.login_provider import NONCE, LoginProvider
from tests.fakes.provider import Key, b64, compact

SILENT: frozenset[str] = frozenset({"hang", "drip"})
"""Lies that take all of the listener's patience."""
Members = dict[str, Any]
Forge = Callable[[Members, Members, Key], str]
OTHER_KEY = Key("k1", "EC", 77)
"""The attacker's, under the honest key's name."""


class EvilLogin(LoginProvider):
    lie: str | None = None
    at: str = "token"
    """The endpoint that ``lie`` is told at."""
    forge: Forge | None = None
    elsewhere: str = ""
    """Where redirects lead."""

    def is_silent(self, url: str) -> bool:
        """Whether the lie is that nothing whole comes from ``url``."""
        return self.lie in SILENT and url == f"{self.issuer}/{self.at}"

    def id_token(self, access_token: str, nonce: str | None = NONCE) -> str:
        if self.forge is None:
            return super().id_token(access_token, nonce)
        return self.forged(self.forge, self.login_claims(access_token, nonce), "JWT")

    def forged(self, forge: Forge, claims: Members, kind: str) -> str:
        key = self.keys[-1]
        return forge({"typ": kind, "alg": key.alg, "kid": key.kid}, claims, key)

    async def post(self, request: web.Request, endpoint: str, form: Mapping[str, str]) -> web.StreamResponse:
        honest = await super().post(request, endpoint, form)
        if self.lie is None or endpoint != self.at or not isinstance(honest, web.Response):
            return honest
        return await self._lying(request, honest)

    async def userinfo(self, request: web.Request) -> web.StreamResponse:
        honest = web.json_response(self.about)
        return honest if self.lie is None or self.at != "userinfo" else await self._lying(request, honest)

    async def _lying(self, request: web.Request, honest: web.Response) -> web.StreamResponse:
        """What an honest answer would have been, told as no honest provider does."""
        body = honest.body if isinstance(honest.body, bytes) else b""
        text = body.decode()
        match self.lie:
            case "redirect":
                raise web.HTTPFound(self.elsewhere)
            case "redirect-same-method":
                raise web.HTTPTemporaryRedirect(self.elsewhere)
            case "status-500":
                return web.Response(body=body, status=500, content_type="application/json")
            case "status-503-invalid-grant":
                return web.json_response({"error": "invalid_grant"}, status=503)
            case "status-429-invalid-grant":
                return web.json_response({"error": "invalid_grant"}, status=429)
            case "status-204":
                return web.Response(status=204)
            case "status-206":
                return web.Response(body=body, status=206, content_type="application/json")
            case "hang":
                await asyncio.sleep(60)
            case "drip" | "endless":
                return await self._stream(request, self.lie)
            case "gzip":
                fields = {"Content-Encoding": "gzip"}
                return web.Response(body=gzip.compress(body), headers=fields, content_type="application/json")
            case "cut":
                return await self._cut(request, body)
        return _lie(self.lie or "", text)

    async def _stream(self, request: web.Request, lie: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        while True:
            self.requests["pieces"] += 1
            await response.write(b" " * (65536 if lie == "endless" else 1))
            await asyncio.sleep(0 if lie == "endless" else 0.02)

    async def _cut(self, request: web.Request, body: bytes) -> web.StreamResponse:
        fields = {"Content-Length": str(len(body) + 1), "Content-Type": "application/json"}
        response = web.StreamResponse(headers=fields)
        await response.prepare(request)
        await response.write(body)
        if request.transport is not None:
            request.transport.abort()
        return response


def _lie(lie: str, text: str) -> web.Response:
    """The honest body, spoilt."""
    texts = {
        "array": f"[{text}]",
        "number": "7",
        "null": "null",
        "text": json.dumps(text),
        "nothing": "",
        "html": "<html>sign in</html>",
        "trailing": text + text,
        "bom": "\ufeff" + text,
        "nan": text[:-1] + ', "x": NaN}',
        "deep": text[:-1] + ', "x": ' + "[" * 40 + "]" * 40 + "}",
        "huge": text[:-1] + ', "x": "' + "x" * 300_000 + '"}',
        "duplicate": text[:-1] + ", " + text[1:],
    }
    kind = {"type-html": "text/html", "type-jwt": "application/jwt", "type-form": "application/x-www-form-urlencoded"}
    return web.Response(text=texts.get(lie, text), content_type=kind.get(lie, "application/json"))


ENDPOINT_LIES = (
    *("redirect", "redirect-same-method", "status-500", "status-503-invalid-grant", "status-429-invalid-grant"),
    *("status-204", "status-206", "hang", "drip", "endless", "gzip", "cut", "array", "number", "null", "text"),
    *("nothing", "html", "trailing", "bom", "nan", "deep", "huge", "duplicate", "type-html", "type-jwt", "type-form"),
)


def _signed(header: Members | bytes, claims: Members | bytes, key: Key) -> str:
    return compact(header, claims, key)


def _unsigned(header: Members, claims: Members, signature: bytes = b"") -> str:
    return ".".join((b64(json.dumps(header).encode()), b64(json.dumps(claims).encode()), b64(signature)))


def _by_hmac(secret: Callable[[Key], bytes]) -> Forge:
    def forge(header: Members, claims: Members, key: Key) -> str:
        signed = _unsigned(header | {"alg": "HS256"}, claims).rpartition(".")[0]
        return f"{signed}.{b64(hmac.digest(secret(key), signed.encode(), 'sha256'))}"

    return forge


def _header(**members: Any) -> Forge:
    return lambda header, claims, key: _signed(header | members, claims, key)


def _by_other_key(**members: Any) -> Forge:
    return lambda header, claims, key: _signed(header | members, claims, OTHER_KEY)


def _repeated(name: str, value: Any, *, in_header: bool) -> Forge:
    """A member twice, first as the attacker wants it and then as it is: parsers differ in which one wins."""

    def forge(header: Members, claims: Members, key: Key) -> str:
        changed = header if in_header else claims
        text = json.dumps(changed)
        spoilt = f"{{{json.dumps(name)}: {json.dumps(value)}, {text[1:]}".encode()
        return _signed(spoilt, claims, key) if in_header else _signed(header, spoilt, key)

    return forge


def _swapped(header: Members, claims: Members, key: Key) -> str:
    """An honest signature under other claims."""
    head, _, signature = _signed(header, claims, key).split(".")
    return f"{head}.{b64(json.dumps(claims | {'groups': ['admins']}).encode())}.{signature}"


def _cut_signature(header: Members, claims: Members, key: Key) -> str:
    return _signed(header, claims, key).rpartition(".")[0] + "."


def _no_kid_no_name(header: Members, claims: Members, key: Key) -> str:
    return _signed({"alg": header["alg"]}, claims, OTHER_KEY)


FORGERIES: Mapping[str, Forge] = {
    "alg-none": lambda header, claims, key: _unsigned(header | {"alg": "none"}, claims),
    "alg-None": lambda header, claims, key: _unsigned(header | {"alg": "None"}, claims),
    "alg-nOnE": lambda header, claims, key: _unsigned(header | {"alg": "nOnE"}, claims, b"x"),
    "alg-none-signed": _header(alg="none"),
    "alg-missing": lambda header, claims, key: _signed({"kid": header["kid"]}, claims, key),
    "alg-list": _header(alg=["ES256"]),
    "alg-of-another-key": _header(alg="RS256"),
    "alg-not-in-policy": _header(alg="ES384"),
    "hs256-public-pem": _by_hmac(lambda key: key.public_pem()),
    "hs256-public-jwk": _by_hmac(lambda key: json.dumps(key.jwk()).encode()),
    "hs256-client-secret": _by_hmac(lambda key: b"s3cr&t of=acme%"),
    "hs256-empty": _by_hmac(lambda key: b""),
    "jwk": _by_other_key(jwk=OTHER_KEY.jwk()),
    "jku": _by_other_key(jku="https://evil.example/jwks"),
    "x5u": _by_other_key(x5u="https://evil.example/cert"),
    "x5c": _by_other_key(x5c=["AAAA"]),
    "crit": _header(crit=["b64"]),
    "crit-empty": _header(crit=[]),
    "b64": _header(b64=False),
    "other-key-same-kid": _by_other_key(),
    "other-key-no-kid": _no_kid_no_name,
    "unknown-kid": _by_other_key(kid="k2"),
    "kid-path": _header(kid="../../../../dev/null"),
    "kid-sql": _header(kid="k1' or '1'='1"),
    "kid-long": _header(kid="k" * 300),
    "kid-unicode": _header(kid="\u217c1"),
    "kid-number": _header(kid=7),
    "typ-at+jwt": _header(typ="at+jwt"),
    "typ-dpop": _header(typ="dpop+jwt"),
    "typ-number": _header(typ=7),
    "typ-empty": _header(typ=""),
    "twice-alg": _repeated("alg", "none", in_header=True),
    "twice-typ": _repeated("typ", "logout+jwt", in_header=True),
    "twice-sub": _repeated("sub", "root", in_header=False),
    "twice-aud": _repeated("aud", "somebody", in_header=False),
    "claims-swapped": _swapped,
    "signature-cut": _cut_signature,
    "claims-array": lambda header, claims, key: _signed(header, json.dumps([claims]).encode(), key),
    "claims-nan": lambda header, claims, key: _signed(header, json.dumps(claims | {"x": float("nan")}).encode(), key),
    "exp-infinity": lambda header, claims, key: _signed(
        header, json.dumps(claims | {"exp": float("inf")}).encode(), key
    ),
    "exp-beyond-floats": lambda header, claims, key: _signed(
        header, json.dumps(claims | {"exp": 0}).replace('"exp": 0', '"exp": 1e999').encode(), key
    ),
    "claims-deep": lambda header, claims, key: _signed(header, claims | {"x": json.loads("[" * 30 + "]" * 30)}, key),
    "huge": lambda header, claims, key: _signed(header, claims | {"x": "x" * 17_000}, key),
    "five-parts": lambda header, claims, key: _signed(header, claims, key) + ".AAAA.AAAA",
    "padded": lambda header, claims, key: _signed(header, claims, key) + "=",
    "blank": lambda header, claims, key: _signed(header, claims, key) + "\n",
    "json-form": lambda header, claims, key: json.dumps({"payload": b64(json.dumps(claims).encode())}),
}
"""How a token can be made that is not the provider's word, or not readable in one way only."""
