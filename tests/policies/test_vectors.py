"""The vectors, judged by the core alone; and that they say what they are meant to."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from policies.decision import Reason
from tests.fakes.vector_core import decide, limits_of
from tests.fakes.vectors import FOLDER, Outcome, Received, Vector, load_vectors, mismatches

VECTORS = load_vectors()

NOT_OF_ONE_HEAD = {
    # Of bytes that follow the head, or of the function's own: tests/authproxy/edges and tests/integration.
    Reason.BODY_MALFORMED,
    Reason.REQUEST_TIMEOUT,
    Reason.UPSTREAM_UNREACHABLE,
    Reason.UPSTREAM_CLOSED,
    Reason.UPSTREAM_GARBLED,
    Reason.UPSTREAM_TIMEOUT,
    # Of the process, whatever is asked: tests/authproxy/gate and tests/authproxy/activator.
    Reason.INTERNAL_ERROR,
    Reason.OVERLOADED,
    Reason.DRAINING,
    Reason.POLICY_UNAVAILABLE,
    Reason.CLIENT_GONE,
    # Of logins, sessions, introspection and results, which no policy can ask for yet.
    Reason.LOGIN_FAILED,
    Reason.SESSION_EXPIRED,
    Reason.RESULT_UNKNOWN,
    # Of the listener that Kong sends requests to: tests/authproxy/edges/test_internal.py.
    Reason.PASS_INVALID,
    # Of a function that sleeps while another request might wake it: tests/policies/test_overflow.py.
    Reason.FUNCTION_ASLEEP,
    Reason.PROVIDER_UNAVAILABLE,
    Reason.SESSION_STORE_UNAVAILABLE,
}


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
def test_the_core_decides_as_the_vector_says(vector: Vector) -> None:
    """Decision, status, reason, rule, and what the function would receive."""
    assert mismatches(vector, decide(vector)) == []


def test_there_are_enough_vectors() -> None:
    """Losing a file must not look like success."""
    assert len(VECTORS) >= 170


def test_every_reason_that_a_head_can_have_occurs() -> None:
    """A reason is either shown by a vector or said to be none of theirs, never both."""
    shown = {vector.case.expect.reason for vector in VECTORS} - {None}
    assert shown == set(Reason) - NOT_OF_ONE_HEAD


def test_every_limit_that_is_spent_applies_to_its_request() -> None:
    """A limit's name misspelt in ``spent`` would leave it unspent at every edge."""
    for vector in VECTORS:
        if vector.state.spent:
            limits_of(vector)


def test_a_parser_may_refuse_in_its_own_words_what_is_marked_so() -> None:
    """Other edges' parsers know no reasons of ours; what they let through counts, what they call it does not."""
    vector = next(vector for vector in VECTORS if vector.case.wire)
    refused, passed = Outcome("deny", 405), Outcome("allow", 200, received=Received("GET /", ()))
    assert mismatches(vector, refused, has_parser=True) == []
    assert mismatches(vector, refused) != []
    assert mismatches(vector, passed, has_parser=True) != []


CASE = {
    "name": "one",
    "request": {"line": "GET /"},
    "expect": {"decision": "deny", "status": 400, "reason": "bad-request"},
}


@pytest.mark.parametrize(
    ("cases", "complaint"),
    [
        ([CASE | {"requets": {}}], "requets"),
        ([CASE | {"expect": CASE["expect"] | {"recieves": {}}}], "recieves"),  # type: ignore[operator]  # a dict
        ([CASE | {"state": {"spend": ["total"]}}], "spend"),
        ([CASE | {"as": {"provider": "login", "subject": "ana", "tamper": "expird"}}], "tamper"),
        ([CASE | {"as": {"provider": "login"}}], "expected provider and subject"),
        ([CASE | {"expect": {"decision": "deny", "status": 400, "reason": "bad-reqest"}}], "reason"),
        ([CASE | {"expect": {"decision": "deny", "status": 400}}], "has a reason"),
        ([CASE | {"expect": CASE["expect"] | {"receives": {}}}], "only what is allowed"),  # type: ignore[operator]  # a dict
        ([CASE, CASE], "more than once"),
        ([], "at least 1"),
    ],
    ids=str,
)
def test_a_typo_in_a_vector_fails(tmp_path: Path, cases: list[object], complaint: str) -> None:
    """A case that is not read as it was meant would pass for the wrong reason."""
    _write(tmp_path, yaml.safe_dump({"world": "two-tenants", "cases": cases}))
    with pytest.raises(ValueError, match=complaint):
        load_vectors(tmp_path)


def test_a_duplicate_key_in_a_vector_fails(tmp_path: Path) -> None:
    """Of two keys only the last would count."""
    _write(tmp_path, "world: two-tenants\ncases: [{name: one, name: two}]\n")
    with pytest.raises(yaml.YAMLError, match="duplicate"):
        load_vectors(tmp_path)


def test_an_unknown_world_fails(tmp_path: Path) -> None:
    """An empty world would refuse everything, which is what many cases expect."""
    _write(tmp_path, yaml.safe_dump({"world": "two-tenant", "cases": [CASE]}))
    with pytest.raises(ValueError, match="no world"):
        load_vectors(tmp_path)


def _write(folder: Path, text: str) -> None:
    (folder / "worlds").symlink_to(FOLDER / "worlds")
    (folder / "cases.yaml").write_text(text)
