"""One redis-server for the tests of this folder that do not hurt it; modules say which event loop they run on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fakes.redis_server import RedisServer, redis_server
from tests.fakes.steady_loop import pytest_asyncio_loop_factories

__all__ = ["own_redis", "pytest_asyncio_loop_factories", "shared_redis"]


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """One that the test may kill."""
    with redis_server() as server:
        yield server
