"""The process behind Kong as a whole: how it starts, what it says when it cannot, and how it ends."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from authproxy.gate.build import KONG_CONNECTIONS
from authproxy.kong_app import KongApp
from authproxy.settings import Settings
from gateway_plugins.sockets import SocketFile
from policies.errors import SettingsError
from policies.request import Head
from tests.fakes.internal import as_kong_sends, until
from tests.fakes.kong_world import KongWorld, running_kong_world, settings_of
from tests.fakes.plugin_caller import Caller
from tests.fakes.raw_client import RawClient


@pytest.fixture(autouse=True)
def _what_is_known_to_be_awake_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """For longer than a second: a machine that stands still is not to make another verdict of it."""
    monkeypatch.setattr("policies.coldstart.FRESH_S", 60.0)


@pytest.fixture
async def kong() -> AsyncIterator[KongWorld]:
    async with running_kong_world() as world:
        yield world


async def held(world: KongWorld) -> asyncio.Task[Any]:
    """A request that waits for a function which does not wake."""
    world.faas.add("survey-report", "acme", replicas=0, start_s=60)
    task = asyncio.create_task(world.get("/reports/es", token=world.token()))
    await until(lambda: world.app.parts.activator.held)
    return task


async def test_all_that_drains_has_one_deadline(kong: KongWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that Kong never comes back for and a held request: whoever kills after the drain time kills nothing."""
    monkeypatch.setattr("gateway_plugins.events._BACK_WITHIN_S", 60.0)  # either would take all of the time for itself
    task = await held(kong)
    caller = await Caller.to(kong.sockets / "portero.socket")
    await caller.begin(await caller.instance(name="portero"))
    began = time.monotonic()
    await kong.app.stop(3)
    assert 2.9 < time.monotonic() - began < 5.5
    assert (await task).reason == "draining"
    await caller.close()


async def test_an_event_that_kong_has_forgotten_holds_nobody_up(kong: KongWorld) -> None:
    """Kong is at work for microseconds; its worker has died."""
    caller = await Caller.to(kong.sockets / "portero.socket")
    await caller.begin(await caller.instance(name="portero"))
    began = time.monotonic()
    await kong.app.stop(20)
    assert time.monotonic() - began < 12
    await caller.close()


async def test_what_kong_is_bringing_when_the_end_begins_is_served(
    kong: KongWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was judged and allowed; its pass is good until it has come, or should have."""
    monkeypatch.setattr("authproxy.kong_app._ON_THE_WAY_S", 30.0)  # the machine may stand still on its way
    app: Any = kong.app
    kong.faas.add("survey-web", "acme", replicas=1)
    assert (await kong.get("/function/survey-web")).status == 200
    fields = ((b"Host", b"acme.test"),)
    verdict: Any = app.parts.gate.decide_now(Head("GET", b"/function/survey-web", fields, (1, 1), "1.2.3.4", "http"))
    token = app.front.passes.issue(verdict)
    stopping = asyncio.create_task(app.stop(60))
    await asyncio.sleep(0.1)
    async with RawClient(app.front.internal) as client:
        await client.send(as_kong_sends(verdict.request, token))
        assert (await client.answer()).status == 200
    await asyncio.wait_for(stopping, 15)


async def test_the_next_process_starts_while_the_last_one_drains(kong: KongWorld) -> None:
    """Kong starts its plugin server anew at a reload and asks nobody: what is held must not keep its successor out."""
    first: Any = kong.app
    addresses = {"internal": first.public_address, "admin": first.admin_address}
    task = await held(kong)
    stopping = asyncio.create_task(first.stop(30))
    second = KongApp(Settings(**{**settings_of(kong.folder), **addresses}))
    async with asyncio.timeout(20):
        while True:
            try:
                await second.start()
                break
            except SettingsError:
                await asyncio.sleep(0.05)
    assert not task.done()
    kong.faas.add("survey-web", "acme", replicas=1)
    assert (await kong.get("/function/survey-web")).status == 200
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await stopping
    await second.stop(0.5)


async def test_kong_is_told_the_name_by_which_it_reaches_the_listener() -> None:
    """``internal_name`` with the port that was had; without it the address itself."""
    async with running_kong_world(internal_name="portero.inside") as world:
        app: Any = world.app
        assert app.front.internal == ("portero.inside", app.public_address[1])


def taken_internal(settings: dict[str, Any], _folder: Path) -> socket.socket:
    other = socket.create_server(("127.0.0.1", 0))
    settings["internal"] = other.getsockname()
    return other


def taken_admin(settings: dict[str, Any], _folder: Path) -> socket.socket:
    other = socket.create_server(("127.0.0.1", 0))
    settings["admin"] = other.getsockname()
    return other


def no_address_of_ours(settings: dict[str, Any], _folder: Path) -> None:
    settings["internal"] = ("192.0.2.1", 0)


def no_folder(settings: dict[str, Any], folder: Path) -> None:
    settings["kong_sockets"] = folder / "nowhere"


def a_file_for_a_folder(settings: dict[str, Any], folder: Path) -> None:
    settings["kong_sockets"] = folder / "policies" / "acme.yaml"


def a_file_in_the_place(_settings: dict[str, Any], folder: Path) -> None:
    (folder / "sockets" / "portero-rbac.socket").touch()


def another_process(_settings: dict[str, Any], folder: Path) -> socket.socket:
    return SocketFile(folder / "sockets" / "portero-rbac.socket").socket


def too_long(settings: dict[str, Any], folder: Path) -> None:
    settings["kong_sockets"] = folder / ("x" * 120)
    settings["kong_sockets"].mkdir()


@pytest.mark.parametrize(
    ("obstacle", "says"),
    [
        (taken_internal, r"internal: 127.0.0.1:\d+ cannot be listened on: address already in use"),
        (taken_admin, r"admin: 127.0.0.1:\d+ cannot be listened on: address already in use"),
        (no_address_of_ours, "internal: 192.0.2.1:0 cannot be listened on: cannot assign requested address"),
        (no_folder, "kong_sockets: .*/nowhere: no such file or directory"),
        (a_file_for_a_folder, "kong_sockets: .*/acme.yaml: not a directory"),
        (
            a_file_in_the_place,
            "kong_sockets: .*/portero-rbac.socket: something that is no socket stands in its place",
        ),
        (another_process, "kong_sockets: .*/portero-rbac.socket: another process answers on it"),
        (too_long, "kong_sockets: .*/portero.socket: the path is too long for a unix socket"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_a_start_that_fails_says_why_and_leaves_nothing(
    kong: KongWorld,
    tmp_path: Path,
    obstacle: Callable[[dict[str, Any], Path], socket.socket | None],
    says: str,
) -> None:
    """One sentence about the setting; no socket, no listener and no child stay behind."""
    await kong.app.stop(0.1)
    settings = settings_of(kong.folder)
    other = obstacle(settings, kong.folder)
    before = descriptors()
    app = KongApp(Settings(**settings))
    with pytest.raises(SettingsError) as raised:
        await app.start()
    assert len(raised.value.mistakes) == 1
    assert raised.match(says)
    await until(lambda: not descriptors() - before)
    names = {file.name for file in (kong.folder / "sockets").iterdir()} - {".portero.lock", "portero-rbac.socket"}
    assert not names
    if other is not None:
        other.close()


def descriptors() -> set[int]:
    """Those that are open."""
    found = {int(file.name) for file in Path("/proc/self/fd").iterdir()}
    return {number for number in found if is_open(number)}


def is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError as error:
        if error.errno == errno.EBADF:
            return False
        raise
    return True


async def test_kongs_connections_count_for_the_open_files(kong: KongWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a service manager allows by itself (1024) is less than one Kong may open at its busiest."""
    await kong.app.stop(0.1)
    raised: list[int] = []
    monkeypatch.setattr("resource.getrlimit", lambda _which: (1024, 1_000_000))
    monkeypatch.setattr("resource.setrlimit", lambda _which, limits: raised.append(limits[0]))
    settings = Settings(**settings_of(kong.folder))
    app = KongApp(settings)
    await app.start()
    await app.stop(0.1)
    assert raised[0] >= settings.max_connections + settings.max_upstream_connections + KONG_CONNECTIONS


async def test_passes_are_counted(kong: KongWorld) -> None:
    """Those that wait, and those who come without one that is theirs."""
    app: Any = kong.app
    fields = ((b"Host", b"acme.test"),)
    verdict: Any = app.parts.gate.decide_now(Head("GET", b"/function/survey-web", fields, (1, 1), "1.2.3.4", "http"))
    token = app.front.passes.issue(verdict)
    assert "portero_kong_passes 1.0\n" in app.parts.metrics.render().decode()
    async with RawClient(app.front.internal) as client:
        for wrong in (token[:-1] + ("B" if token.endswith("A") else "A"), token):  # shown once, it is used up
            await client.send(as_kong_sends(verdict.request, wrong))
            assert (await client.answer()).field("x-portero-reason") == "pass-invalid"
    said = app.parts.metrics.render().decode()
    assert "portero_kong_passes 0.0\n" in said
    assert "portero_kong_passes_refused_total 2.0\n" in said
