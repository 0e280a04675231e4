"""
Porteros that wait for Redis as long as a machine may stand still.

They give up after a quarter of a second, and then refuse, or go on alone. What that does to whom has tests of its own;
where Redis is up all the time, and what replicas agree on is tested, it must not be what a busy machine brings about.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Final, cast
from unittest.mock import patch

from authproxy.activator.cluster_redis import RedisCluster
from authproxy.identity.shared.revocations import Revocations
from authproxy.identity.shared.state_redis import RedisState
from authproxy.results.redis import RedisResults

PATIENCE_S: Final = 2.0
"""For a connection, and for a reply; a whole call takes at most twice as long."""


@contextlib.contextmanager
def patience_with_redis(patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Porteros of this process that start within the block have it; what they start with waits as long."""
    with contextlib.ExitStack() as stack:
        for kind in (RedisState, Revocations, RedisCluster, RedisResults):
            made = cast("Callable[..., Any]", kind.__init__)
            stack.enter_context(patch.dict(made.__kwdefaults__, timeout_s=patience_s))
        for module in ("identity.shared.revocations", "activator.cluster_redis"):
            stack.enter_context(patch(f"authproxy.{module}.START_S", 5 * patience_s))
        stack.enter_context(patch("authproxy.activator.cluster_places.PATIENCE_S", patience_s))
        yield
