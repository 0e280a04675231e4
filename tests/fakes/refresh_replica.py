"""
One replica in a process of its own, as far as refreshing goes.

``python -m tests.fakes.refresh_replica REDIS_URL TOKEN_URL``

Reads lines from stdin, ``<session id> <number of requests>``, and refreshes that session so often at once; answers each
with one line of JSON: how many requests came to which version, and how many to which exception. ``-`` as Redis: none.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter

import aiohttp

from authproxy.identity.sessions.refresh import Refresher
from authproxy.identity.sessions.session import GrantInvalid, Session, Tokens
from authproxy.identity.shared.state_memory import MemoryState
from authproxy.identity.shared.state_redis import RedisState
from policies.errors import ProviderUnavailable
from policies.tables import ProviderSpec, TenantTable
from tests.fakes.refresh import PROVIDER, stale_session, tenant_of, tokens_for


class HttpClient:
    """The least that is a ``RefreshClient``."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http = http
        self._url = url

    async def refresh(self, tenant: TenantTable, provider: ProviderSpec, session: Session, now: float) -> Tokens:
        try:
            async with self._http.post(self._url, data={"refresh_token": session.refresh_token}) as response:
                answer = await response.json()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ProviderUnavailable("no answer") from error
        if answer.get("error") == "invalid_grant":
            raise GrantInvalid
        return tokens_for(session, answer["refresh_token"])


async def storm(refresher: Refresher, session_id: str, requests: int) -> dict[str, int]:
    """What each of so many requests came to."""
    session, tenant = stale_session(session_id), tenant_of()
    tasks = [refresher.refresh(tenant, PROVIDER, session, time.time()) for _ in range(requests)]
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    return Counter(
        type(end).__name__ if isinstance(end, BaseException) else f"{end.version} {end.refresh_token}" for end in ends
    )


async def main(redis_url: str, token_url: str) -> None:
    store = RedisState(redis_url) if redis_url != "-" else MemoryState()
    loop = asyncio.get_running_loop()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as http:
        refresher = Refresher(store, HttpClient(http, token_url))
        print("ready", flush=True)  # noqa: T201  # the test waits for it
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            session_id, requests = line.split()
            print(json.dumps(await storm(refresher, session_id, int(requests))), flush=True)  # noqa: T201  # its answer
        await refresher.close()
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
