"""
An honest OpenID Provider in small, over a real socket: discovery, JWKS, and tokens as real ones look.

It signs with its own few lines rather than with the library that Portero verifies with, so that a test can also say
what no library would write.
"""

from __future__ import annotations

import json
import time
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import Mapping
from functools import cache
from types import TracebackType
from typing import Any, Literal, Self

from aiohttp import web
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
Kind = Literal["RSA", "EC", "EC384", "EC521", "Ed25519"]
AUDIENCE = "survey"


def b64(data: bytes) -> str:
    """Base64url without padding."""
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _number(value: int, size: int | None = None) -> str:
    return b64(value.to_bytes(size or (value.bit_length() + 7) // 8))


@cache
def private_key(kind: Kind, number: int = 0, bits: int = 2048) -> Private:
    """Keys are slow to make, so the same kind and number is the same key for a whole run."""
    match kind:
        case "RSA":
            return rsa.generate_private_key(65537, bits)
        case "EC":
            return ec.generate_private_key(ec.SECP256R1())
        case "EC384":
            return ec.generate_private_key(ec.SECP384R1())
        case "EC521":
            return ec.generate_private_key(ec.SECP521R1())
        case "Ed25519":
            return ed25519.Ed25519PrivateKey.generate()


class Key:
    """One signing key as a provider holds it."""

    def __init__(self, kid: str | None, kind: Kind = "EC", number: int = 0, *, bits: int = 2048) -> None:
        self.kid = kid
        self.kind = kind
        self.private = private_key(kind, number, bits)
        self.alg = {"RSA": "RS256", "EC": "ES256", "EC384": "ES384", "EC521": "ES512", "Ed25519": "EdDSA"}[kind]

    def jwk(self, **members: Any) -> dict[str, Any]:
        """The public JWK; a member given as None is left out."""
        jwk: dict[str, Any] = {"kid": self.kid, "use": "sig", "alg": self.alg, **_public_members(self.private)}
        jwk.update(members)
        return {name: value for name, value in jwk.items() if value is not None}

    def sign(self, data: bytes, alg: str | None = None) -> bytes:
        """Source: RFC 7518 sections 3.3 to 3.5, RFC 8037 section 3.1."""
        alg = alg or self.alg
        digest = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}.get(alg[2:], hashes.SHA256())
        match self.private:
            case rsa.RSAPrivateKey():
                if alg.startswith("PS"):
                    pss = padding.PSS(padding.MGF1(digest), digest.digest_size)
                    return self.private.sign(data, pss, digest)
                return self.private.sign(data, padding.PKCS1v15(), digest)
            case ec.EllipticCurvePrivateKey():
                size = (self.private.key_size + 7) // 8
                r, s = decode_dss_signature(self.private.sign(data, ec.ECDSA(digest)))
                return r.to_bytes(size) + s.to_bytes(size)
            case ed25519.Ed25519PrivateKey():
                return self.private.sign(data)

    def pem(self) -> bytes:
        return self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def public_pem(self) -> bytes:
        return self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _public_members(private: Private) -> dict[str, Any]:
    match private:
        case rsa.RSAPrivateKey():
            numbers = private.public_key().public_numbers()
            return {"kty": "RSA", "n": _number(numbers.n), "e": _number(numbers.e)}
        case ec.EllipticCurvePrivateKey():
            point = private.public_key().public_numbers()
            size = (private.key_size + 7) // 8
            curve = {256: "P-256", 384: "P-384", 521: "P-521"}[private.key_size]
            return {"kty": "EC", "crv": curve, "x": _number(point.x, size), "y": _number(point.y, size)}
        case ed25519.Ed25519PrivateKey():
            raw = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
            return {"kty": "OKP", "crv": "Ed25519", "x": b64(raw)}


def compact(
    header: Mapping[str, Any] | bytes, claims: Mapping[str, Any] | bytes, key: Key, alg: str | None = None
) -> str:
    """A signed compact JWS; bytes are taken as they are, so that broken JSON can be signed too."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, claims)]
    signed = ".".join(map(b64, parts))
    return f"{signed}.{b64(key.sign(signed.encode(), alg))}"


class FakeProvider:
    """
    ``async with FakeProvider() as provider``: serves on a free port of 127.0.0.1 until the end of the block.

    Attributes that a test may change at any time: ``keys``, ``extra_jwks``, ``cache_control``, ``is_down``, ``now``.
    """

    def __init__(self, *keys: Key, audience: str = AUDIENCE) -> None:
        self.keys = list(keys) or [Key("k1")]
        self.audience = audience
        self.cache_control: str | None = None
        self.is_down = False
        self.now = time.time
        self.requests: Counter[str] = Counter()
        """How often ``discovery`` and ``jwks`` were asked for."""
        self.issuer = ""
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/.well-known/openid-configuration", self._discovery)
        app.router.add_get("/jwks", self._jwks)
        self.build(app)
        app.router.add_get("/{other:.*}", self.other)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.issuer = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    def build(self, app: web.Application) -> None:
        """Add endpoints of a provider that can do more."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def port(self) -> int:
        return int(self.issuer.rpartition(":")[2])

    @property
    def jwks_uri(self) -> str:
        return f"{self.issuer}/jwks"

    def claims(self, sub: str = "ana", *, ttl_s: float = 600, **claims: Any) -> dict[str, Any]:
        """Claims of an access token; a claim given as None is left out."""
        now = int(self.now())
        every = {"iss": self.issuer, "sub": sub, "aud": self.audience, "iat": now, "exp": now + ttl_s, **claims}
        return {name: value for name, value in every.items() if value is not None}

    def mint(self, sub: str = "ana", *, key: Key | None = None, ttl_s: float = 600, **claims: Any) -> str:
        """An access token of ``sub``, signed with ``key`` or the newest one."""
        key = key or self.keys[-1]
        header = {"typ": "at+jwt", "alg": key.alg, **({"kid": key.kid} if key.kid is not None else {})}
        return compact(header, self.claims(sub, ttl_s=ttl_s, **claims), key)

    async def _discovery(self, request: web.Request) -> web.StreamResponse:
        self.requests["discovery"] += 1
        return web.Response(status=503) if self.is_down else await self.discovery(request)

    async def _jwks(self, request: web.Request) -> web.StreamResponse:
        self.requests["jwks"] += 1
        return web.Response(status=503) if self.is_down else await self.jwks(request)

    async def discovery(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"issuer": self.issuer, "jwks_uri": self.jwks_uri})

    async def jwks(self, request: web.Request) -> web.StreamResponse:
        fields = {} if self.cache_control is None else {"Cache-Control": self.cache_control}
        return web.json_response({"keys": [key.jwk() for key in self.keys]}, headers=fields)

    async def other(self, request: web.Request) -> web.StreamResponse:
        self.requests["other"] += 1
        return web.Response(status=404)
