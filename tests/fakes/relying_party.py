"""A plain OpenID Connect client for tests of the providers themselves: code with PKCE, PAR, client secrets, DPoP."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import aiohttp

from tests.fakes.provider import Key, b64, compact
from tests.fakes.scripted_browser import Page, ScriptedBrowser


@dataclass(frozen=True, slots=True)
class Pending:
    """One login that has begun."""

    url: str
    state: str
    nonce: str
    code_verifier: str


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: dict[str, Any]
    fields: dict[str, str]


@dataclass(slots=True)
class RelyingParty:
    """``redirect_uri`` leads nowhere: a browser is stopped there and its query read (``query_at_callback``)."""

    issuer: str
    client_id: str = "portero"
    client_secret: str = "a-secret"
    redirect_uri: str = "http://acme.localhost:1/callback"
    metadata: dict[str, Any] = field(default_factory=dict)

    async def discover(self) -> dict[str, Any]:
        self.metadata = (await self.ask(f"{self.issuer}/.well-known/openid-configuration", method="GET")).body
        return self.metadata

    async def begin(self, more: Mapping[str, str] | None = None, *, by_par: bool = False) -> Pending:
        """``more`` replaces words of the request, empty ones go. Raises: AssertionError when PAR is refused."""
        state, nonce, code_verifier = (secrets.token_urlsafe(32) for _ in range(3))
        words = {
            "client_id": self.client_id,
            "response_type": "code",
            "redirect_uri": self.redirect_uri,
            "scope": "openid",
            "state": state,
            "nonce": nonce,
            "code_challenge": b64(hashlib.sha256(code_verifier.encode()).digest()),
            "code_challenge_method": "S256",
            **(more or {}),
        }
        if by_par:
            pushed = await self.ask(self.metadata["pushed_authorization_request_endpoint"], words)
            if pushed.status != 201:
                raise AssertionError(f"PAR was refused: {pushed}")
            words = {"client_id": self.client_id, "request_uri": pushed.body["request_uri"]}
        url = f"{self.metadata['authorization_endpoint']}?{urlencode({k: v for k, v in words.items() if v})}"
        return Pending(url, state, nonce, code_verifier)

    def query_at_callback(self, page: Page) -> dict[str, str]:
        """What stands in the address that a browser was sent to. Raises: AssertionError when it was sent elsewhere."""
        location = page.location or ""
        if not location.startswith(self.redirect_uri):
            raise AssertionError(f"not sent back, but {page.status} at {page.url}: {page.text[:500]}")
        return dict(parse_qsl(urlsplit(location).query))

    async def log_in(self, browser: ScriptedBrowser, pending: Pending, form: dict[str, str]) -> dict[str, str]:
        """Go to the provider, send its form if it shows one, and come back: the query at the callback."""
        page = await browser.go(pending.url, stop_at=self.redirect_uri)
        if page.location is None:
            page = await browser.submit(page, form, stop_at=self.redirect_uri)
        return self.query_at_callback(page)

    async def redeem(self, code: str, code_verifier: str, **more: str) -> Reply:
        words = {"code": code, "code_verifier": code_verifier, "redirect_uri": self.redirect_uri, **more}
        return await self.token("authorization_code", **words)

    async def token(self, grant_type: str, *, dpop: str | None = None, **words: str) -> Reply:
        fields = {"DPoP": dpop} if dpop else {}
        return await self.ask(self.metadata["token_endpoint"], {"grant_type": grant_type, **words}, fields=fields)

    async def ask(
        self,
        url: str,
        words: dict[str, str] | None = None,
        *,
        method: str = "POST",
        fields: dict[str, str] | None = None,
        bearer: str | None = None,
        is_client: bool = True,
    ) -> Reply:
        """One call; by POST with the client's name and secret, unless a bearer token is given or not ``is_client``."""
        more = dict(fields or {})
        if bearer is not None:
            more["Authorization"] = f"Bearer {bearer}"
        elif method == "POST" and is_client:
            more["Authorization"] = aiohttp.encode_basic_auth(self.client_id, self.client_secret)
        timeout = aiohttp.ClientTimeout(total=15)
        async with (
            aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session,
            session.request(method, url, data=words, headers=more, allow_redirects=False) as answer,
        ):
            is_json = "json" in answer.headers.get("Content-Type", "")
            body = await answer.json() if is_json else {"text": await answer.text()}
            return Reply(answer.status, body, {name.lower(): value for name, value in answer.headers.items()})


def dpop_proof(key: Key, method: str, url: str, *, nonce: str | None = None, access_token: str | None = None) -> str:
    """A proof as RFC 9449 section 4.2 has it."""
    public = {name: value for name, value in key.jwk().items() if name in {"kty", "crv", "x", "y"}}
    claims: dict[str, Any] = {"jti": secrets.token_urlsafe(16), "htm": method, "htu": url, "iat": int(time.time())}
    if nonce is not None:
        claims["nonce"] = nonce
    if access_token is not None:
        claims["ath"] = b64(hashlib.sha256(access_token.encode()).digest())
    return compact({"typ": "dpop+jwt", "alg": key.alg, "jwk": public}, claims, key)
