"""
Canaries: secrets that can be told from all other text, and a provider that gives nothing else.

``Watch`` knows every secret that was made, given or shown during a test, in each form that it could be written in, and
finds them in any text.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote, quote_plus, unquote

from aiohttp import web

from tests.fakes.evil_login import EvilLogin

MIN_CHARS: Final = 12
"""Of what is worth watching: shorter text is found by chance."""


class Watch:
    """Secrets by what they are."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def add(self, kind: str, *values: str | bytes) -> None:
        """Watch for each value, as it is and encoded."""
        for value in values:
            for form in _forms(value):
                if len(form) >= MIN_CHARS:
                    self._known.setdefault(form, kind)

    def add_token(self, kind: str, token: str) -> None:
        """Of a signed token its claims and signature: its header is that of others too."""
        segments = token.split(".")
        self.add(kind, *(segments[1:] if len(segments) == 3 else [token]))

    def __len__(self) -> int:
        return len(self._known)

    @property
    def kinds(self) -> set[str]:
        return set(self._known.values())

    def find(self, text: str) -> str | None:
        """What stands in ``text`` that must not, with what is around it."""
        for form, kind in self._known.items():
            at = text.find(form)
            if at >= 0:
                return f"{kind}: ...{text[max(0, at - 200) : at + len(form) + 20]}..."
        return None


def _forms(value: str | bytes) -> Iterator[str]:
    if isinstance(value, bytes):
        yield repr(value)[2:-1]
        yield value.hex()
        yield base64.b64encode(value).decode().rstrip("=")
        yield base64.urlsafe_b64encode(value).decode().rstrip("=")
        return
    yield value
    yield quote(value, safe="")
    yield quote_plus(value)
    yield unquote(value)
    encoded = base64.b64encode(value.encode()).decode()
    yield encoded[: len(encoded) // 4 * 4 - 4]  # without what depends on what follows


class CanaryProvider(EvilLogin):
    """
    Every secret that it gives is watched. Besides the lies of its bases it answers with ``error`` and words of its own.

    Attributes:
        nonce: that the next ID token repeats.
        lifetime_s: of the next access token.
    """

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch
        self.client_secret = f"CANARY-client-secret-{secrets.token_hex(8)}"
        self.nonce = ""
        self.lifetime_s = 300
        self.statuses: dict[str, int] = {}
        """Endpoint -> status of its next answers, with the secrets that it was told for a body."""
        self.code = self.new_code()
        watch.add("client secret", self.client_secret)

    def new_code(self) -> str:
        self.code = f"CANARY-code-{secrets.token_hex(8)}"
        self.watch.add("code", self.code)
        return self.code

    def register(self, origins: Iterable[str], connect_to: tuple[str, int]) -> None: ...

    async def start(self) -> None:
        await self.__aenter__()

    async def stop(self) -> None:
        await self.__aexit__(None, None, None)

    async def post(self, request: web.Request, endpoint: str, form: Mapping[str, str]) -> web.StreamResponse:
        for name in ("code", "code_verifier", "refresh_token", "client_secret", "token", "client_assertion"):
            if name in form:
                self.watch.add(name, form[name])
        if endpoint in self.statuses:
            status = self.statuses[endpoint]
            words = {"error": "invalid_grant", "error_description": " ".join(form.values()), "echo": dict(form)}
            return web.json_response(words, status=status)
        return await super().post(request, endpoint, form)

    def login_claims(self, access_token: str, nonce: str | None = None) -> dict[str, Any]:
        claims = super().login_claims(access_token, self.nonce if nonce is not None else None)
        return claims | {"organization": ["acme"], "jti": f"CANARY-jti-{secrets.token_hex(8)}", "name": "Ana Alba"}

    def id_token(self, access_token: str, nonce: str | None = "login") -> str:
        token = super().id_token(access_token, nonce)
        self.watch.add_token("ID token", token)
        return token

    def _grant(self, form: Mapping[str, str]) -> web.Response:
        is_login = form.get("grant_type") == "authorization_code"
        access_token, refresh_token = (f"CANARY-{kind}-{secrets.token_hex(8)}" for kind in ("access", "refresh"))
        self.watch.add("access token", access_token)
        self.watch.add("refresh token", refresh_token)
        tokens = {
            "access_token": access_token,
            "token_type": "Bearer",
            "expires_in": self.lifetime_s,
            "refresh_token": refresh_token,
            "id_token": self.id_token(access_token, "login" if is_login else None),
        }
        return web.json_response(tokens | self.answer)
