"""A Redis Cluster of one node that has every slot: the protocol of clusters without their size."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.fakes.redis_server import RedisServer, free_port


class RedisClusterNode(RedisServer):
    """As ``RedisServer``; answers as a cluster does, cross-slot refusals included."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._real = self._binary
        self._binary = str(folder / "redis-server")

    def start(self) -> None:
        """Returns when it serves every slot. It needs two ports, and others may take them first: tried anew then."""
        for attempt in range(10):
            wrapper = Path(self._binary)
            bus = f"--cluster-enabled yes --cluster-port {free_port()}"
            wrapper.write_text(f'#!/bin/sh\nexec {self._real} "$@" {bus}\n')
            wrapper.chmod(0o700)
            try:
                super().start()
            except RuntimeError:
                if attempt == 9:
                    raise
                self.port = free_port()
            else:
                break
        self.command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        deadline = time.monotonic() + 20
        while b"cluster_state:ok" not in self.command("CLUSTER", "INFO"):
            if time.monotonic() > deadline:
                raise RuntimeError("the cluster did not come up within 20 s")
            time.sleep(0.05)


@contextlib.contextmanager
def redis_cluster() -> Iterator[RedisClusterNode]:
    """A cluster that runs until the block ends."""
    with tempfile.TemporaryDirectory(prefix="portero-cluster-") as folder:
        node = RedisClusterNode(Path(folder))
        node.start()
        try:
            yield node
        finally:
            node.kill()
