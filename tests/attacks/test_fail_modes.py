"""Attack family A13, fail modes: whatever is down, nothing is let through that was not let through before (AP-R50)."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import AsyncIterator
from typing import Final

import pytest

from tests.fakes.siege import FUNCTIONS, WORLD, Siege, besieged
from tests.fakes.tap import Tap
from tests.fakes.world import RawAnswer, World, request_bytes, running_world

REPORT: Final = "/function/survey-report"


@contextlib.asynccontextmanager
async def exposed() -> AsyncIterator[World]:
    """A world without the tap, so that the platform itself can go down."""
    async with running_world(WORLD) as world:
        for name in FUNCTIONS:
            world.faas.add(name, "acme")
        yield world


class Broken:
    """A part of the gate with a defect in one method."""

    def __init__(self, part: object, method: str) -> None:
        self._part = part
        self._method = method

    def __getattr__(self, name: str) -> object:
        if name == self._method:
            raise RuntimeError("CANARY7f3a of a stage")
        return getattr(self._part, name)


async def check_nothing_widened(world: World) -> None:
    """What is refused on a good day is refused for the same reason now."""
    for token, reason in (
        (None, "credential-missing"),
        ("forged", "credential-invalid"),
    ):
        answer = await world.get(REPORT, token=token)
        assert answer.reason == reason, answer.wire
    assert (await world.get("/function/survey-web/internal")).reason == "denied-by-rule"
    assert (await world.get("/function/survey-web/../x")).reason == "bad-request"
    assert (await world.get(REPORT, host="evil.test")).reason == "tenant-unknown"


def check_unavailable(answer: RawAnswer, status: int, *reasons: str) -> None:
    assert answer.status == status, answer.wire
    assert answer.reason in reasons
    assert answer.field("content-type") == "application/problem+json"
    if status == 503:
        assert int(answer.field("retry-after") or 0) >= 1


async def test_no_keys_is_503_and_heals(monkeypatch: pytest.MonkeyPatch) -> None:
    """R36 (CVE-2026-31837): provider down from the start: 503 keys-unavailable, never "skip the signature"."""
    monkeypatch.setattr("authproxy.identity.providers.jwks.MIN_INTERVAL_S", 0.2)
    async with exposed() as world:
        world.provider.is_down = True
        token = world.token()
        for _ in range(3):
            check_unavailable(await world.get(REPORT, token=token), 503, "keys-unavailable")
        check_unavailable(await world.get("/function/survey-web", token=token), 503, "keys-unavailable")
        assert (await world.get("/function/survey-web")).status == 200, "who brings no credential needs no key"
        await check_nothing_widened(world)
        assert [seen.function for seen in world.faas.requests] == ["survey-web"]
        assert not world.faas.wake_calls
        world.provider.is_down = False
        await asyncio.sleep(0.25)
        assert (await world.get(REPORT, token=token)).status == 200


async def test_keys_that_were_had_outlive_their_provider() -> None:
    """R36: known keys go on being used; an unknown one proves nothing."""
    async with exposed() as world:
        assert (await world.get(REPORT, token=world.token())).status == 200
        world.provider.is_down = True
        assert (await world.get(REPORT, token=world.token("eve"))).status == 200
        await check_nothing_widened(world)


async def test_a_platform_that_is_down_is_502_or_503_and_heals() -> None:
    """Warm functions 502, cold ones 503 wake-failed; who may not ask is still told only that."""
    async with exposed() as world:
        token = world.token()
        assert (await world.get(REPORT, token=token)).status == 200
        port = int(world.faas.url.rpartition(":")[2])
        await world.faas.stop()
        answer = await world.get(REPORT, token=token)
        assert answer.status in {502, 503}
        check_unavailable(answer, answer.status, "upstream-unreachable", "upstream-closed", "wake-failed")
        cold = await world.get("/function/survey-web")
        check_unavailable(cold, cold.status, "wake-failed", "upstream-unreachable")
        await check_nothing_widened(world)
        await world.faas.start(port)
        until = time.monotonic() + 20
        while (await world.get(REPORT, token=token)).status != 200:
            assert time.monotonic() < until
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("failure", ["status", "hangs", "body"])
async def test_an_api_that_lies_lets_nobody_in(failure: str) -> None:
    """Errors, silence and garbage of the platform's API: refused by the deadline, and forged tokens still first."""
    async with exposed() as world:
        file = world.policies / "acme.yaml"
        file.write_text(file.read_text().replace("max_wait: 5s", "max_wait: 1s"))
        assert await world.app.parts.folder.reload()
        value = {"status": 500, "hangs": True, "body": b'{"availableReplicas": "many"'}[failure]
        setattr(world.faas.api, failure, value)
        setattr(world.faas.wake, failure, value)
        answer = await world.get(REPORT, token=world.token())
        check_unavailable(answer, answer.status, "wake-failed", "cold-start-timeout")
        await check_nothing_widened(world)
        assert not world.faas.requests


async def test_broken_policies_change_nothing() -> None:
    """H1: a file that does not load, is empty, is gone, or a whole folder that is gone: the last good set goes on."""
    async with besieged() as siege:
        world, folder = siege.world, siege.world.app.parts.folder
        file = world.policies / "acme.yaml"
        good = file.read_text()
        for text in (
            "",
            "version: 1\n",
            good + "nonsense: true\n",
            good.replace("access: public", "access: publc"),
            "\0",
        ):
            file.write_text(text)
            assert not await folder.reload()
            await siege.still_serves()
            await check_nothing_widened(world)
        file.write_text(good)
        shutil.move(world.policies, world.folder / "away")
        assert not await folder.reload()
        await siege.still_serves()
        await check_nothing_widened(world)


async def test_a_tenant_taken_away_is_unknown_at_once() -> None:
    """Absent configuration denies: its host, its tokens and its public functions."""
    async with besieged() as siege:
        platform = siege.world.policies / "platform.yaml"
        platform.write_text("\n".join(x for x in platform.read_text().splitlines() if "globex" not in x))
        (siege.world.policies / "globex.yaml").unlink()
        folder = siege.world.app.parts.folder
        assert await folder.reload(), folder.status.mistakes
        theirs = siege.world.token(tenants=("globex",))
        await siege.refused(request_bytes(f"GET {REPORT}", host="globex.test", token=theirs), "tenant-unknown")
        await siege.still_serves()


async def test_an_error_of_our_own_is_500_and_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """R37, R50, R52: a defect in any stage ends the request; its text stays in the log."""
    async with besieged() as siege:
        gate = siege.world.app.parts.gate

        for part, method in (
            ("_identifier", "identify_now"),
            ("_store", "spend_now"),
            ("_activator", "ready_now"),
            ("_backends", "get"),
        ):
            siege.forget()
            with monkeypatch.context() as patch:
                for holder in (gate, gate._asking):
                    patch.setattr(holder, part, Broken(getattr(gate, part), method))
                if part == "_identifier":
                    patch.setattr(gate, "_known_now", lambda *_: None)
                for target in (REPORT, "/function/survey-web"):
                    answer = (await siege.throw(request_bytes(f"GET {target}", token=siege.token))).only
                    assert (answer.status, answer.reason) == (500, "internal-error"), (method, answer.wire)
                    assert b"CANARY" not in answer.wire
            assert not siege.faas.requests
        await siege.still_serves()


async def test_an_upstream_that_answers_with_rubbish_is_502(monkeypatch: pytest.MonkeyPatch) -> None:
    """R20, R52: nothing of it reaches the client."""

    async def rubbish(self: Tap, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"CANARY7f3a is no answer\r\n\r\n")
            await writer.drain()
        writer.close()

    async with besieged() as siege:
        await siege.throw(request_bytes("GET /function/survey-web"))
        monkeypatch.setattr(Tap, "_pass_on", rubbish)
        async with Tap(siege.faas.url) as tap:
            platform = siege.world.policies / "platform.yaml"
            platform.write_text(platform.read_text().replace(siege.tap.url, tap.url))
            assert await siege.world.app.parts.folder.reload()
            answer = (await siege.throw(request_bytes("GET /function/survey-web"))).only
        assert answer.reason in {"upstream-garbled", "wake-failed", "cold-start-timeout"}
        assert answer.status in {502, 503, 504}
        assert b"CANARY" not in answer.wire


@pytest.mark.asyncio(loop_scope="module")
async def test_hostile_bytes_leave_the_process_as_it_was(siege: Siege) -> None:
    """Nothing is left behind by refusals: no exchange alive, no request held."""
    for wire in (b"\0" * 10, b"GET / HTTP/9.9\r\n\r\n", request_bytes("GET /function/survey-web/../x")):
        for _ in range(20):
            await siege.throw(wire, half_close=True)
    parts = siege.world.app.parts
    assert len(parts.live) == 0
    assert parts.activator.held == 0
