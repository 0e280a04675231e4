"""
Telling the client that somebody has logged out at the demo's provider: the back channel.

It decides whom to tell and how long to wait. A call goes to the address that Portero listens on, with the tenant's
host, because nothing of the demo may depend on ``*.localhost`` being resolved. Refuses to know why a session ended.

Source: OpenID Connect Back-Channel Logout 1.0 sections 2.5 and 2.8.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from authproxy.demo.provider_client import Client
from authproxy.demo.provider_grants import ProviderSession
from authproxy.demo.provider_tokens import Signer

TIMEOUT_S: Final = 3.0
"""The person waits for it; a client that is down is told in the log and not again."""

Address = tuple[str, int]
log = logging.getLogger(__name__)


class BackChannel:
    """``connect_to`` is where all of the client's origins are reached."""

    def __init__(self, signer: Signer) -> None:
        self.connect_to: Address | None = None
        self._signer = signer

    async def tell(self, client: Client, session: ProviderSession) -> dict[str, int | None]:
        """One logout token to each origin that the session was used at; their statuses, None where none came."""
        uris = sorted({client.logout_uris[uri] for uri in session.redirect_uris if uri in client.logout_uris})
        statuses = await asyncio.gather(*(self._send(uri, self._signer.logout_token(session)) for uri in uris))
        return dict(zip(uris, statuses, strict=True))

    async def _send(self, uri: str, logout_token: str) -> int | None:
        target = urlsplit(uri)
        host, port = self.connect_to or (target.hostname or "", target.port or 80)
        host = f"[{host}]" if ":" in host else host
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session,
                session.post(
                    URL(f"http://{host}:{port}{target.path}", encoded=True),
                    data={"logout_token": logout_token},
                    headers={"Host": target.netloc},
                    allow_redirects=False,
                ) as answer,
            ):
                status = answer.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            log.warning("the client was not told of a logout: %s", error.__class__.__name__, extra={"uri": uri})
            return None
        if status not in {200, 204}:
            log.warning("the client did not take a logout", extra={"uri": uri, "status": status})
        return status
