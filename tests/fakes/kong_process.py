"""
The plugin server in a process of its own, so that it can be frozen and killed, with Kong and all else in this one.

``python -m tests.fakes.kong_process SETTINGS``, as JSON: says on stdout that it is ready, and runs until it is killed.
It is what ``portero kong-plugin-server`` runs, but for a setting that only code may set: http on loopback.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from authproxy.kong_app import KongApp
from authproxy.settings import Settings
from tests.fakes.kong import KongFront
from tests.fakes.kong_world import DUMPS, Front, rendered, settings_of
from tests.fakes.openfaas import FakeOpenFaas
from tests.fakes.provider import FakeProvider, Key
from tests.fakes.real_kong import RealKong
from tests.fakes.world import PLAIN, RawAnswer, send_raw, write_world

ROOT: Final = Path(__file__).parents[2]
READY: Final = b"ready\n"


@dataclass
class KilledWorld:
    """``server`` is killed, frozen and started as a test wants it; Kong stays."""

    folder: Path
    kong: KongFront | RealKong
    provider: FakeProvider
    faas: FakeOpenFaas
    server: Process | None = None
    _started: list[Process] = field(default_factory=list)

    async def start(self) -> None:
        """Returns when the sockets are open."""
        settings = {**settings_of(self.folder), "audit": "off", "internal": "127.0.0.1:0", "admin": "127.0.0.1:0"}
        words = (sys.executable, "-m", "tests.fakes.kong_process", json.dumps(settings, default=str))
        self.server = await asyncio.create_subprocess_exec(*words, cwd=ROOT, stdout=PIPE, stderr=DEVNULL)
        self._started.append(self.server)
        assert self.server.stdout is not None
        async for line in self.server.stdout:
            if line == READY:
                return
        raise AssertionError("the plugin server has ended before it was ready")

    async def kill(self) -> None:
        """SIGKILL, as a crash or the kernel out of memory."""
        assert self.server is not None
        self.server.kill()
        await self.server.communicate()

    def freeze(self) -> None:
        """It takes connections and requests (the kernel does), and answers nothing."""
        assert self.server is not None
        self.server.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.server is not None
        self.server.send_signal(signal.SIGCONT)

    async def send(self, data: bytes) -> RawAnswer:
        answer = await send_raw(self.kong.address, data)
        if answer is None:
            raise ConnectionError("the connection was closed without an answer")
        return answer

    def token(self) -> str:
        """An analyst's of acme."""
        return self.provider.mint("ana", groups=["analysts"], organization=["acme"])

    async def close(self) -> None:
        for process in self._started:
            if process.returncode is None:
                process.kill()
            await process.communicate()


@contextlib.asynccontextmanager
async def killed_world(
    source: Path = PLAIN, *, read_timeout_s: float = 10.0, front: Front = KongFront
) -> AsyncIterator[KilledWorld]:
    """The plugin server runs; ``read_timeout_s`` is Kong's patience with it."""
    with tempfile.TemporaryDirectory(prefix="portero-kong-") as name:
        folder = Path(name)
        async with FakeProvider(audience="survey") as provider, FakeOpenFaas() as faas:
            write_world(source, folder / "policies", issuer=provider.issuer, backend=faas.url)
            (folder / "secrets" / "acme").mkdir(parents=True)
            (folder / "secrets" / "acme" / "ci.pem").write_bytes(Key(None, "EC", 77).public_pem())
            (folder / "sockets").mkdir()
            config = rendered(folder / "policies")
            async with front(config, folder / "sockets", dumps=DUMPS, read_timeout_s=read_timeout_s) as kong:
                world = KilledWorld(folder, kong, provider, faas)
                try:
                    await world.start()
                    yield world
                finally:
                    await world.close()


async def _serve(settings: dict[str, Any]) -> None:
    app = KongApp(Settings.model_validate(settings))
    await app.start()
    sys.stdout.buffer.write(READY)
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(json.loads(sys.argv[1])))
