"""
The demo's OpenID Provider: one issuer and one audience for both tenants, told apart by the claim ``organization``.

It speaks discovery, authorization code with PKCE, refresh with rotation, userinfo, revocation, RP-initiated and
back-channel logout; ``par`` it does not offer. This module is what machines ask of it; what browsers see stands in
``provider_login.py``, what is remembered in ``provider_grants.py``. It decides who people are (``people.py``) and
refuses to know what they may do. Nothing of it is secret after the demo's end: a token of an earlier run fails on its
signature.

Source: OpenID Connect Discovery 1.0 section 4; OpenID Connect Core sections 3.1.3, 5.3 and 12; RFC 6749 sections 5 and
6; RFC 7009; RFC 7517.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

from aiohttp import web
from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749 import InvalidRequestError, UnsupportedGrantTypeError
from authlib.oidc.discovery import OpenIDProviderMetadata

from authproxy.demo.people import find_by_sub, find_person
from authproxy.demo.provider_client import Client, authenticate
from authproxy.demo.provider_grants import Grant, Grants
from authproxy.demo.provider_login import LoginPages, read_words
from authproxy.demo.provider_logout import Address, BackChannel
from authproxy.demo.provider_tokens import ACCESS_JWT, ALGORITHM, AUDIENCE, Signer

CLIENT_ID: Final = "portero"
MAX_TTL_S: Final = 24 * 3600
LOGIN_TTL_S: Final = 300
"""Of an access token that a login or a refresh gives."""
CALLBACK_PATH: Final = "/.portero/callback"
LOGOUT_PATH: Final = "/.portero/logout"
BACK_CHANNEL_PATH: Final = "/.portero/backchannel-logout"


class Provider:
    """
    The provider on a free port of loopback.

    ``start`` before anything else: the issuer is known only once the port is. ``register`` before the first login.

    Attributes:
        client_secret: of the client ``portero``, for the policies' secrets.
        login_ttl_s: whole seconds; may be changed while it runs.
    """

    def __init__(self) -> None:
        self.client_secret = secrets.token_urlsafe(32)
        self.login_ttl_s = LOGIN_TTL_S
        self._signer = Signer(CLIENT_ID)
        self._grants = Grants()
        self._back_channel = BackChannel(self._signer)
        self._pages = LoginPages(Client(CLIENT_ID, self.client_secret), self._grants, self._signer, self._back_channel)
        self._refreshes = 0
        self._runner: web.AppRunner | None = None

    @property
    def issuer(self) -> str:
        return self._signer.issuer

    @property
    def refreshes(self) -> int:
        """How many refresh tokens were redeemed."""
        return self._refreshes

    def register(self, origins: Iterable[str], connect_to: Address) -> None:
        """
        Where Portero serves the tenants: logins lead back there and nowhere else.

        Args:
            origins: such as ``http://acme.localhost:8088``.
            connect_to: where all of them are reached, for the back channel.
        """
        every = list(origins)
        self._back_channel.connect_to = connect_to
        self._pages.client = replace(
            self._pages.client,
            redirect_uris=frozenset(origin + CALLBACK_PATH for origin in every),
            post_logout_redirect_uris=frozenset(origin + LOGOUT_PATH for origin in every),
            logout_uris={origin + CALLBACK_PATH: origin + BACK_CHANNEL_PATH for origin in every},
        )

    async def start(self) -> None:
        application = web.Application(client_max_size=64 * 1024)
        application.add_routes(
            [
                web.get("/.well-known/openid-configuration", self._discovery),
                web.get("/jwks", self._jwks),
                web.post("/token", self._token),
                web.get("/userinfo", self._userinfo),
                web.post("/userinfo", self._userinfo),
                web.post("/revoke", self._revoke),
                *self._pages.routes(),
            ]
        )
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self._signer.issuer = f"http://{host}:{port}"

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
        return self._signer.access_token(find_person(tenant, sub), ttl_s)

    async def end_sessions(self, sub: str) -> dict[str, int | None]:
        """Log a person out everywhere, as an operator would; what the back channel answered, by address."""
        answers: dict[str, int | None] = {}
        for session in self._grants.sessions_of(sub):
            self._grants.end(session)
            answers |= await self._back_channel.tell(self._pages.client, session)
        return answers

    def metadata(self) -> dict[str, Any]:
        """The discovery document."""
        document = OpenIDProviderMetadata(
            issuer=self.issuer,
            authorization_endpoint=f"{self.issuer}/authorize",
            token_endpoint=f"{self.issuer}/token",
            userinfo_endpoint=f"{self.issuer}/userinfo",
            revocation_endpoint=f"{self.issuer}/revoke",
            end_session_endpoint=f"{self.issuer}/end-session",
            jwks_uri=f"{self.issuer}/jwks",
            scopes_supported=["openid"],
            response_types_supported=["code"],
            response_modes_supported=["query"],
            grant_types_supported=["authorization_code", "refresh_token"],
            code_challenge_methods_supported=["S256"],
            token_endpoint_auth_methods_supported=["client_secret_basic", "client_secret_post"],
            subject_types_supported=["public"],
            id_token_signing_alg_values_supported=[ALGORITHM],
            claims_supported=["sub", "organization", "groups", "name", "email", "email_verified"],
            authorization_response_iss_parameter_supported=True,
            backchannel_logout_supported=True,
            backchannel_logout_session_supported=True,
            request_uri_parameter_supported=False,
        )
        return dict(document)

    async def _discovery(self, _: web.Request) -> web.Response:
        return web.json_response(self.metadata())

    async def _jwks(self, _: web.Request) -> web.Response:
        return web.json_response(self._signer.jwks())

    async def _token(self, request: web.Request) -> web.Response:
        try:
            words = await read_words(request)
            authenticate(self._pages.client, request.headers.get("Authorization"), words)
            match words.get("grant_type"):
                case "authorization_code":
                    given = self._grants.redeem(*_wanted(words, "code", "redirect_uri", "code_verifier"))
                case "refresh_token":
                    given = self._grants.refresh(*_wanted(words, "refresh_token"))
                    self._refreshes += 1
                case None:
                    raise InvalidRequestError("grant_type is missing")
                case _:
                    raise UnsupportedGrantTypeError("this")
        except OAuth2Error as error:
            return _refusal(error)
        return self._tokens(*given)

    def _tokens(self, grant: Grant, refresh_token: str) -> web.Response:
        access_token = self._signer.access_token(grant.session.person, self.login_ttl_s, grant.session)
        answer = {
            "access_token": access_token,
            "token_type": "Bearer",
            "expires_in": self.login_ttl_s,
            "refresh_token": refresh_token,
            "id_token": self._signer.id_token(grant, access_token),
            "scope": grant.request.scope,
        }
        return web.json_response(answer, headers={"Cache-Control": "no-store"})

    async def _userinfo(self, request: web.Request) -> web.Response:
        """Source: OpenID Connect Core section 5.3; RFC 6750 section 2.1 (no token in a form or a query)."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        claims = self._signer.read(token, ACCESS_JWT, AUDIENCE) if scheme.lower() == "bearer" else None
        person = None if claims is None else find_by_sub(str(claims.get("sub")))
        if person is None:
            return web.json_response(
                {"error": "invalid_token"}, status=401, headers={"WWW-Authenticate": 'Bearer error="invalid_token"'}
            )
        return web.json_response(person.claims(), headers={"Cache-Control": "no-store"})

    async def _revoke(self, request: web.Request) -> web.Response:
        """Source: RFC 7009 sections 2.1 and 2.2: access tokens are not taken back, they live for minutes."""
        try:
            words = await read_words(request)
            authenticate(self._pages.client, request.headers.get("Authorization"), words)
            self._grants.revoke(*_wanted(words, "token"))
        except OAuth2Error as error:
            return _refusal(error)
        return web.Response()


def _wanted(words: dict[str, str], *names: str) -> tuple[str, ...]:
    """Raises: InvalidRequestError when one is missing."""
    for name in names:
        if name not in words:
            raise InvalidRequestError(f"{name} is missing")
    return tuple(words[name] for name in names)


def _refusal(error: OAuth2Error) -> web.Response:
    """Source: RFC 6749 section 5.2."""
    fields = dict(error.get_headers()) | {"Cache-Control": "no-store"}
    fields.pop("Content-Type", None)
    return web.json_response(dict(error.get_body()), status=error.status_code, headers=fields)
