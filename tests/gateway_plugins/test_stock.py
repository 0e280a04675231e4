"""
Handlers on the stock server's threads and greenlets: who runs what, what is mended, what ends an event.

Longer than other modules: every way in which a turn can come back is tried in both.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import gevent
import pytest

from gateway_plugins import stock, stock_process
from gateway_plugins.front import Front
from gateway_plugins.handler import Call, Exit, Handler, Wait
from gateway_plugins.kong_log import Throttle
from gateway_plugins.stock_process import background

FRONT = Front(cast("Any", None), cast("Any", None), None)
GET = Call("kong.ctx.shared.get", ("portero_facts",))
FIRST_SILENCE_S = stock._FIRST_SILENCE_S
PATIENCE_S = 10.0
"""For what has to come; nothing here takes so long but what never ends."""


class FakeProcess:
    starts = 0
    fails = False

    @property
    def front(self) -> Front:
        return FRONT

    async def start(self) -> None:
        type(self).starts += 1
        if self.fails:
            raise OSError("the folder of policies is gone")

    async def stop(self, drain_s: float | None = None) -> None: ...


class Kong:
    """As ``kong_pdk`` hands it to a plugin: any path of names can be called."""

    def __init__(self, results: dict[str, Any] | None = None, *, lua_style: bool = True) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.threads: set[int] = set()
        self._results = results or {}
        self._lua_style = lua_style

    def __getattr__(self, name: str) -> _Path:
        return _Path(self, f"kong.{name}")

    def call(self, name: str, *arguments: Any) -> Any:
        self.calls.append((name, *arguments))
        self.threads.add(threading.get_ident())
        if name == "kong.response.exit":
            return None
        result = self._results.get(name)
        if isinstance(result, Exception):
            raise result
        return (result, None) if self._lua_style else result

    @property
    def names(self) -> list[str]:
        return [call[0] for call in self.calls]

    def refusal(self) -> dict[str, Any]:
        """The problem document that the request was refused with."""
        name, status, body, fields = self.calls[-1]
        assert name == "kong.response.exit"
        assert fields["Content-Type"] == "application/problem+json"
        document: dict[str, Any] = json.loads(body)
        assert document["status"] == status
        return document


class _Path:
    def __init__(self, kong: Kong, name: str) -> None:
        self._kong, self._name = kong, name

    def __getattr__(self, name: str) -> _Path:
        return _Path(self._kong, f"{self._name}.{name}")

    def __call__(self, *arguments: Any) -> Any:
        return Kong.call(self._kong, self._name, *arguments)


class Scripted:
    """A plugin whose handler a test writes."""

    def __init__(self, answer: Callable[[Front], Handler]) -> None:
        self.answer = answer

    def access(self, kong: Any) -> None:
        stock.run(cast("Any", self), kong)


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeProcess]]:
    """Silence is never long enough for a cheap call, however slow the machine: a test that wants one says so."""
    monkeypatch.setattr(stock, "_failures", Throttle())
    monkeypatch.setattr(stock, "_FIRST_SILENCE_S", 60.0)
    monkeypatch.setattr(stock, "SILENCE_S", 60.0)

    class Fresh(FakeProcess):
        starts = 0

    stock.set_process(Fresh)
    yield Fresh
    background().stop(0.0)


def in_thread(work: Callable[[], None]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def in_greenlet(work: Callable[[], None]) -> None:
    """In a thread whose hub is its own, as it would be the stock server's."""

    def spawn() -> None:
        greenlet = gevent.spawn(work)
        greenlet.join()
        gevent.get_hub().destroy()

    in_thread(spawn)


MODES = pytest.mark.parametrize("run_in", [in_thread, in_greenlet], ids=["thread", "greenlet"])


def run(run_in: Callable[[Callable[[], None]], None], answer: Callable[[Front], Handler], kong: Kong) -> Kong:
    run_in(lambda: Scripted(answer).access(kong))
    return kong


@MODES
def test_calls_are_made_in_the_handlers_thread_and_turns_on_the_loop(run_in: Any) -> None:
    """Whatever the handler does between two calls happens beside the gate."""
    turns: list[tuple[int, Front]] = []

    def answer(front: Front) -> Handler:
        turns.append((threading.get_ident(), front))
        yield GET
        asyncio.get_running_loop()
        turns.append((threading.get_ident(), front))
        return None

    kong = run(run_in, answer, Kong())
    assert kong.calls == [("kong.ctx.shared.get", "portero_facts")]
    assert len({thread for thread, _ in turns}) == 1
    assert turns[0][0] not in kong.threads | {threading.get_ident()}
    assert all(front is FRONT for _, front in turns)


@MODES
@pytest.mark.parametrize("lua_style", [True, False], ids=["lua style", "python style"])
@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ("ü", b"\xc3\xbc"),
        ("\udcff", b"\xff"),
        (b"\xff", b"\xff"),
        ({"a": ["b", {"c": None}], 1: 2.5}, {b"a": [b"b", {b"c": None}], 1: 2.5}),
        (None, None),
        (True, True),
        ([], []),
    ],
    ids=["text", "not utf-8", "bytes", "nested", "nil", "boolean", "empty"],
)
def test_strings_come_back_as_bytes(run_in: Any, lua_style: bool, result: Any, expected: Any) -> None:
    """As on our own server, which decodes nothing."""
    got: list[Any] = []

    def answer(_front: Front) -> Handler:
        got.append((yield GET))
        return None

    run(run_in, answer, Kong({"kong.ctx.shared.get": result}, lua_style=lua_style))
    assert got == [expected]
    assert type(got[0]) is type(expected)


@MODES
def test_exit_is_the_last_call(run_in: Any) -> None:
    """Nothing follows it, and a field that stands twice is a list."""

    def answer(_front: Front) -> Handler:
        yield GET
        return Exit(403, {"A": "b", "C": ["d", "e"]}, b"no\xff")

    kong = run(run_in, answer, Kong())
    assert kong.calls[1:] == [("kong.response.exit", 403, b"no\xff", {"A": "b", "C": ["d", "e"]})]


@MODES
def test_exit_is_never_the_first_call(run_in: Any) -> None:
    """The stock server keeps for ever what it knows of an event whose first call ends it."""

    def answer(_front: Front) -> Handler:
        return Exit(403, {}, b"")
        yield GET

    assert run(run_in, answer, Kong()).names == ["kong.node.get_id", "kong.response.exit"]


def test_a_greenlet_ends_with_exit() -> None:
    """The stock server would have it wait for ever for somebody who takes its result."""
    after: list[str] = []

    def answer(_front: Front) -> Handler:
        yield GET
        return Exit(403, {}, b"")

    def work() -> None:
        Scripted(answer).access(Kong())
        after.append("ran on")

    in_greenlet(work)
    assert after == []
    in_thread(work)
    assert after == ["ran on"]


def _before(_front: Front) -> Handler:
    raise RuntimeError("a secret")
    yield GET


def _after(_front: Front) -> Handler:
    yield GET
    raise RuntimeError("a secret")


async def _breaks() -> None:
    await asyncio.sleep(0)
    raise RuntimeError("a secret")


def _waiting(_front: Front) -> Handler:
    yield Wait(_breaks())
    return None


async def _cancelled() -> None:
    raise asyncio.CancelledError


def _cancelled_wait(_front: Front) -> Handler:
    yield Wait(_cancelled())
    return None


def _nonsense(_front: Front) -> Handler:
    yield cast("Any", "a secret")
    return None


def _nothing_to_await(_front: Front) -> Handler:
    yield Wait(cast("Any", "a secret"))
    return None


def _no_exit(_front: Front) -> Handler:
    yield GET
    return cast("Exit", {"verdict": "allow"})


def _unsayable(_front: Front) -> Handler:
    yield Call("kong.ctx.shared.set", ("x", {"a": [object()]}))
    return None


def _too_large(_front: Front) -> Handler:
    yield Call("kong.ctx.shared.set", ("x", 2**64))
    return None


def _exits_python(_front: Front) -> Handler:
    yield GET
    raise SystemExit


@MODES
@pytest.mark.parametrize(
    "answer",
    [
        _before,
        _after,
        _waiting,
        _cancelled_wait,
        _nonsense,
        _nothing_to_await,
        _no_exit,
        _unsayable,
        _too_large,
        _exits_python,
    ],
    ids=lambda answer: answer.__name__.strip("_"),
)
def test_whatever_breaks_is_a_refusal(run_in: Any, answer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """500 with a problem document and no word of the exception; never silence. The log says what it was."""
    kong = run(run_in, answer, Kong())
    document = kong.refusal()
    assert (document["status"], document["reason"]) == (500, "internal-error")
    assert "secret" not in str(kong.calls)
    assert kong.names[-2:] in (
        ["kong.ctx.shared.get", "kong.response.exit"],
        ["kong.node.get_id", "kong.response.exit"],
    )
    assert "a plugin failed" in "".join(capsys.readouterr())


@MODES
def test_a_call_that_fails_is_a_refusal_and_closes_the_handler(run_in: Any) -> None:
    """What the handler holds is given back."""
    is_closed = threading.Event()

    def answer(_front: Front) -> Handler:
        try:
            yield GET
        finally:
            is_closed.set()
        return None

    kong = run(run_in, answer, Kong({"kong.ctx.shared.get": ConnectionError("gone")}))
    assert kong.refusal()["status"] == 500
    assert is_closed.wait(PATIENCE_S)


@MODES
def test_what_is_waited_for_is_sent_back(run_in: Any) -> None:
    """Results and exceptions of the loop's own, several in a row, between calls."""
    got: list[Any] = []

    async def soon(value: str) -> str:
        await asyncio.sleep(0.002)
        return value

    def answer(_front: Front) -> Handler:
        got.append((yield Wait(soon("a"))))
        got.append((yield GET))
        got.append((yield Wait(soon("b"))))
        got.append((yield Wait(soon("c"))))
        try:
            yield Wait(_breaks())
        except RuntimeError as error:
            got.append(str(error))
        got.append((yield GET))
        return None

    run(run_in, answer, Kong({"kong.ctx.shared.get": "x"}))
    assert got == ["a", b"x", "b", "c", "a secret", b"x"]


@MODES
@pytest.mark.parametrize("is_stubborn", [False, True], ids=["cancelled", "it came to something"])
def test_what_a_wait_holds_is_given_back_when_kong_fails_meanwhile(
    run_in: Any, is_stubborn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event is refused, and nobody is left who waits, or who keeps what was waited for."""
    monkeypatch.setattr(stock, "SILENCE_S", 0.05)
    ended: list[str] = []
    has_ended = threading.Event()

    def end(how: str) -> None:
        ended.append(how)
        has_ended.set()

    async def slow() -> str:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            if not is_stubborn:
                end("cancelled")
                raise
        return "a place"

    def answer(_front: Front) -> Handler:
        yield GET
        place = yield Wait(slow())
        try:
            yield Call("kong.ctx.shared.set", ("portero_verdict", {}))
        except GeneratorExit:
            end(f"{place} given back")
            raise
        return None

    kong = run(run_in, answer, Kong({"kong.node.get_id": RuntimeError("the connection broke")}))
    assert kong.refusal()["reason"] == "internal-error"
    assert has_ended.wait(PATIENCE_S)
    assert ended == ["a place given back" if is_stubborn else "cancelled"]
    assert "kong.ctx.shared.set" not in kong.names


async def _until(is_so: Callable[[], bool], result: str = "") -> str:
    """Raises: TimeoutError."""
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():  # noqa: ASYNC110 (what is waited for happens in another thread)
            await asyncio.sleep(0.002)
    return result


@MODES
def test_a_long_wait_is_broken_by_a_cheap_call(run_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kong gives up a plugin that is silent, and lets the request through."""
    monkeypatch.setattr(stock, "SILENCE_S", 0.03)
    kong, got, began = Kong(), [], time.monotonic()

    def answer(_front: Front) -> Handler:
        yield GET
        got.append((yield Wait(_until(lambda: kong.names.count("kong.node.get_id") >= 3, "waited"))))
        return Exit(200, {}, b"")

    names = run(run_in, answer, kong).names
    assert (names[0], names[-1]) == ("kong.ctx.shared.get", "kong.response.exit")
    assert set(names[1:-1]) == {"kong.node.get_id"}
    assert 3 <= len(names) - 2 <= (time.monotonic() - began) / 0.03, "one after each silence"
    assert got == ["waited"]


@MODES
def test_the_first_call_comes_soon(run_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until then the stock server begins no other event of the plugin."""
    monkeypatch.setattr(stock, "_FIRST_SILENCE_S", 0.05)
    kong = Kong()

    def answer(_front: Front) -> Handler:
        yield Wait(_until(lambda: kong.names == ["kong.node.get_id"]))
        yield GET
        return None

    assert run(run_in, answer, kong).names == ["kong.node.get_id", "kong.ctx.shared.get"]


def test_the_first_silence_is_one_that_nobody_notices() -> None:
    """Every other event of the plugin waits for so long."""
    assert FIRST_SILENCE_S <= 0.1


def test_a_wait_does_not_hold_up_other_greenlets() -> None:
    """Ten wait for each other: the hub is left to the others."""
    everybody = asyncio.Barrier(10)

    def answer(_front: Front) -> Handler:
        yield GET
        yield Wait(asyncio.wait_for(everybody.wait(), PATIENCE_S))
        return None

    kongs = [Kong() for _ in range(10)]
    in_greenlet(lambda: gevent.joinall([gevent.spawn(Scripted(answer).access, kong) for kong in kongs]))
    assert all(kong.names == ["kong.ctx.shared.get"] for kong in kongs)


def test_a_busy_loop_does_not_stop_the_hub() -> None:
    """Something long on the loop: greenlets that do not need it go on."""
    has_ticked, went_on = threading.Event(), []

    def answer(_front: Front) -> Handler:
        went_on.append(has_ticked.wait(PATIENCE_S))
        yield GET
        return None

    def tick() -> None:
        for _ in range(5):
            gevent.sleep(0.02)
        has_ticked.set()

    kong = Kong()
    in_greenlet(lambda: gevent.joinall([gevent.spawn(Scripted(answer).access, kong), gevent.spawn(tick)]))
    assert went_on == [True]
    assert kong.names[-1] == "kong.ctx.shared.get"


@MODES
@pytest.mark.parametrize("silence_s", [0.005, 15.0], ids=["calls meanwhile", "no call"])
def test_a_loop_that_is_busy_and_then_waits_shortly(
    run_in: Any, silence_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the handler has heard of the wait when it is over, or not: each result comes once, and in its turn."""
    monkeypatch.setattr(stock, "SILENCE_S", silence_s)
    got: list[Any] = []

    def answer(_front: Front) -> Handler:
        for number in range(3):
            yield GET
            time.sleep(0.04)
            got.append((yield Wait(asyncio.sleep(0, number))))
            got.append((yield Wait(asyncio.sleep(0.02, number))))
        return None

    kong = run(run_in, answer, Kong())
    assert got == [0, 0, 1, 1, 2, 2]
    assert kong.names.count("kong.ctx.shared.get") == 3


def test_the_process_is_started_once(process: type[FakeProcess]) -> None:
    """By the first event, however many come at once."""

    def answer(_front: Front) -> Handler:
        yield GET
        return None

    kongs = [Kong() for _ in range(16)]
    threads = [threading.Thread(target=Scripted(answer).access, args=(kong,)) for kong in kongs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert process.starts == 1
    assert all(kong.names == ["kong.ctx.shared.get"] for kong in kongs)


def test_a_process_that_cannot_start_is_a_refusal(process: type[FakeProcess], monkeypatch: pytest.MonkeyPatch) -> None:
    """Tried again after a while, and not by every request."""
    monkeypatch.setattr(stock_process, "_RETRY_S", 60.0)
    monkeypatch.setattr(background(), "_failed_at", float("-inf"))
    process.fails = True

    def answer(_front: Front) -> Handler:
        yield GET
        return None

    for _ in range(5):
        kong = run(in_thread, answer, Kong())
        assert kong.refusal()["status"] == 500
        assert kong.names == ["kong.node.get_id", "kong.response.exit"]
    assert process.starts == 1
    process.fails = False
    monkeypatch.setattr(background(), "_failed_at", float("-inf"))
    assert run(in_thread, answer, Kong()).names == ["kong.ctx.shared.get"]


def test_a_process_that_was_stopped_refuses() -> None:
    """What waits then is refused as well; nothing hangs."""
    kong, is_waiting = Kong(), threading.Event()

    async def for_ever() -> None:
        is_waiting.set()
        await asyncio.Event().wait()

    def answer(_front: Front) -> Handler:
        yield GET
        yield Wait(for_ever())
        return None

    waiting = threading.Thread(target=Scripted(answer).access, args=(kong,))
    waiting.start()
    assert is_waiting.wait(PATIENCE_S)
    background().stop(0.0)
    waiting.join(PATIENCE_S)
    assert kong.refusal()["status"] == 500
    assert run(in_thread, answer, Kong()).refusal()["status"] == 500


def test_patched_threads_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gevent's patches would run the event loop in the hub, which then serves nothing else."""

    def answer(_front: Front) -> Handler:
        yield GET
        return None

    monkeypatch.setattr("gevent.monkey.is_module_patched", lambda name: name == "threading")
    assert run(in_thread, answer, Kong()).refusal()["status"] == 500


def test_a_loop_that_has_ended_by_itself_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody will ever say what is waited for; the next cheap call finds out."""
    monkeypatch.setattr(stock, "SILENCE_S", 0.03)
    monkeypatch.setattr(background(), "is_alive", lambda: False)

    def answer(_front: Front) -> Handler:
        yield GET
        yield Wait(asyncio.sleep(60))
        return None

    kong = run(in_thread, answer, Kong())
    assert kong.refusal()["status"] == 500
    assert kong.names == ["kong.ctx.shared.get", "kong.node.get_id", "kong.response.exit"]
