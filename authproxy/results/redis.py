"""
Results in Redis: a ``ResultStore`` that all replicas see and that survives a restart of Portero.

Each call is one script over the keys of one tenant, which have one hash tag, so a cluster serves them; the scripts
begin alike (``forget_ended.lua``). Times are Redis's own. There is no bound of all tenants together: each has its own,
and a Redis that has no memory left refuses, which is ``StoreUnavailable``. Values are sealed (``sealed.py``); names and
flows stand there as digests.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from hashlib import sha1, sha256
from importlib.resources import files
from typing import Final
from urllib.parse import quote

from authproxy.identity.shared.redis_link import RedisLink, Script
from authproxy.identity.shared.state_bounds import ttl_ms
from authproxy.results.mirror import Mirror
from authproxy.results.result import Owner, Result, is_id, new_id, size_of, without_room
from authproxy.results.sealed import name_of, open_result, seal_result
from authproxy.results.store import PENDING_S, ResultBounds, ResultSizes
from policies.decision import Reason

TIMEOUT_S: Final = 0.5
"""For a connection, and for a reply: twice that of shared state, because a reply may be a whole result."""
_PENDING_MS: Final = int(PENDING_S * 1000)
_KEPT: Final = 1


def _script(name: str) -> Script:
    folder = files("authproxy.results")
    text = b"".join(folder.joinpath(f"{part}.lua").read_bytes() for part in ("forget_ended", name))
    return Script(text, sha1(text, usedforsecurity=False).hexdigest())


_OPEN: Final = _script("open")
_RENEW: Final = _script("renew")
_FINISH: Final = _script("finish")
_READ: Final = _script("read")
_DELETE: Final = _script("delete")


class RedisResults:
    """
    See ``ResultStore``. One event loop; every call ends within twice ``timeout_s`` or raises StoreUnavailable.

    Args:
        url: ``redis[s]://[user[:password]@]host[:port][/database]``, or of any node of a cluster.
        is_cluster: keys are spread over the nodes of a Redis Cluster.
        timeout_s: for a connection, and for a reply.
        monotonic: seconds that never go back; for ``sizes`` alone.

    Raises: ValueError for a URL that cannot be read.
    """

    is_shared = True

    def __init__(
        self,
        url: str,
        *,
        is_cluster: bool = False,
        timeout_s: float = TIMEOUT_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._link = RedisLink(url, is_cluster=is_cluster, timeout_s=timeout_s)
        self._mine = Mirror(monotonic)

    async def open(self, owner: Owner, flow: str, bounds: ResultBounds, keep_s: float) -> str | Reason:
        result_id = new_id()
        name = name_of(result_id)
        digest = sha256(flow.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        keep_ms = ttl_ms(keep_s)
        facts = f"p:{keep_ms}:{bounds.tenant_bytes}:{digest}"
        sealed = seal_result(result_id, owner, None)
        limits = (bounds.max_async, bounds.tenant_results)
        is_open = await self._link.run(_OPEN, _keys(owner.tenant), name, digest, *limits, _PENDING_MS, facts, sealed)
        if is_open != 1:
            return Reason.QUEUE_FULL
        self._mine.opened(name, keep_ms / 1000)
        return result_id

    async def renew(self, tenant: str, result_id: str) -> bool:
        if not is_id(result_id):
            return False
        name = name_of(result_id)
        is_pending = bool(await self._link.run(_RENEW, _keys(tenant), name, _PENDING_MS) == 1)
        if is_pending:
            self._mine.renewed(name)
        else:
            self._mine.forget(name)
        return is_pending

    async def finish(self, tenant: str, result_id: str, result: Result) -> bool:
        if not is_id(result_id):
            return False
        # Whose it is stands in the value that this one takes the place of.
        found = await self.read(tenant, result_id)
        if found is None:
            return False
        name = name_of(result_id)
        instead = without_room(result.finished_at)
        if found[1] is not None:
            return found[1] in (result, instead)
        size, small = size_of(result), size_of(instead)
        sealed = (seal_result(result_id, found[0], result), seal_result(result_id, found[0], instead))
        kept = await self._link.run(_FINISH, _keys(tenant), name, size, sealed[0], small, sealed[1])
        if kept not in {1, 2}:
            self._mine.forget(name)
            return False
        self._mine.finished(name, size if kept == _KEPT else small)
        return True

    async def read(self, tenant: str, result_id: str) -> tuple[Owner, Result | None] | None:
        if not is_id(result_id):
            return None
        data = await self._link.run(_READ, _keys(tenant), name_of(result_id))
        return open_result(result_id, tenant, data) if isinstance(data, bytes) else None

    async def delete(self, tenant: str, result_id: str) -> bool:
        if not is_id(result_id):
            return False
        name = name_of(result_id)
        was_there = bool(await self._link.run(_DELETE, _keys(tenant), name) == 1)
        self._mine.forget(name)
        return was_there

    def sizes(self) -> ResultSizes:
        """Of those that this Portero has opened: added up over all Porteros each counts once."""
        return self._mine.sizes()

    async def close(self) -> None:
        """Idempotent; never raises."""
        await self._link.close()


def _keys(tenant: str) -> tuple[str, ...]:
    tag = f"portero:{{{quote(tenant, safe='')}}}:results"
    return (f"{tag}:ends", f"{tag}:facts", f"{tag}:values", f"{tag}:counts")


__all__ = ["TIMEOUT_S", "RedisResults"]
