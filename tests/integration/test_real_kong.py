"""
A real Kong, DB-less, with the rendered config and settings: allowed, refused, held, and nobody there to judge.

Everything else runs with the stand-in for it (``tests/fakes/kong.py``); here is what the stand-in is held against.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from gateway_plugins.render_conf import conf_lines
from tests.fakes.kong_world import KongWorld, rendered, running_kong_world
from tests.fakes.world import RawAnswer, request_bytes, send_raw

KONG: Final = shutil.which("kong")
REPORT: Final = "GET /function/survey-report"
START_S: Final = 30.0

pytestmark = [
    pytest.mark.kong,
    pytest.mark.slow,
    pytest.mark.skipif(KONG is None, reason="there is no kong on the PATH"),
]


@dataclass(frozen=True, slots=True)
class RealKong:
    address: tuple[str, int]
    world: KongWorld

    async def send(self, line: str, **options: Any) -> RawAnswer:
        answer = await send_raw(self.address, request_bytes(line, **options))
        assert answer is not None
        return answer


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _configure(world: KongWorld, prefix: Path, port: int) -> Path:
    """``kong.conf`` as ``portero kong conf`` says it, with addresses and a patience for this test."""
    prefix.mkdir()
    (prefix / "kong.yml").write_text(rendered(world.policies))
    lines = conf_lines(
        declarative_config=str(prefix / "kong.yml"),
        socket_folder=str(world.sockets),
        start_cmd=None,
        query_cmd=f"{Path(sys.executable).parent / 'portero'} kong-plugin-server --dump {{name}}",
    )
    own = f"proxy_listen = 127.0.0.1:{port}\nadmin_listen = off\nnginx_worker_processes = 1\nanonymous_reports = off\n"
    (prefix / "kong.conf").write_text(f"{lines}\n{own}nginx_http_lua_socket_read_timeout = 2s\n")
    return prefix / "kong.conf"


async def _kong(*words: str) -> None:
    assert KONG is not None
    done = await asyncio.to_thread(subprocess.run, [KONG, *words], capture_output=True, text=True, timeout=START_S)
    assert done.returncode == 0, done.stdout + done.stderr


async def _until_it_answers(address: tuple[str, int]) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            _, writer = await asyncio.open_connection(*address)
        except OSError:
            assert time.monotonic() < deadline, "Kong does not listen"
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return


@pytest.fixture
async def kong() -> AsyncIterator[RealKong]:
    async with running_kong_world(kong_socket_mode="666") as world:
        world.folder.chmod(0o755)  # Kong's workers may be somebody else
        world.sockets.chmod(0o755)
        prefix, port = world.folder / "prefix", _free_port()
        await _kong("start", "-c", str(_configure(world, prefix, port)), "-p", str(prefix))
        try:
            await _until_it_answers(("127.0.0.1", port))
            world.faas.add("survey-report", "acme")
            yield RealKong(("127.0.0.1", port), world)
        finally:
            await _kong("stop", "-p", str(prefix))


async def test_who_may_is_let_through_and_others_are_not(kong: RealKong) -> None:
    """The function's answer, with Portero's fields on both ways; a refusal with its reason, and nobody called."""
    world = kong.world
    forged = [("X_Portero_Subject", "root"), ("X-Portero-Subject", "root")]
    for _ in range(2):
        answer = await kong.send(REPORT, token=world.token(), fields=forged)
        assert answer.status == 200
        assert answer.field("x-request-id") is not None
    got = [(name.lower().replace("_", "-"), value) for name, value in world.faas.requests[-1].fields]
    assert [value for name, value in got if name == "x-portero-subject"] == ["login|ana"]
    calls = len(world.faas.requests)
    for options, status in (({}, 401), ({"token": world.token(groups=())}, 403), ({"fields": [("X", "\udcff")]}, 401)):
        refused = await kong.send(REPORT, **options)
        assert (refused.status, refused.json()["status"]) == (status, status)
        assert refused.field("content-type") == "application/problem+json"
    assert len(world.faas.requests) == calls


async def test_a_function_that_sleeps_is_woken_once(kong: RealKong) -> None:
    """Its callers wait at the internal listener."""
    world = kong.world
    world.faas.add("geo-cold", "acme", replicas=0, start_s=0.5)
    token = world.token(region="eu")
    answers = await asyncio.gather(*(kong.send("GET /function/geo-cold", token=token) for _ in range(10)))
    assert {answer.status for answer in answers} == {200}
    assert world.faas.wake_calls == ["geo-cold.acme"]


async def test_nobody_passes_where_nobody_judges(kong: RealKong) -> None:
    """The plugin server is gone: 503 by the post-function, for whoever asks; back, it is as before."""
    world = kong.world
    assert (await kong.send(REPORT, token=world.token())).status == 200
    calls = len(world.faas.requests)
    server = world.app._server  # type: ignore[attr-defined]  # KongApp's
    await server.stop(0)
    for token in (world.token(), None):
        assert (await kong.send(REPORT, token=token)).status in {502, 503}
    assert len(world.faas.requests) == calls


async def test_strange_hosts_and_broken_heads_are_refused(kong: RealKong) -> None:
    """By the catch-all route, and by nginx."""
    assert (await kong.send(REPORT, host="nobody.test")).reason == "tenant-unknown"
    assert (await kong.send("GET /a%00", token=kong.world.token())).status == 400
    assert kong.world.faas.requests == []
