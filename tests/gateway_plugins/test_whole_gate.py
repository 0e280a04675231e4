"""
The plugins on a whole gate: one plugin and a chain of four answer as the proxy does, and nothing is left behind.

Longer than other modules: a plugin and a chain, through all that the gate can say.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from authproxy.gate.verdict import Passed, Undecided
from gateway_plugins.answers import VERDICT
from gateway_plugins.facts import FACTS
from gateway_plugins.found import FOUND, read_found
from gateway_plugins.plugins import PLUGINS
from policies.coldstart import STARTING_S
from policies.stages import Stage
from tests.fakes.plugins import Asked, Kong, running_kong
from tests.fakes.proofs import a_proof, jkt_of
from tests.fakes.world import request_bytes

CHAIN = ("portero-tenant", "portero-rbac", "portero-ratelimit", "portero-coldstart")
REPORT = "GET /function/survey-report/by-country/es"


def portero() -> list[Any]:
    return [PLUGINS["portero"].Plugin({})]


def chain() -> list[Any]:
    """As it is rendered."""
    return [
        PLUGINS[name].Plugin({"after": list(CHAIN[:at]), "final": name == CHAIN[-1]}) for at, name in enumerate(CHAIN)
    ]


WAYS = pytest.mark.parametrize("way", [portero, chain], ids=["portero", "chain"])


@pytest.fixture
async def kong(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Kong]:
    """What the platform said of a function holds for the whole of a test, and not for a second."""
    monkeypatch.setattr("policies.coldstart.FRESH_S", 60.0)
    async with running_kong() as kong:
        kong.world.faas.add("survey-report", "acme", replicas=1)
        kong.world.faas.add("survey-web", "acme", replicas=1)
        kong.world.faas.add("cold", "acme", replicas=0)
        yield kong


async def warmed(kong: Kong, line: str = REPORT, **options: Any) -> None:
    """Have the gate learn, by way of the proxy, that the function is awake."""
    answer = await kong.world.get(line.partition(" ")[2], **options)
    assert answer.status == 200, answer


def audited(kong: Kong) -> list[dict[str, Any]]:
    audit = kong.world.app.parts.audit
    assert audit is not None
    audit.flush()
    return [json.loads(line) for line in (kong.world.folder / "audit.log").read_text().splitlines()]


def counted(kong: Kong) -> tuple[float, float]:
    """Requests of the tenant that were allowed, and how many of them were timed."""
    metrics = kong.world.app.parts.metrics
    allowed = metrics.decisions_total.value(("proxy", "acme", "allow", ""))
    return allowed, metrics.request_duration_seconds.count(("proxy", "acme"))


def reason(asked: Asked) -> tuple[int, str | list[str]]:
    assert asked.exit is not None
    return asked.exit.status, asked.exit.fields["X-Portero-Reason"]


def is_idle(kong: Kong) -> bool:
    parts = kong.world.app.parts
    rooms = [driver.room.in_flight for driver in parts.activator._drivers.values()]
    return not (len(kong.passes) or len(parts.live) or parts.activator.held or any(rooms))


@WAYS
async def test_an_awake_function_is_called_by_kong_itself(kong: Kong, way: Any) -> None:
    """With who is calling, the backend's path, and nothing of the credential; and nothing is held meanwhile."""
    token = kong.world.token()
    await warmed(kong, token=token)
    asked = await kong.ask(way(), REPORT, ("x_portero_subject", "login|root"), token=token)
    assert asked.exit is None
    verdict = asked.shared[VERDICT]
    assert f"http://{verdict['host']}:{verdict['port']}" == kong.world.faas.url
    assert verdict["path"] == "/function/survey-report.acme/by-country/es"
    assert verdict["set"]["X-Portero-Subject"] == "login|ana"
    assert {"authorization", "x_portero_subject"} <= set(verdict["clear"])
    assert is_idle(kong)
    last = audited(kong)[-1]
    assert (last["outcome"], last["subject"], last.get("status", 0)) == ("allow", "login|ana", 0)
    assert last["request_id"] == verdict["answer"]["add"]["X-Request-Id"]


@WAYS
async def test_what_leaves_directly_is_counted_and_not_timed(kong: Kong, way: Any) -> None:
    """Nobody tells of its end: a duration of nothing would make every function look quick."""
    token = kong.world.token()
    await warmed(kong, token=token)
    before = counted(kong)
    assert (await kong.ask(way(), REPORT, token=token)).exit is None
    allowed, timed = counted(kong)
    assert (allowed, timed) == (before[0] + 1, before[1])


async def test_an_allowed_request_takes_two_calls(kong: Kong) -> None:
    """However it is shaped: a body, a websocket, a route with a rewrite."""
    token = kong.world.token()
    await warmed(kong, token=token)
    await warmed(kong, "GET /function/survey-web")
    websocket = (
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    )
    for line, fields, who in [
        (REPORT, (), token),
        ("GET /reports/es", (), token),
        ("POST /function/survey-web", (("content-length", "3"),), None),
        ("GET /function/survey-web", websocket, None),
        (REPORT, websocket, token),
    ]:
        asked = await kong.ask(portero(), line, *fields, token=who)
        assert (asked.exit, asked.calls) == (None, [f"get {FACTS}", f"set {VERDICT}"])


@WAYS
async def test_a_function_that_sleeps_is_left_to_the_listener(kong: Kong, way: Any) -> None:
    """The request waits under its pass; nothing is woken and nothing is waited for inside Kong."""
    async with asyncio.timeout(20):
        asked = await kong.ask(way(), "GET /function/cold?x", token=kong.world.token("dan"))
    assert asked.exit is None
    assert asked.shared[VERDICT]["set"]["X-Portero-Pass"]
    assert len(kong.passes) == 1
    assert kong.world.faas.wake_calls == []


@WAYS
async def test_a_proof_that_was_shown_once_holds_for_its_request(kong: Kong, way: Any) -> None:
    """Whoever is asked about again, held or in the middle of a chain, has not shown it twice; a further request has."""
    token = kong.world.token("dan", cnf={"jkt": jkt_of()})
    proof = a_proof(token, time.time(), htu="http://acme.test/function/cold").decode()
    fields = (("authorization", f"DPoP {token}"), ("dpop", proof))
    asked = await kong.ask(way(), "GET /function/cold", *fields)
    assert asked.exit is None
    [undecided] = [waiting.verdict for waiting in kong.passes._waiting.values()]
    assert isinstance(undecided, Undecided)
    kong.passes._take(next(iter(kong.passes._waiting)))
    passed = await kong.world.app.parts.gate.decide(undecided)
    assert isinstance(passed, Passed)
    kong.world.app.parts.gate.finish(passed, status=200)
    assert reason(await kong.ask(way(), "GET /function/cold", *fields)) == (401, "credential-invalid")


@WAYS
async def test_a_function_that_has_just_woken_is_left_to_the_listener(kong: Kong, way: Any) -> None:
    """While it starts it gets no more at once than it can take, and somebody has to know when each has ended."""
    token = kong.world.token("dan")
    await warmed(kong, "GET /function/cold", token=token)
    asked = await kong.ask(way(), "GET /function/cold", token=token)
    assert asked.shared[VERDICT]["set"]["X-Portero-Pass"]
    assert len(kong.passes) == 1
    activator: Any = kong.world.app.parts.activator
    usual = activator._clock
    activator._clock = activator._tools.clock = lambda: usual() + STARTING_S
    await warmed(kong, "GET /function/cold", token=token)
    again = await kong.ask(way(), "GET /function/cold", token=token)
    assert "X-Portero-Pass" not in again.shared[VERDICT]["set"]


@WAYS
@pytest.mark.parametrize(
    ("line", "options", "expected"),
    [
        ("GET /function/survey-report", {}, (401, "credential-missing")),
        ("GET /function/survey-report", {"bad": True}, (401, "credential-invalid")),
        ("GET /function/other", {}, (401, "credential-missing")),
        ("GET /function/other", {"good": True}, (403, "no-rule-allows")),
        ("GET /nothing", {}, (404, "route-unknown")),
        ("POST /reports/es", {"good": True}, (405, "method-not-allowed")),
        ("GET /secure", {"good": True}, (426, "https-required")),
        ("GET /a/../b", {}, (400, "bad-request")),
        ("POST /function/survey-submit", {"fields": [("content-length", "1025")]}, (413, "body-too-large")),
        ("GET /", {"fields": [("x-portero-tenant", "globex")]}, (400, "tenant-conflict")),
    ],
)
async def test_refusals_are_those_of_the_proxy(
    kong: Kong, way: Any, line: str, options: dict[str, Any], expected: tuple[int, str]
) -> None:
    """The same status, reason, fields and body."""
    token = kong.world.token() if "good" in options else "garbage" if "bad" in options else None
    fields = options.get("fields", [])
    asked = await kong.ask(way(), line, *fields, token=token)
    assert reason(asked) == expected
    assert asked.exit is not None
    assert (VERDICT in asked.shared, is_idle(kong)) == (False, True)
    body = b"x" * 1025 if line.startswith("POST /function") else b""
    method, _, target = line.partition(" ")
    sent = [pair for pair in fields if pair[0] != "content-length"]
    proxied = await kong.world.send(request_bytes(f"{method} {target}", token=token, fields=sent, body=body))
    ours = {name.lower(): value for name, value in asked.exit.fields.items()}
    theirs = {name: value for name, value in proxied.fields if name in ours}
    for varying in ("x-request-id", "upgrade", "connection"):
        ours.pop(varying, None)
        theirs.pop(varying, None)
    assert (ours, asked.exit.status) == (theirs, proxied.status)
    document, other = json.loads(asked.exit.body), proxied.json()
    assert document | {"request_id": ""} == other | {"request_id": ""}


async def test_a_chain_asks_each_question_once(kong: Kong) -> None:
    """One name, one audit line, one token of the rate: each plugin adds what it has found."""
    token = kong.world.token()
    await warmed(kong, token=token)
    before = len(audited(kong))
    shared_after: list[frozenset[Stage]] = []
    plugins = chain()
    for until in range(1, 4):
        asked = await kong.ask(plugins[:until], REPORT, token=token)
        found = read_found(asked.shared[FOUND])
        assert found is not None
        shared_after.append(found.done)
        assert VERDICT not in asked.shared
    assert [len(done) for done in shared_after] == [1, 2, 3]
    assert len(audited(kong)) == before
    await kong.ask(plugins, REPORT, token=token)
    assert len(audited(kong)) == before + 1
    assert is_idle(kong)


async def test_a_plugin_of_the_chain_that_did_not_run_is_missed(kong: Kong, capsys: pytest.CaptureFixture[str]) -> None:
    """Whichever it was: Kong goes on without a plugin whose server is down."""
    await warmed(kong, token=kong.world.token())
    for missing in range(3):
        plugins = chain()
        del plugins[missing]
        asked = await kong.ask(plugins, REPORT)
        assert reason(asked)[0] in {401, 500}
        assert VERDICT not in asked.shared
    asked = await kong.ask(chain()[:3], REPORT, token=kong.world.token())
    assert (asked.exit, VERDICT in asked.shared) == (None, False)


async def policy_changes(kong: Kong) -> None:
    file = kong.world.policies / "acme.yaml"
    file.write_text(file.read_text().replace("groups: [analysts]}", "groups: [others]}"))
    assert await kong.world.app.parts.folder.reload()


async def login_ends(kong: Kong) -> None:
    now = time.time()
    await kong.world.app.parts.identity.revocations.revoke_subject(
        "acme", kong.world.provider.issuer, "ana", now + 1, now + 60
    )


async def token_expires(kong: Kong) -> None:
    gate: Any = kong.world.app.parts.gate
    gate._clock = lambda: time.time() + 7200


@pytest.mark.parametrize("until", [2, 3], ids=["before the limits", "before the last"])
@pytest.mark.parametrize(
    ("happens", "expected"),
    [
        (policy_changes, (403, "no-rule-allows")),
        (login_ends, (401, "credential-invalid")),
        (token_expires, (401, "credential-invalid")),
    ],
)
async def test_what_was_found_holds_for_as_long_as_it_is_so(
    kong: Kong, happens: Any, expected: tuple[int, str], until: int
) -> None:
    """Between two plugins of a chain others of Kong's may take their time; what ends meanwhile has ended."""
    token = kong.world.token()
    await warmed(kong, token=token)
    plugins = chain()
    asked = await kong.ask(plugins[:until], REPORT, token=token)
    assert asked.exit is None
    await happens(kong)
    assert reason(await kong.go_on(asked, plugins[until:])) == expected
    assert is_idle(kong)


async def test_a_policy_that_changes_and_still_allows_stops_nobody(kong: Kong) -> None:
    """Who is asked about again in the middle of a chain, and may, is let out, spent once and audited once."""
    token = kong.world.token()
    await warmed(kong, token=token)
    before = len(audited(kong))
    plugins = chain()
    asked = await kong.ask(plugins[:2], REPORT, token=token)
    file = kong.world.policies / "acme.yaml"
    file.write_text(file.read_text() + "\n# another revision\n")
    assert await kong.world.app.parts.folder.reload()
    asked = await kong.go_on(asked, plugins[2:])
    assert asked.exit is None
    assert asked.shared[VERDICT]["set"]["X-Portero-Subject"] == "login|ana"
    assert len(audited(kong)) == before + 1


async def test_a_rate_is_spent_by_its_stage(kong: Kong) -> None:
    """Once a request; the second is refused by that plugin, with the limit's fields."""
    kong.world.faas.add("scarce", "acme", replicas=1)
    token = kong.world.token("dan")
    asked = await kong.ask(chain(), "GET /function/scarce", token=token)
    assert asked.exit is None
    asked = await kong.ask(chain(), "GET /function/scarce", token=token)
    assert reason(asked) == (429, "rate-limited")
    assert asked.exit is not None
    assert "RateLimit" in asked.exit.fields


@pytest.mark.parametrize("name", CHAIN)
async def test_alone_and_final_a_plugin_lets_nobody_in_unasked(kong: Kong, name: str) -> None:
    """Whatever it is called: who is calling and whether he may comes before the function."""
    token = kong.world.token()
    await warmed(kong, token=token)
    alone = [PLUGINS[name].Plugin({"final": True})]
    assert reason(await kong.ask(alone, REPORT)) == (401, "credential-missing")
    assert reason(await kong.ask(alone, "GET /function/other", token=token)) == (403, "no-rule-allows")
    asked = await kong.ask(alone, REPORT, token=token)
    assert asked.exit is None
    assert asked.shared[VERDICT]["set"]["X-Portero-Subject"] == "login|ana"


@WAYS
async def test_a_process_that_stops_refuses(kong: Kong, way: Any) -> None:
    """Draining, 503."""
    kong.world.app.parts.gate.drain()
    assert reason(await kong.ask(way(), REPORT, token=kong.world.token())) == (503, "draining")


@WAYS
async def test_our_own_pages_and_preflights(kong: Kong, way: Any) -> None:
    """Pages go by the listener, a preflight is answered at once and reaches nobody."""
    asked = await kong.ask(way(), "GET /.portero/whoami")
    assert asked.shared[VERDICT]["path"] == "/.portero/whoami"
    asked = await kong.ask(
        way(),
        "OPTIONS /api/answers",
        ("origin", "https://app.acme.test"),
        ("access-control-request-method", "POST"),
    )
    assert asked.exit is not None
    assert asked.exit.status == 204
    assert asked.exit.fields["Access-Control-Allow-Origin"] == "https://app.acme.test"


async def test_a_body_of_unknown_length_goes_by_the_listener(kong: Kong) -> None:
    """There it is bounded as it comes."""
    await warmed(kong, "GET /function/survey-web")
    asked = await kong.ask(portero(), "POST /function/survey-web", ("transfer-encoding", "chunked"))
    assert "X-Portero-Pass" in asked.shared[VERDICT]["set"]
    assert len(kong.passes) == 1
