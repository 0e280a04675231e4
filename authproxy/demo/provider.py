"""
The demo's OpenID Provider: one issuer and one audience for both tenants, told apart by the claim ``organization``.

It speaks discovery and JWKS and signs access tokens (RFC 9068) with a key made at its start; it decides who people
are (``people.py``) and refuses to know what they may do. Nothing of it is secret after the demo's end: a token of an
earlier run fails on its signature.

Source: OpenID Connect Discovery 1.0 section 4; RFC 7517; RFC 9068 section 2.
"""

from __future__ import annotations

import secrets
import time
from typing import Any, Final

from aiohttp import web
from authlib.oidc.discovery import OpenIDProviderMetadata
from joserfc import jwt
from joserfc.jwk import ECKey

from authproxy.demo.people import find_person

AUDIENCE: Final = "survey"
CLIENT_ID: Final = "portero"
ALGORITHM: Final = "ES256"  # made in a millisecond, where an RSA key would take half a second of the demo's start
MAX_TTL_S: Final = 24 * 3600


class Provider:
    """
    The provider on a free port of loopback.

    ``start`` before anything else: the issuer is known only once the port is.
    """

    def __init__(self) -> None:
        self.issuer = ""
        self._key = ECKey.generate_key("P-256", {"use": "sig", "alg": ALGORITHM}, private=True, auto_kid=True)
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        application = web.Application()
        application.add_routes(
            [
                web.get("/.well-known/openid-configuration", self._discovery),
                web.get("/jwks", self._jwks),
            ]
        )
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.issuer = f"http://{host}:{port}"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def issue_token(self, tenant: str, sub: str, ttl_s: int = 3600) -> str:
        """
        An access token for one person of one tenant, good for ``ttl_s`` (1 second to a day, else ValueError).

        Raises: PersonUnknown.
        """
        if not 1 <= ttl_s <= MAX_TTL_S:
            raise ValueError(f"a token lives from 1 to {MAX_TTL_S} seconds, not {ttl_s}")
        person = find_person(tenant, sub)
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "sub": person.sub,
            "aud": AUDIENCE,
            "client_id": CLIENT_ID,
            "iat": now,
            "exp": now + ttl_s,
            "jti": secrets.token_urlsafe(12),
            "organization": person.tenant,
            "groups": list(person.groups),
            "name": person.name,
            "email": person.email,
            "email_verified": True,
        }
        return jwt.encode({"alg": ALGORITHM, "kid": self._key.kid, "typ": "at+jwt"}, claims, self._key)

    def metadata(self) -> dict[str, Any]:
        """The discovery document. The endpoints of the login join it with the login itself."""
        document = OpenIDProviderMetadata(
            issuer=self.issuer,
            jwks_uri=f"{self.issuer}/jwks",
            response_types_supported=["code"],
            subject_types_supported=["public"],
            id_token_signing_alg_values_supported=[ALGORITHM],
            claims_supported=["sub", "organization", "groups", "name", "email", "email_verified"],
        )
        return dict(document)

    async def _discovery(self, _: web.Request) -> web.Response:
        return web.json_response(self.metadata())

    async def _jwks(self, _: web.Request) -> web.Response:
        return web.json_response({"keys": [self._key.as_dict(private=False)]})
