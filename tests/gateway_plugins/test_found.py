"""What the plugins of a chain leave for the next: complete, read by another process, and nothing else is read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_plugins import found
from gateway_plugins.found import MAX_BYTES, read_found, write_found
from policies.decision import Deny, LimitState, Reason, RuleRef
from policies.principal import Confirmation, Principal, anonymous
from policies.stages import Earlier, Stage
from tests.fakes.plugins import REQUEST_ID

MEMOS = {"assertion_block", "inject_block", "role_mask", "role_table"}
"""Members of a principal that are remembered on it and hold no authority."""


def ana() -> Principal:
    """With every member set to something that is not its default."""
    principal = Principal(
        "login",
        "ana|ä",
        groups=frozenset({"analysts", "b"}),
        has_unknown_groups=True,
        email="ana@acme.test",
        claims={"iss": "https://id.test", "aud": ["survey"], "region": "eu", "big": 2**80, "x": {"y": [1.5, None]}},
        expires_at=1_800_000_000.5,
    )
    principal.issuer = "https://id.test"
    principal.sid = "s1"
    principal.issued_at = 1_700_000_000.25
    principal.name = "Ana"
    principal.confirmation = Confirmation("thumb", "cert")
    principal.only_function = "report"
    principal.session_id = "session"
    principal.is_by_cookie = True
    principal.is_session_over = True
    principal.set_cookie = b"Set-Cookie: a=1\r\n"
    return principal


def members(principal: Principal | None) -> dict[str, Any] | None:
    if principal is None:
        return None
    return {name: getattr(principal, name) for name in Principal.__slots__ if name not in MEMOS}


def an_earlier(principal: Principal | None = None, **changes: Any) -> Earlier:
    return Earlier(
        frozenset({Stage.TENANT, Stage.RBAC}),
        principal,
        RuleRef("analysts", "acme.yaml:7"),
        (LimitState("rate", 10, 1, 9, 1, '"rate"', '"rate";q=10;w=1'),),
        (Deny(Reason.NO_RULE_ALLOWS, "because", RuleRef("r", "acme.yaml:8"), tenant="acme", part="fields"),),
        REQUEST_ID,
        "acme",
        "report",
        "a-revision",
    )._replace(**changes)


def reread(earlier: Earlier) -> Earlier:
    """As another process reads it: nothing is remembered there."""
    found._callers.clear()
    again = read_found(write_found(earlier))
    assert again is not None
    return again


def test_nothing_is_lost() -> None:
    """Each member of the caller, the rule, limits, shadowed refusals and the request's name."""
    principal = ana()
    defaults = members(Principal("p", "s"))
    assert defaults is not None
    assert not [name for name, value in defaults.items() if getattr(principal, name) == value]
    earlier = an_earlier(principal)
    again = reread(earlier)
    assert members(again.principal) == members(principal)
    assert again._replace(principal=None) == earlier._replace(principal=None)


@pytest.mark.parametrize("principal", [None, anonymous(), Principal("service-account", "ci")])
def test_callers_of_every_kind(principal: Principal | None) -> None:
    """Nobody asked yet, nobody, an account."""
    again = reread(an_earlier(principal, rule=None, limits=(), shadowed=()))
    assert members(again.principal) == members(principal)


def test_text_of_the_stock_server_is_the_same() -> None:
    """It decodes what Kong says."""
    raw = write_found(an_earlier(ana()))
    assert read_found(raw.decode()) == read_found(raw)


def test_one_credential_is_one_caller() -> None:
    """What is remembered on him (his roles, his assertion) is made once, and never for two tenants."""
    first, second = reread(an_earlier(ana())), read_found(write_found(an_earlier(ana(), function="other")))
    assert second is not None
    assert second.principal is first.principal
    other = read_found(write_found(an_earlier(ana(), tenant="globex")))
    assert other is not None
    assert other.principal is not first.principal


def test_what_is_remembered_is_bounded() -> None:
    """Callers choose who they are."""
    found._callers.clear()
    for number in range(found._MEMO_ENTRIES + 10):
        assert read_found(write_found(an_earlier(Principal("login", f"u{number}")))) is not None
    assert len(found._callers) == 10
    found._callers.clear()
    read_found(write_found(an_earlier(Principal("login", "s" * found._MEMO_BYTES))))
    assert not found._callers


def changed(**members: Any) -> bytes:
    document = json.loads(write_found(an_earlier(ana())))
    for name, value in members.items():
        if value is ...:
            del document[name]
        else:
            document[name] = value
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    "raw",
    [
        None,
        b"",
        7,
        [],
        b"{}",
        b"null",
        b"\xff",
        "\ud800",
        b"[" * 100_000,
        b" " * (MAX_BYTES + 1),
        changed(version=2),
        changed(version=...),
        changed(done=["everything"]),
        changed(done=None),
        changed(principal=[]),
        changed(principal={"provider": "login"}),
        changed(principal={"provider": "login", "sub": "ana", "groups": [], "claims": {}, "is_admin": True}),
        changed(principal={"provider": "login", "sub": "ana", "groups": [], "claims": {}, "set_cookie": "\u00e4"}),
        changed(request_id="short"),
        changed(request_id="X\r\nY" + "0" * 28),
        changed(request_id=REQUEST_ID.upper()),
        changed(limits=[1]),
        changed(shadowed=[{"reason": "no-such"}]),
        changed(more=1),
    ],
    ids=range(24),
)
def test_anything_else_was_not_found(raw: object) -> None:
    """The next plugin refuses then; nothing raises."""
    assert read_found(raw) is None


@given(st.one_of(st.binary(), st.text()))
def test_no_bytes_raise(raw: bytes | str) -> None:
    assert read_found(raw) is None


def test_no_memo_of_ours_is_passed_on() -> None:
    """What stands on a principal for speed holds no authority elsewhere."""
    principal = ana()
    principal.role_mask, principal.role_table = 7, object()
    again = reread(an_earlier(principal))
    assert again.principal is not None
    assert (again.principal.role_mask, again.principal.role_table) == (0, None)
