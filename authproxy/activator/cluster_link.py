"""
A ``RedisLink`` that also says what the messages of a channel say; ``RedisLink.listen`` only that there was one.

It refuses to know what they mean.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from redis.asyncio import Redis

from authproxy.identity.shared.redis_link import SILENCE_S, RedisLink
from policies.errors import StoreUnavailable


class ClusterLink(RedisLink):
    """Calls as ``RedisLink``."""

    async def hear(self, channel: str) -> AsyncIterator[bytes | None]:
        """
        Subscribe; yields None when subscribed, and then each message, until the connection fails.

        Raises: StoreUnavailable when the subscription ends; there may be a next one.
        """
        client = Redis.from_pool(self._pool())
        try:
            async with contextlib.aclosing(client.pubsub()) as subscription:
                async with asyncio.timeout(2 * self._timeout_s):
                    await subscription.subscribe(channel)
                while True:
                    message = await subscription.get_message(timeout=SILENCE_S)
                    if message is None:
                        async with asyncio.timeout(2 * self._timeout_s):
                            await subscription.ping()
                    elif message["type"] == "message":
                        yield bytes(message["data"])
                    elif message["type"] == "subscribe":
                        yield None
        except Exception as error:  # noqa: BLE001  # whatever redis-py raises: there is no subscription any more
            raise StoreUnavailable(f"redis: {type(error).__name__}") from None
        finally:
            with contextlib.suppress(Exception):  # whatever it was, the connection is of no use any more
                await client.aclose()
