"""The steps of the tour, in order: each is one promise of Portero, asked of a real demo. ``tour.py`` walks them."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any, Final

import aiohttp

from authproxy.demo.tour import NotAsPromised, Step, Walk
from authproxy.demo.tour_login import log_in, log_out, no_session_elsewhere
from authproxy.demo.tour_waiting import answered_later, cold_start, not_worth_waking, overflow

MAX_EVENT_LATENCY_S: Final = 0.25
"""From the function's write to the client's read, on a machine that also runs everything else of the demo."""
BURST_BOUND: Final = 600
"""More requests than acme's burst of 250 can ever admit in the seconds that they take."""
BURST_AT_ONCE: Final = 16


async def public_form(walk: Walk) -> None:
    answer = await walk.ask("/")
    walk.promise_answer(answer, 200)
    walk.promise(b"<form" in answer.body, "the form of survey-web", answer.body[:40])


async def no_token(walk: Walk) -> None:
    answer = await walk.ask("/reports/es")
    walk.promise_answer(answer, 401, "credential-missing")
    challenge = answer.fields.get("WWW-Authenticate", "")
    walk.promise(challenge.startswith("Bearer"), "a Bearer challenge", challenge or "none")


async def bad_token(walk: Walk) -> None:
    signed, _, signature = walk.tokens["ANA"].rpartition(".")
    walk.tokens["FORGED"] = f"{signed}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}"
    walk.note("$FORGED is ana's token, but for one letter of its signature")
    answer = await walk.ask("/reports/es", caller="FORGED")
    walk.promise_answer(answer, 401, "credential-invalid")
    challenge = answer.fields.get("WWW-Authenticate", "")
    walk.promise('error="invalid_token"' in challenge, 'error="invalid_token" (RFC 6750)', challenge or "no challenge")
    walk.promise_answer(await walk.ask("/", caller="FORGED"), 401, "credential-invalid")


async def analyst(walk: Walk) -> None:
    answer = await walk.ask("/reports/es", caller="ANA")
    walk.promise_answer(answer, 200)
    walk.promise(answer.json().get("asked_by") == "login|ana", "asked_by login|ana", answer.body)
    walk.promise("RateLimit" in answer.fields, "a RateLimit field", dict(answer.fields))


async def wrong_role(walk: Walk) -> None:
    walk.promise_answer(await walk.ask("/reports/es", caller="BOB"), 403, "no-rule-allows")


async def wrong_tenant(walk: Walk) -> None:
    answer = await walk.ask("/reports/es", tenant="globex", caller="ANA")
    walk.promise_answer(answer, 403, "tenant-mismatch")


async def deny_rule(walk: Walk) -> None:
    walk.promise_answer(await walk.ask("/reports/xx", caller="ANA"), 403, "denied-by-rule")


async def unknown_host(walk: Walk) -> None:
    answer = await walk.ask("/reports/es", host="nobody.localhost", caller="ANA")
    walk.promise_answer(answer, 404, "tenant-unknown")


async def service_account(walk: Walk) -> None:
    answer = await walk.ask("/reports", caller="CI")
    walk.promise_answer(answer, 200)
    asked_by = answer.json().get("asked_by")
    walk.promise(asked_by == "service-account|survey-ci", "asked_by service-account|survey-ci", asked_by)


async def live_answers(walk: Walk) -> None:
    host = walk.demo.files.hosts["acme"]
    walk.show_request("/live", host=host, caller="ANA")
    fields = walk.fields(host, "ANA") | {"Accept": "text/event-stream"}
    async with walk.session.get(walk.demo.public_url + "/live", headers=fields) as stream:
        walk.note(f"HTTP {stream.status}  {stream.headers.get('Content-Type')}", style="bold")
        walk.promise(stream.status == 200, "200", stream.status)
        await stream.content.readline()
        sent = await walk.ask("/answers", json_body={"country": "es", "score": 5, "comment": "live"})
        walk.promise_answer(sent, 201)
        event = await _next_event(stream)
        latency_s = time.time() - event["written_at"]
    walk.note(f"event: answer  data: {json.dumps(event)}")
    walk.note(f"{latency_s * 1000:.1f} ms from the function's write to here")
    walk.promise(event["comment"] == "live", "the answer just sent", event)
    walk.promise(latency_s <= MAX_EVENT_LATENCY_S, f"at most {MAX_EVENT_LATENCY_S} s", f"{latency_s:.3f} s")


async def _next_event(stream: aiohttp.ClientResponse) -> dict[str, Any]:
    async for line in stream.content:
        if line.startswith(b"data: "):
            return dict(json.loads(line[6:]))
    raise NotAsPromised("expected an event, got the end of the stream")


async def too_much(walk: Walk) -> None:
    walk.note(f"dan asks as fast as he can, {BURST_AT_ONCE} at a time, until he is told to wait")
    refused = None
    allowed = 0
    while refused is None and allowed < BURST_BOUND:
        answers = await asyncio.gather(
            *(walk.ask("/reports/es", caller="DAN", is_shown=False) for _ in range(BURST_AT_ONCE))
        )
        allowed += sum(answer.status == 200 for answer in answers)
        refused = next((answer for answer in answers if answer.status != 200), None)
    if refused is None:
        raise NotAsPromised(f"expected a 429 after some 250 requests, got {allowed} times 200")
    walk.note(f"{allowed} requests were answered, then:")
    walk.show_request("/reports/es", host=walk.demo.files.hosts["acme"], caller="DAN")
    walk.show_answer(refused)
    walk.promise_answer(refused, 429, "rate-limited")
    walk.promise(allowed >= 250, "a burst of 250", allowed)
    retry_after = refused.fields.get("Retry-After", "")
    walk.promise(retry_after.isdigit() and 1 <= int(retry_after) <= 5, "Retry-After of seconds", retry_after or "none")
    walk.promise("RateLimit" in refused.fields, "a RateLimit field", dict(refused.fields))
    walk.promise_answer(await walk.ask("/reports/es", caller="ANA"), 200)
    walk.note("and ana, who did nothing, does not notice")


async def broken_policy(walk: Walk) -> None:
    file = walk.demo.files.policies / "acme.yaml"
    good = file.read_text(encoding="utf-8")
    before = json.loads(await walk.admin("/policy/status", is_shown=False))["revision"]
    walk.note(f"$ sed -i 's/roles: \\[analyst\\]/roles: [analist]/' {file}", style="cyan")
    file.write_text(good.replace("roles: [analyst]", "roles: [analist]"), encoding="utf-8")
    try:
        status = await _policy_status(walk, is_successful=False)
        mistakes = [mistake["text"] for mistake in status["last_reload"]["mistakes"]]
        for mistake in mistakes:
            walk.note(mistake)
        line = 1 + good[: good.index("roles: [analyst]")].count("\n")
        is_placed = any(mistake.startswith(f"acme.yaml:{line}:") and "analist" in mistake for mistake in mistakes)
        walk.promise(is_placed, f"acme.yaml:{line}:COLUMN: ... analist ...", mistakes)
        walk.promise(status["revision"] == before, f"revision {before} to stay", status["revision"])
        walk.promise_answer(await walk.ask("/reports/es", caller="ANA"), 200)
    finally:
        file.write_text(good, encoding="utf-8")


async def new_policy(walk: Walk) -> None:
    file = walk.demo.files.policies / "acme.yaml"
    good = file.read_text(encoding="utf-8")
    addition = '  - {id: bob, roles: [analyst], subjects: ["login|bob"]}\n'
    tests = walk.demo.files.policies / "acme_test.yaml"
    cases = tests.read_text(encoding="utf-8")
    walk.note("acme makes bob an analyst; its own test that guests do not read goes on as somebody else's case")
    tests.write_text(cases.replace("subject: bob", "subject: someone"), encoding="utf-8")
    file.write_text(good.replace("bindings:\n", f"bindings:\n{addition}", 1), encoding="utf-8")
    deadline = time.monotonic() + 10
    while (answer := await walk.ask("/reports/es", caller="BOB", is_shown=False)).status != 200:
        walk.promise(time.monotonic() < deadline, "bob to be let in", f"{answer.status} {answer.reason}")
        await asyncio.sleep(0.05)
    walk.show_request("/reports/es", host=walk.demo.files.hosts["acme"], caller="BOB")
    walk.show_answer(answer)


async def _policy_status(walk: Walk, *, is_successful: bool) -> dict[str, Any]:
    walk.note(f"$ curl {walk.demo.admin_url}/policy/status", style="cyan")
    while True:  # the step's own timeout bounds it
        status: dict[str, Any] = json.loads(await walk.admin("/policy/status", is_shown=False))
        if status["last_reload"]["successful"] is is_successful:
            return status
        await asyncio.sleep(0.05)


async def metrics(walk: Walk) -> None:
    page = (await walk.admin("/metrics")).decode()
    for line in page.splitlines():
        if line.startswith("portero_decisions_total{") and 'tenant="acme"' in line:
            walk.note(line)
    for reason in ("credential-missing", "no-rule-allows", "rate-limited"):
        walk.promise(f'reason="{reason}"' in page, f"refusals counted as {reason}", "none")


STEPS: Final = (
    Step("The form is public: nobody needs a token, nobody is asked for one", public_form),
    Step("A report is not: 401 without a token", no_token),
    Step("A person's browser goes to the login instead, and comes back to the page asked for", log_in),
    Step("That login is one of acme: at globex's host the same cookies are nobody", no_session_elsewhere),
    Step("A token that is present and bad is 401 invalid_token, even where none is needed", bad_token),
    Step("Ana is an analyst: 200, and the function is told who asks", analyst),
    Step("Bob has no role: 403", wrong_role),
    Step("Ana has the right role in the wrong tenant: her token at globex's host is 403", wrong_tenant),
    Step("A deny rule wins over every role: what is under embargo is 403", deny_rule),
    Step("A host that is nobody's: 404, and no token is even looked at", unknown_host),
    Step("A program signs its own token: acme's service account", service_account),
    Step("A stream: an answer reaches a listener as it is written", live_answers),
    Step("A cold start: the function sleeps, requests are held, one wake, all are answered", cold_start),
    Step("Who merely looks in wakes nothing: a monitor's HEAD, a crawler", not_worth_waking),
    Step("An overflow: 429 for programs, a page that comes back for browsers, and others still get in", overflow),
    Step("Answered later: 202 at once, and the answer for nobody but who asked", answered_later),
    Step("Too much: 429 with Retry-After and RateLimit, for the one caller who overdid it", too_much),
    Step("A broken policy file is refused with file:line:column, and the old one stays", broken_policy),
    Step("A good one is taken up while it runs", new_policy),
    Step("Logging out ends it here, at the provider, and for every copy of the cookies", log_out),
    Step("What was counted meanwhile", metrics),
)
