"""
Each plugin against a gate that does as it is told: the calls it makes, and that whatever breaks is a refusal.

Longer than other modules: five plugins, and each way in which one can end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from authproxy.gate.verdict import PageCall, Passed, Refused, StagePassed, Undecided
from gateway_plugins.answers import VERDICT
from gateway_plugins.facts import FACTS
from gateway_plugins.found import FOUND, read_found, write_found
from gateway_plugins.handler import Call, Plugin
from gateway_plugins.plugins import PLUGINS, dump
from gateway_plugins.portero import Plugin as Portero
from policies.decision import Deny, Known, Page, Reason
from policies.pipeline import Identify
from policies.principal import Principal
from policies.problem import problem
from policies.request import Head
from policies.stages import Earlier, Stage
from tests.fakes.identity import Clock
from tests.fakes.plugins import PASS, REQUEST_ID, Played, Told, a_passed, an_undecided, facts_of, play
from tests.fakes.tenancy import a_function, a_head, a_tenant

ACME = a_tenant(functions=[a_function("narrow", concurrency=1)])
HEAD = a_head("/function/f", (b"authorization", b"Bearer secret"))
CHAIN = ["portero-tenant", "portero-rbac", "portero-ratelimit", "portero-coldstart"]
ONE_OF_EACH: list[tuple[str, dict[str, Any]]] = [
    ("portero", {}),
    *((name, {}) for name in CHAIN),
    *((name, {"final": True}) for name in CHAIN),
]


def made(name: str, **config: Any) -> Plugin:
    """As the server makes it: with the keys that Kong adds."""
    return PLUGINS[name].Plugin({"__plugin_id": "p", "__seq__": 1, **config})


def passed(target: str = "/function/f") -> Passed:
    made = a_passed(a_head(target), ACME, Principal("login", "ana"))
    assert isinstance(made, Passed)
    return made


def refused(reason: Reason = Reason.NO_RULE_ALLOWS) -> Refused:
    return Refused(problem(Deny(reason), REQUEST_ID), REQUEST_ID)


def found(*done: Stage, principal: Principal | None = None) -> bytes:
    return write_found(Earlier(frozenset(done), principal, None, (), (), REQUEST_ID, "acme", "f", "a-revision"))


async def event(
    plugin: Plugin, told: Told, shared: Mapping[str, Any] | None = None, *, head: Head = HEAD
) -> tuple[Played, dict[str, Any]]:
    memory = {FACTS: facts_of(head), **(shared or {})}
    return await play(plugin.answer(told.front()), memory), memory


# --- portero ---------------------------------------------------------------------------------------------------------


async def test_an_allowed_request_takes_two_calls() -> None:
    """The facts, and the verdict."""
    told = Told(passed())
    played, shared = await event(made("portero"), told)
    assert played == (None, [f"get {FACTS}", f"set {VERDICT}"])
    assert shared[VERDICT]["host"] == "10.1.2.3"
    assert told.left_ == [told.verdict]
    assert told.heads[0].target == b"/function/f"


async def test_a_refused_request_takes_two_calls() -> None:
    """The facts, and the exit."""
    played, shared = await event(made("portero"), Told(refused()))
    assert (played.reason, played.calls) == ("no-rule-allows", [f"get {FACTS}"])
    assert VERDICT not in shared


async def test_what_is_not_at_hand_is_waited_for() -> None:
    """But for the function itself."""
    waiting = passed()
    undecided = an_undecided(waiting)
    asking = Undecided(waiting.case, waiting.request, undecided.judging, Identify(waiting.allow.place, waiting.request))
    played, shared = await event(made("portero"), Told(asking, settled=waiting))
    assert (played.exit, shared[VERDICT]["host"]) == (None, "10.1.2.3")
    played, shared = await event(made("portero"), Told(asking, settled=refused()))
    assert played.reason == "no-rule-allows"
    told = Told(undecided)
    played, shared = await event(made("portero"), told)
    assert (shared[VERDICT]["set"]["X-Portero-Pass"], told.issued) == (PASS, [undecided])
    assert told.left_ == []


async def test_nothing_leaves_directly_when_the_config_says_so() -> None:
    """``direct: false``."""
    told = Told(passed())
    _, shared = await event(made("portero", direct=False), told)
    assert shared[VERDICT]["set"]["X-Portero-Pass"] == PASS


def test_who_does_not_come_back_leaves_no_pass() -> None:
    """Kong died, or could not keep the verdict: what waits under the pass is ended at once."""
    for ending in ("close", "throw"):
        told = Told(passed("/function/narrow"))
        handler = made("portero").answer(told.front())
        assert handler.send(None) == Call("kong.ctx.shared.get", (FACTS,))
        handler.send(facts_of(HEAD))
        if ending == "close":
            handler.close()
        else:
            with pytest.raises(StopIteration) as end:
                handler.throw(RuntimeError("kong"))
            assert end.value.value.fields["X-Portero-Reason"] == "internal-error"
        assert told.taken_back == [PASS]


# --- whatever breaks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "config"), ONE_OF_EACH)
@pytest.mark.parametrize("facts", [None, b"", b"portero/2\n", b"portero/1\n\xff", 7], ids=range(5))
async def test_without_facts_nobody_passes(
    name: str, config: Mapping[str, Any], facts: object, capsys: pytest.CaptureFixture[str]
) -> None:
    """The pre-function did not run, so that nothing is known and nothing was cleaned."""
    told = Told(passed())
    played, shared = await event(made(name, **config), told, {FACTS: facts})
    assert played.reason == "internal-error"
    assert played.exit is not None
    assert played.exit.status == 500
    assert (told.heads, told.left_, VERDICT in shared, FOUND in shared) == ([], [], False, False)


async def test_the_log_says_that_the_pre_function_did_not_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a second, not once a request."""
    clock = Clock()
    for name, value in (("_clock", clock), ("_second", 0.0), ("_written", 0)):
        monkeypatch.setattr(f"gateway_plugins.steps._throttle.{name}", value)
    for _ in range(2):
        for _ in range(5):
            await event(made("portero"), Told(), {FACTS: None})
        clock.pass_s(1)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "pre-function did not run" in lines[0]


@pytest.mark.parametrize(("name", "config"), ONE_OF_EACH)
async def test_an_exception_is_a_refusal(
    name: str, config: Mapping[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Its text stays in the log."""
    told = Told(RuntimeError("a secret"))
    played, shared = await event(made(name, **config), told)
    assert played.reason == "internal-error"
    assert played.exit is not None
    assert b"secret" not in played.exit.body
    assert (VERDICT in shared, FOUND in shared) == (False, False)


async def test_a_gate_that_cannot_even_refuse_lets_nobody_through(capsys: pytest.CaptureFixture[str]) -> None:
    """The last resort needs nobody."""
    played, _ = await event(made("portero"), Told(RuntimeError("a secret"), breaks=True))
    assert played.exit is not None
    assert (played.reason, played.exit.status) == ("internal-error", 500)


async def test_a_wait_that_fails_is_a_refusal(capsys: pytest.CaptureFixture[str]) -> None:
    """The server throws its exception into the handler."""
    waiting = passed()
    ready = an_undecided(waiting)
    asking = Undecided(waiting.case, waiting.request, ready.judging, Identify(waiting.allow.place, waiting.request))
    handler = made("portero").answer(Told(asking).front())
    handler.send(None)
    wait: Any = handler.send(facts_of(HEAD))
    wait.awaitable.close()
    with pytest.raises(StopIteration) as end:
        handler.throw(RuntimeError("a secret"))
    assert end.value.value.fields["X-Portero-Reason"] == "internal-error"


# --- the chain -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHAIN)
async def test_what_is_found_is_left_for_the_next(name: str) -> None:
    """With the caller, and the request's name."""
    allowed = passed()
    known = Known(allowed.allow.place, allowed.allow.principal)
    told = Told(StagePassed(allowed.case, known))
    played, shared = await event(made(name), told)
    assert played == (None, [f"get {FACTS}", f"set {FOUND}"])
    left = read_found(shared[FOUND])
    assert left is not None
    assert (left.done, left.tenant, left.function) == ({PLUGINS[name].Plugin.stage}, "acme", "f")  # type: ignore[attr-defined]  # of chain plugins
    assert left.request_id == allowed.case.request_id
    assert VERDICT not in shared


async def test_what_was_found_is_taken_over() -> None:
    """The request keeps its name, and what was asked stays asked."""
    allowed = passed()
    told = Told(StagePassed(allowed.case, Known(allowed.allow.place, allowed.allow.principal)))
    plugin = made("portero-ratelimit", after=["portero-tenant", "portero-rbac"])
    played, shared = await event(
        plugin, told, {FOUND: found(Stage.TENANT, Stage.RBAC, principal=Principal("login", "ana"))}
    )
    assert played.calls == [f"get {FACTS}", f"get {FOUND}", f"set {FOUND}"]
    assert told.request_ids == [REQUEST_ID]
    left = read_found(shared[FOUND])
    assert left is not None
    assert left.done == {Stage.TENANT, Stage.RBAC, Stage.RATELIMIT}


@pytest.mark.parametrize("before", [None, b"", b"{}", found(), found(Stage.TENANT), found(Stage.RBAC)], ids=range(6))
@pytest.mark.parametrize("is_final", [True, False])
async def test_a_link_that_is_missing_is_a_refusal(
    before: bytes | None, is_final: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server of an earlier plugin was down, and Kong has passed it by."""
    told = Told(passed())
    plugin = made("portero-coldstart", after=["portero-tenant", "portero-rbac"], final=is_final)
    played, shared = await event(plugin, told, {FOUND: before})
    assert played.reason == "internal-error"
    assert (told.heads, VERDICT in shared) == ([], False)


async def test_fields_of_a_request_are_no_finding() -> None:
    """Whatever a client calls them."""
    head = a_head("/function/f", (FOUND.encode(), found(Stage.RBAC)), (b"portero-found", found(Stage.RBAC)))
    plugin = made("portero-coldstart", after=["portero-rbac"], final=True)
    played, _ = await event(plugin, Told(passed()), head=head)
    assert played.reason == "internal-error"


async def test_only_the_last_one_lets_out() -> None:
    """A verdict is set by the plugin that is final, and by no other, whatever the gate says."""
    told = Told(passed())
    played, shared = await event(made("portero-rbac"), told)
    assert (played.reason, VERDICT in shared) == ("internal-error", False)
    assert told.ended == [(told.verdict, Reason.INTERNAL_ERROR)]
    played, shared = await event(made("portero-rbac", final=True), Told(passed()))
    assert (played.exit, VERDICT in shared) == (None, True)


async def test_a_page_of_ours_goes_through_the_chain() -> None:
    """The last one hands it to the internal listener; those before have nothing to ask about it."""
    page = PageCall(passed().case, Page(ACME, "whoami"))
    told = Told(page)
    _, shared = await event(made("portero-tenant"), told)
    assert told.issued == []
    left = read_found(shared[FOUND])
    assert left is not None
    assert (left.function, left.principal) == ("", None)
    _, shared = await event(
        made("portero-coldstart", after=["portero-tenant"], final=True), told, {FOUND: shared[FOUND]}
    )
    assert shared[VERDICT]["set"]["X-Portero-Pass"] == PASS
    assert told.issued == [page]


async def test_who_was_found_is_the_caller_of_a_later_refusal() -> None:
    """The audit names him, and a session that was made anew for him reaches the browser."""
    caller = Principal("login", "ana")
    plugin, told = made("portero-ratelimit", after=["portero-rbac"]), Told(refused(Reason.RATE_LIMITED))
    await event(plugin, told, {FOUND: found(Stage.RBAC, principal=caller)})
    [known] = told.callers
    assert known is not None
    assert known.subject == caller.subject


# --- config ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("portero", {"direct": "yes"}),
        ("portero", {"direct": None}),
        ("portero-tenant", {"final": 1}),
        ("portero-tenant", {"after": ["portero-tenant"]}),
        ("portero-rbac", {"after": ["portero-ratelimit"]}),
        ("portero-rbac", {"after": ["portero"]}),
        ("portero-rbac", {"after": "portero-tenant"}),
        ("portero-coldstart", {"after": [7]}),
        ("portero-coldstart", {"after": {"1": "portero-tenant"}}),
    ],
)
def test_a_config_that_is_none_starts_nothing(name: str, config: dict[str, Any]) -> None:
    """Kong refuses each request then."""
    with pytest.raises(ValueError, match="expected"):
        made(name, **config)


@pytest.mark.parametrize("after", [[], {}, None])
def test_an_empty_table_is_an_empty_list(after: Any) -> None:
    """Lua does not tell them apart."""
    made("portero-tenant", after=after)


def test_nobody_is_final_by_default() -> None:
    """A chain that nobody ends ends in the post-function's refusal."""
    for name in CHAIN:
        fields = {key: value for field in PLUGINS[name].Schema for key, value in field.items()}
        assert fields["final"]["default"] is False


@pytest.mark.parametrize("name", PLUGINS)
def test_what_kong_is_told(name: str) -> None:
    """As kong-pdk's own dump says it, in JSON; only the phase that is used."""
    (told,) = json.loads(json.dumps(dump(name)))
    assert (told["Name"], told["Phases"], told["Schema"]["name"]) == (name, ["access"], name)
    (config,) = told["Schema"]["fields"]
    assert config["config"]["type"] == "record"
    assert all(len(field) == 1 for field in config["config"]["fields"])
    phases = ("certificate", "rewrite", "log", "access", "preread", "response")
    assert [phase for phase in phases if hasattr(PLUGINS[name].Plugin, phase)] == ["access"]


def test_they_run_in_the_order_of_the_questions() -> None:
    """Kong runs the highest priority first; between Kong's own credentials plugins and its rate limiting."""
    priorities = [PLUGINS[name].priority for name in CHAIN]
    assert priorities == [1040, 1030, 1020, 1010]
    assert PLUGINS["portero"].priority == 1040


def test_every_plugin_says_its_config() -> None:
    """In its module's docstring, as YAML."""
    for name, module in PLUGINS.items():
        text: str = module.__doc__ or ""
        assert f"- name: {name}\n" in text
        for field in module.Schema:
            assert all(key in text for key in field)


def test_the_stock_server_finds_access() -> None:
    """It calls ``access`` with its own object."""
    assert callable(Portero({}).access)
