"""The benchmark of decisions in small: it runs, and a decision does not grow with the number of rules."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.decide import build_world, measure_judge, measure_may, write_folder
from policies.compiler import compile_files

pytestmark = pytest.mark.alone


def test_a_decision_does_not_walk_the_rules() -> None:
    """Bounds loose enough for any machine: a scan of 20,000 rules would take a hundred times as long."""
    small, large = (measure_may(build_world(rules, 1, 500), rounds=3) for rules in (200, 20_000))
    assert large.p50 < 100
    assert large.p50 < 20 * small.p50
    assert 0.4 < large.allowed_ratio < 0.8


def test_the_whole_of_judge_agrees_with_question_3() -> None:
    """Nothing but policy refuses in the benchmark's world."""
    world = build_world(1_000, 10, 500)
    whole = measure_judge(world, rounds=2)
    assert whole.allowed_ratio == measure_may(world, rounds=2).allowed_ratio
    assert whole.p50 < 1000


def test_the_folder_that_policy_check_is_timed_on_is_sound(tmp_path: Path) -> None:
    """As many rules as were asked for, and no mistake."""
    write_folder(tmp_path, 400, 2)
    policies = compile_files({path.name: path.read_bytes() for path in tmp_path.iterdir()})
    assert policies.rule_count == 400
