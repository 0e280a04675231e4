"""The benchmark of plugin servers runs: one short turn of each. No time is judged here."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import kong
from benchmarks._kong.load import Load, measure
from benchmarks._kong.server import COMMANDS
from benchmarks._proxies.process import Unmeasurable
from tests.fakes.pulse import Pulse

pytestmark = pytest.mark.alone


@pytest.mark.slow
def test_every_server_can_be_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each event ends as it should, with its two calls, and the tables name each server."""
    with Pulse() as pulse:

        def at_rest(*arguments: Any) -> Load:
            """After a second without questions nobody knows any more that a function is awake."""
            return pulse.at_rest(lambda: measure(*arguments), lambda load: "listener" not in load.endings)

        monkeypatch.setattr(kong, "measure", at_rest)
        assert kong.main(["--small", "--only", "portero"]) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    for server in COMMANDS:
        assert f"portero  {server} " in printed
        assert f"memory over 500 refusals: {server}" in printed
    for server in kong.TARGETS:
        assert f"portero: CPU, ours over {server}" in printed


def turns(ours_ms: float) -> dict[tuple[str, str], list[kong.Turn]]:
    load = Load(1000, 1.0, 1.0, 2.0, 2.0, {"direct": 1000})
    cpu = {"ours": ours_ms, "threads": 400.0, "greenlets": 200.0}
    return {("portero", server): [kong.Turn(cpu_ms, load)] for server, cpu_ms in cpu.items()}


@pytest.mark.parametrize(
    ("ours_ms", "grown", "missed"),
    [(90.0, 0, []), (150.0, 0, ["threads"]), (180.0, 0, ["threads", "greenlets"]), (90.0, 3_000_000, ["memory"])],
    ids=["all met", "too dear for threads", "too dear for both", "grows"],
)
def test_a_missed_target_is_an_error_only_when_it_is_checked(
    ours_ms: float,
    grown: int,
    missed: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """``--check`` exits 1; without it the figures are only printed."""
    monkeypatch.setattr(kong, "run", lambda *_arguments: (turns(ours_ms), {"ours": grown, "threads": 9_000_000}))
    assert kong.main([]) == 0
    assert kong.main(["--check"]) == (1 if missed else 0)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.endswith("MISSED")]
    assert len(lines) == 2 * len(missed)
    assert all(any(word in line for line in lines) for word in missed)


def test_what_cannot_be_measured_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such as an event that ended otherwise than it should."""

    def unmeasurable(*_arguments: object) -> None:
        raise Unmeasurable("why")

    monkeypatch.setattr(kong, "run", unmeasurable)
    assert kong.main([]) == 2
    assert "error: why" in capsys.readouterr().err
