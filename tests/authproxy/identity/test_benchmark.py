"""The benchmark of identity in small: it runs, everybody is known, and a caller seen before costs less."""

from __future__ import annotations

import pytest

from benchmarks import identity

pytestmark = pytest.mark.alone


def test_a_caller_seen_before_costs_less() -> None:
    """Bounds loose enough for any machine."""
    figures = identity.measure(callers=8, passes=5)
    assert set(figures) == {identity.TOKEN, identity.SEEN, identity.OPEN, identity.SEEN_LARGE, identity.OPEN_LARGE}
    assert figures[identity.SEEN] < figures[identity.OPEN] < 5000


def test_targets_are_checked_only_when_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And each of them is printed."""
    figures = dict.fromkeys(identity.TARGETS, 1000.0)
    monkeypatch.setattr(identity, "measure", lambda passes: figures)
    assert identity.main([]) == 0
    assert identity.main(["--check"]) == 1
    printed = capsys.readouterr().out
    assert all(name in printed for name in identity.TARGETS)
    monkeypatch.setattr(identity, "measure", lambda passes: dict.fromkeys(identity.TARGETS, 1.0))
    assert identity.main(["--check"]) == 0
