"""
The one border to redis-py: addresses, time bounds, and what its errors mean.

Whatever goes wrong behind it is ``StoreUnavailable``: a store did not answer in time, or not as it should, and why
changes nothing for who asks. Nothing is retried here: a command that was sent may have been carried out. It refuses to
know what is kept under which key.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from hashlib import sha1
from importlib.resources import files
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, urlsplit

from redis.asyncio import ConnectionPool, Redis, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError

from authproxy.audit import get_logger
from policies.errors import StoreUnavailable

TIMEOUT_S: Final = 0.25
"""For a connection, and for a reply; a whole call takes at most twice as long. redis-py's default is 5 s."""
MAX_CONNECTIONS: Final = 32
"""Calls at once, to each node of a cluster; the others wait, within the bound of their call."""
SILENCE_S: Final = 30.0
"""How long a subscription is read at once: only to notice a dead connection where TCP does not."""

Word = str | bytes | int


class RedisPlace(NamedTuple):
    """What a Redis URL says."""

    host: str
    port: int
    unix_path: str | None
    is_tls: bool
    user: str | None
    password: str | None
    database: int

    def __repr__(self) -> str:
        return f"RedisPlace({self.host}:{self.port})"


def read_redis_url(url: str) -> RedisPlace:
    """
    Read ``redis[s]://[user[:password]@]host[:port][/database]`` or ``unix://[user[:password]@]/path``.

    Raises: ValueError, whose text has nothing of the URL in it: it may hold a password, also at a wrong place.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or 6379
    except ValueError:
        raise ValueError("the Redis URL cannot be read: its host or port is malformed") from None
    is_unix = parts.scheme == "unix"
    if parts.scheme not in ("redis", "rediss", "unix") or parts.fragment:
        raise ValueError("a Redis URL starts with redis://, rediss:// or unix://, and has no fragment")
    query = parts.query.removeprefix("db=") if is_unix else ""
    if parts.query and not query:
        raise ValueError("a Redis URL has no parameters")
    database = (query if is_unix else parts.path.strip("/")) or "0"
    if not (database.isascii() and database.isdigit()):
        raise ValueError("the database of a Redis URL is a number, such as redis://host:6379/0")
    if is_unix == bool(parts.hostname) or (is_unix and not parts.path):
        raise ValueError("a Redis URL names a host, or the path of a socket after unix://")
    return RedisPlace(
        host=parts.hostname or "",
        port=port,
        unix_path=unquote(parts.path) if is_unix else None,
        is_tls=parts.scheme == "rediss",
        user=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password is not None else None,
        database=int(database),
    )


class Script(NamedTuple):
    """A Lua script and what the server calls it once it knows it."""

    text: bytes
    sha: str

    @classmethod
    def read(cls, name: str) -> Script:
        """That of ``authproxy/identity/<name>.lua``."""
        text = files("authproxy.identity.shared").joinpath(f"{name}.lua").read_bytes()
        return cls(text, sha1(text, usedforsecurity=False).hexdigest())


class RedisLink:
    """
    Calls to one Redis server or cluster, each bounded in time.

    Args:
        url: as ``read_redis_url`` reads it; of any node of a cluster.
        is_cluster: keys are spread over nodes; redirections are followed.
        timeout_s: for a connection, and for a reply.

    Raises: ValueError for a URL that cannot be read, or a socket or database with a cluster.
    """

    def __init__(self, url: str, *, is_cluster: bool = False, timeout_s: float = TIMEOUT_S) -> None:
        self._place = read_redis_url(url)
        if is_cluster and (self._place.unix_path is not None or self._place.database):
            raise ValueError("a Redis cluster has neither a unix socket nor databases other than 0")
        self._timeout_s = timeout_s
        self._turns = asyncio.Semaphore(MAX_CONNECTIONS)
        self._client: Redis | RedisCluster = self._cluster() if is_cluster else Redis.from_pool(self._pool())
        self._is_lost = False
        self._log = get_logger("identity")

    async def call(self, *words: Word) -> Any:
        """
        One command; its reply as redis-py gives it, with bytes for strings.

        Raises: StoreUnavailable.
        """
        async with self._bounded():
            return await self._client.execute_command(*words)

    async def run(self, script: Script, keys: Sequence[str], *arguments: Word) -> Any:
        """
        One script, in one step; all ``keys`` are of one slot.

        Raises: StoreUnavailable.
        """
        async with self._bounded():
            rest = (len(keys), *keys, *arguments)
            try:
                return await self._client.execute_command("EVALSHA", script.sha, *rest)
            except NoScriptError:  # the server is new, or somebody flushed its scripts: nothing was carried out
                return await self._client.execute_command("EVAL", script.text, *rest)

    async def listen(self, channel: str) -> AsyncIterator[None]:
        """
        Subscribe; yields once when subscribed and once for each message, until the connection fails.

        Over a connection of its own to the URL's host: a message published in a cluster reaches each of its nodes.

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
                    elif message["type"] in ("subscribe", "message"):
                        yield
        except Exception as error:  # noqa: BLE001  # whatever redis-py raises means the same: see the module docstring
            raise _unavailable(error) from None
        finally:
            await _close(client)

    async def close(self) -> None:
        """Idempotent; never raises."""
        await _close(self._client)

    @contextlib.asynccontextmanager
    async def _bounded(self) -> AsyncIterator[None]:
        """The border: bounds what happens within, and turns what it raises into ``StoreUnavailable``."""
        try:
            async with asyncio.timeout(2 * self._timeout_s), self._turns:
                yield
        except Exception as error:  # noqa: BLE001  # whatever redis-py raises means the same: see the module docstring
            if not self._is_lost:
                self._is_lost = True
                self._log.warning("state-store-lost", why=type(error).__name__)
            raise _unavailable(error) from None
        if self._is_lost:
            self._is_lost = False
            self._log.info("state-store-back")

    def _options(self) -> dict[str, Any]:
        place = self._place
        return {
            "username": place.user,
            "password": place.password,
            "socket_timeout": self._timeout_s,
            "socket_connect_timeout": self._timeout_s,
            "protocol": 2,
        }

    def _pool(self) -> ConnectionPool:
        place = self._place
        options = self._options() | {"db": place.database, "retry": Retry(NoBackoff(), 0)}
        if place.unix_path is not None:
            return ConnectionPool(UnixDomainSocketConnection, path=place.unix_path, **options)
        options |= {"host": place.host, "port": place.port, "socket_keepalive": True}
        return ConnectionPool(SSLConnection, **options) if place.is_tls else ConnectionPool(**options)

    def _cluster(self) -> RedisCluster:
        return RedisCluster(
            host=self._place.host,
            port=self._place.port,
            ssl=self._place.is_tls,
            retry=Retry(NoBackoff(), 0),
            max_connections=2 * MAX_CONNECTIONS,  # a connection given back is there again only one turn later
            **self._options(),
        )


async def _close(client: Redis | RedisCluster) -> None:
    with contextlib.suppress(Exception):  # whatever it was, the connection is of no use any more
        await client.aclose()


def _unavailable(error: Exception) -> StoreUnavailable:
    """Only the kind of error: a text of redis-py's may quote what was sent."""
    return StoreUnavailable(f"redis: {type(error).__name__}")
