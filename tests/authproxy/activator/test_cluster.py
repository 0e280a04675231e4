"""Clusters of one and in Redis: the contract over each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest

from authproxy.activator import cluster_places
from authproxy.activator.cluster import Cluster, LocalCluster, find_place
from authproxy.activator.cluster_redis import RedisCluster
from tests.contracts.cluster import ClusterContract
from tests.fakes.redis_cluster import RedisClusterNode, redis_cluster
from tests.fakes.redis_server import RedisServer, redis_server

SLOW_S = 5.0
"""Where a test is about something else, a busy machine must not make Redis look dead."""


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        server.command("SET", "portero:{activator}:since", "1")  # it has been there for long
        yield server


@pytest.fixture(scope="module")
def node() -> Iterator[RedisClusterNode]:
    with redis_cluster() as server:
        server.command("SET", "portero:{activator}:since", "1")
        yield server


class TestLocalCluster(ClusterContract):
    @pytest.fixture
    async def porteros(self) -> AsyncIterator[Sequence[Cluster]]:
        cluster = LocalCluster()
        await cluster.start()
        yield [cluster]
        await cluster.close()


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside other tests Redis may answer later than a caller would wait; what holds then is another test's."""
    monkeypatch.setattr(cluster_places, "PATIENCE_S", SLOW_S)


async def started(url: str, number: int, *, is_cluster: bool = False) -> AsyncIterator[Sequence[Cluster]]:
    """So many, that know each other."""
    porteros = [RedisCluster(url, is_cluster=is_cluster, timeout_s=SLOW_S) for _ in range(number)]
    for portero in porteros:
        await portero.start()
    yield porteros
    await asyncio.gather(*(portero.close() for portero in porteros))


@pytest.mark.redis
class TestRedisCluster(ClusterContract):
    @pytest.fixture
    async def porteros(self, redis: RedisServer) -> AsyncIterator[Sequence[Cluster]]:
        async for porteros in started(redis.url, 3):
            yield porteros


@pytest.mark.redis
class TestInRedisCluster(ClusterContract):
    @pytest.fixture
    async def porteros(self, node: RedisClusterNode) -> AsyncIterator[Sequence[Cluster]]:
        async for porteros in started(node.url, 2, is_cluster=True):
            yield porteros


async def test_a_place_that_others_take_each_time_is_not_had() -> None:
    """Who asks for places does not ask for ever."""

    class Hasty(LocalCluster):
        questions = 0

        def has_place(self, key: str, ceiling: int, held: int) -> bool:
            return False

        async def reserve(self, key: str, ceiling: int, held: int) -> bool:
            self.questions += 1
            return True

    hasty = Hasty()
    assert not await find_place(hasty, "tenant:acme", 10, lambda: 0)
    assert hasty.questions < 10
