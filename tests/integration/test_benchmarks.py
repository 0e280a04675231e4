"""
The benchmarks run: one short turn of each variant, some mebibytes through the proxy, small cold starts. No time is
judged here; what can be counted is.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from benchmarks import coldstart, proxy, stream
from benchmarks._coldstart import abandoned, core, fairness, held, lateness, lines, pacing, slots
from benchmarks._coldstart.row import Row
from benchmarks._proxies.load import Run, measure
from benchmarks._proxies.process import Unmeasurable
from tests.fakes.pulse import Pulse

pytestmark = pytest.mark.alone


@pytest.mark.slow
@pytest.mark.redis
def test_every_variant_can_be_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """nginx, Caddy, a naive proxy and Portero answer under load, and the table names each of them."""
    with Pulse() as pulse:

        def at_rest(*arguments: Any, **options: Any) -> Run:
            """Of a second without a request there is nothing to tell."""
            return pulse.at_rest(lambda: measure(*arguments, **options), lambda run: run.cpu_us > 0)

        monkeypatch.setattr(proxy, "measure", at_rest)
        is_done = proxy.main(["--rounds", "1", "--seconds", "1", "--warm-up", "0"])
    assert is_done == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    for variant in proxy.VARIANTS:
        assert f"\n{variant} " in printed
    for first, second, _ in proxy.TARGETS:
        assert f"{first} / {second}: " in printed


def test_memory_does_not_grow_with_the_body() -> None:
    """64 MiB each way (the benchmark has a gibibyte)."""
    assert asyncio.run(stream.measure(64 * 1024 * 1024)) <= stream.MAX_GROWTH_BYTES


def test_a_missing_program_is_an_error_that_names_its_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is skipped silently."""
    monkeypatch.setattr("benchmarks._proxies.process.shutil.which", lambda *_a, **_k: None)
    assert proxy.main(["--rounds", "1", "--only", "nginx"]) == 2
    assert "is not installed (Debian package: " in capsys.readouterr().err


def missed(rows: list[Row], *, but: str = "") -> list[Row]:
    """Those whose target is missed, leaving out the names that have ``but`` in them: times, on a busy machine."""
    return [row for row in rows if row.is_met is False and not (but and but in row.name)]


async def test_the_core_and_the_hot_path_can_be_measured() -> None:
    """Each operation has its time; how much that is, is not judged here."""
    rows = await core.measure(rounds=1)
    assert len(rows) == 5
    assert all(re.search(r"\d", row.measured) for row in rows)


@pytest.mark.slow
async def test_mice_are_served_beside_an_elephant() -> None:
    """Nobody of them is refused where first come, first served refuses them; all three lines stand in one table."""
    rows, table = await fairness.measure(1, [way := next(iter(fairness.WAYS))], rounds=1)
    assert not [row for row in rows if "refused" in row.name and not row.is_met]
    assert [text.split("  ")[0] or text.split("  ")[1] for text in table if text] == [way, "mice alone", *lines.ROOMS]


async def test_a_thousand_requests_are_held_and_forgotten() -> None:
    """Each is counted, and nothing of them is left (the benchmark has ten thousand)."""
    assert not missed(await held.measure(1000), but="memory")


@pytest.mark.slow
async def test_clients_that_give_up_leave_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three seconds of two hundred each (the benchmark has a minute): no place, byte, descriptor, task or cycle."""
    monkeypatch.setattr(abandoned, "PATIENCE_S", 3.0)  # each is held by then, though the machine stands still
    assert not missed(await abandoned.measure(seconds=3), but="slope")


async def test_a_function_that_has_just_woken_is_paced() -> None:
    """Never more inside it than it takes, nor than ten for each ready replica."""
    assert not missed(await pacing.measure(starting_s=5))


async def test_lateness_can_be_measured() -> None:
    """Every held request is answered after its function was ready."""
    rows = await lateness.measure(functions=5, rounds=1)
    assert [row.name.split(":")[0] for row in rows] == ["lateness"] * 3


@pytest.mark.slow
@pytest.mark.redis
async def test_two_porteros_share_one_replica() -> None:
    """Never two requests are inside it, and nobody is refused."""
    assert not missed(await slots.measure(seconds=3, rounds=1, at_each=(2,)), but="idle")


def test_a_missed_target_is_an_error_only_when_it_is_checked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``--check`` exits 1; without it the figures are only printed. What cannot be measured is neither."""

    async def misses() -> list[Row]:
        return [Row("pacing: inside at most", "4", "3", is_met=False)]

    async def unmeasurable() -> list[Row]:
        raise Unmeasurable("why")

    monkeypatch.setitem(coldstart.PARTS, "pacing", misses)
    monkeypatch.setitem(coldstart.PARTS, "slots", unmeasurable)
    assert coldstart.main(["--only", "pacing"]) == 0
    assert coldstart.main(["--only", "pacing", "--check"]) == 1
    assert "pacing: inside at most  4  3  MISSED" in capsys.readouterr().out
    assert coldstart.main(["--only", "slots"]) == 2
    assert "error: why" in capsys.readouterr().err
