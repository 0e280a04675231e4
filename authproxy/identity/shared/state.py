"""
The seam of what replicas must agree on: used states, leases, tickets, renewed sessions, logouts.

One contract suite (``tests/contracts/state_store.py``) runs over memory and a real Redis. Keys are made by ``key``:
what a caller chooses stands in them only as a digest, and the tenant as a hash tag, so that a cluster keeps a tenant's
keys together. Every call is bounded in time and raises ``StoreUnavailable`` when it cannot know; no caller may take
that for an answer.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Protocol


def key(tenant: str, kind: str, *parts: str | bytes) -> str:
    """``portero:{<tenant>}:<kind>:<digest of the parts>``; the parts are told apart by their lengths."""
    digest = sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(4) + data)
    return f"portero:{{{tenant}}}:{kind}:{digest.hexdigest()}"


class StateStore(Protocol):
    """All methods raise ``policies.errors.StoreUnavailable`` when the store cannot be asked. Seconds are floats > 0."""

    @property
    def is_shared(self) -> bool:
        """Whether other replicas see it, and a restart survives."""

    async def get(self, key: str) -> bytes | None: ...

    async def put(self, key: str, value: bytes, ttl_s: float) -> None: ...

    async def put_newer(self, key: str, version: int, value: bytes, ttl_s: float) -> bool:
        """Write unless a version as new or newer is there. ``get`` gives the value without its version."""

    async def add(self, key: str, value: bytes, ttl_s: float) -> bool:
        """Write unless the key is there; True when it was not: the first use of what may be used once."""

    async def take(self, key: str) -> bytes | None:
        """Read and delete in one step."""

    async def delete(self, key: str) -> None: ...

    async def acquire(self, key: str, holder: str, ttl_s: float) -> int | None:
        """
        Take a lease; None when another holder has it. The number grows with each lease of that key (fencing): what is
        written by the holder of an older one is refused by whoever compares.
        """

    async def renew(self, key: str, holder: str, ttl_s: float) -> bool:
        """Keep the lease; False when it is no longer this holder's."""

    async def release(self, key: str, holder: str) -> None:
        """Give the lease up if it is this holder's."""

    async def close(self) -> None: ...
