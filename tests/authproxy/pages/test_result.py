"""``/.portero/result/ID``: who may fetch or delete a result, and what a function's answer can do from there."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from authproxy.gate.verdict import Case, PageCall
from authproxy.identity.sessions.cookies import SESSION
from authproxy.pages.pages import Pages
from authproxy.results.result import Owner, Result, new_id
from authproxy.results.store import PENDING_S, ResultBounds
from policies.decision import Deny, Page, Reason
from policies.errors import StoreUnavailable
from policies.principal import Principal
from policies.request import AccessRequest, read_head
from tests.fakes.pages import NAVIGATION, Browser, PagesWorld, Reply
from tests.fakes.tenancy import NOBODY, a_head

ROOMY = ResultBounds(100, 1000, 16 * 1024 * 1024)
ANA, BOB = (b"Authorization", b"Bearer ana"), (b"Authorization", b"Bearer bob")
JSON = (b"Content-Type", b"application/json")


def a_world() -> PagesWorld:
    world = PagesWorld()
    world.bearers |= {name: Principal("login", name) for name in ("ana", "bob")}
    return world


def a_result(body: bytes = b'{"n": 7}', *fields: tuple[bytes, bytes], status: int = 200) -> Result:
    return Result(status, fields or (JSON,), body, 1_790_000_000.0)


async def kept(
    world: PagesWorld, result: Result | None, subject: str | None = "login|ana", tenant: str = "acme"
) -> str:
    """The path of a result; None: pending."""
    result_id = await world.results.open(Owner(tenant, subject), "flow", ROOMY, 3600.0)
    assert not isinstance(result_id, Reason)
    if result is not None:
        assert await world.results.finish(tenant, result_id, result)
    return f"/.portero/result/{result_id}"


def id_of(path: str) -> str:
    return path.rpartition("/")[2]


def cookie_of(browser: Browser) -> tuple[bytes, bytes]:
    """The session's cookie, to be sent as no browser would."""
    return b"Cookie", f"{SESSION}={browser.session}".encode()


def said(reply: Reply) -> tuple[Any, ...]:
    """All that a caller can tell of an answer."""
    return reply.status, reply.fields, reply.body, reply.reason


# -- the owner's way ---------------------------------------------------------------------------------------------------


async def test_a_pending_result_says_when_to_come_again() -> None:
    """202, and how to tell it from a function's own 202."""
    world = a_world()
    path = await kept(world, None)
    reply = await world.ask(path, ANA)
    assert (reply.status, reply.field("Retry-After"), reply.field("X-Portero-Result")) == (202, "2", "pending")
    assert json.loads(reply.body) == {"status": "pending", "result": path}
    assert (reply.field("Cache-Control"), reply.field("X-Content-Type-Options")) == ("no-store", "nosniff")
    assert reply.subject == "login|ana"


async def test_a_person_gets_a_page_that_comes_back() -> None:
    """As long as it is pending, a browser loads it again by itself; then it shows the answer."""
    world = a_world()
    path = await kept(world, None)
    reply = await world.ask(path, ANA, *NAVIGATION)
    assert (reply.status, reply.field("X-Portero-Result")) == (202, "pending")
    assert '<meta http-equiv="refresh" content="2">' in reply.text
    assert id_of(path) not in reply.text
    await world.results.finish("acme", id_of(path), a_result(b"<p>done", (b"Content-Type", b"text/html")))
    done = await world.ask(path, ANA, *NAVIGATION)
    assert (done.status, done.body, done.field("Content-Type")) == (200, b"<p>done", "text/html")


@pytest.mark.parametrize("status", [200, 202, 204, 304, 404, 418, 500, 503, 599])
async def test_what_a_function_has_answered_is_answered(status: int) -> None:
    """Its status, its fields in their order, its body; and what we say besides."""
    world = a_world()
    fields = (JSON, (b"X-Rows", b"7"), (b"X-Rows", b"8"), (b"ETag", b'"x"'), (b"X-Latin", b"caf\xe9"))
    path = await kept(world, a_result(b"body", *fields, status=status))
    for method in ("GET", "HEAD", "GET"):
        reply = await world.ask(path, ANA, method=method)
        assert (reply.status, reply.body) == (status, b"body")
        assert reply.fields[: len(fields)] == tuple((n.decode(), v.decode("latin-1")) for n, v in fields)
        assert reply.field("X-Portero-Result") == "done"
        assert reply.field("Cache-Control") == "no-store"
        assert reply.field("X-Content-Type-Options") == "nosniff"
        assert reply.field("Content-Security-Policy") == "sandbox"
        assert reply.field("Referrer-Policy") == "no-referrer"
        assert reply.field("Cross-Origin-Resource-Policy") == "same-origin"


async def test_a_refusal_that_was_kept_keeps_its_word() -> None:
    """What Portero itself said of a request that failed later."""
    world = a_world()
    path = await kept(world, a_result(b"{}", (b"X-Portero-Reason", b"cold-start-timeout"), status=504))
    reply = await world.ask(path, ANA)
    assert (reply.status, reply.field("X-Portero-Reason")) == (504, "cold-start-timeout")


async def test_an_owner_deletes() -> None:
    """204, once; whoever works on it is told to stop."""
    world = a_world()
    path = await kept(world, None)
    reply = await world.ask(path, ANA, method="DELETE")
    assert (reply.status, reply.body, reply.field("Cache-Control")) == (204, b"", "no-store")
    assert world.forgotten == [("acme", id_of(path))]
    for method in ("GET", "DELETE"):
        assert (await world.ask(path, ANA, method=method)).reason is Reason.RESULT_UNKNOWN
    assert not await world.results.renew("acme", id_of(path))
    assert len(world.forgotten) == 1


async def test_who_knows_the_id_of_an_anonymous_result_has_it() -> None:
    """Nobody else can be its owner: read and deleted without a credential, or with any."""
    world = a_world()
    path = await kept(world, a_result(), None)
    for fields in ((), (ANA,), (BOB,)):
        assert (await world.ask(path, *fields)).body == a_result().body
    assert (await world.ask(path)).subject is None
    assert (await world.ask(path, method="DELETE")).status == 204


async def test_a_session_is_an_owner_too() -> None:
    """By cookie as by token; a cookie made anew goes along."""
    world = a_world()
    browser = world.browser()
    await browser.log_in()
    path = await kept(world, a_result())
    assert (await browser.fetch(path)).status == 200
    before = browser.session
    world.clock.pass_s(800)
    reply = await browser.fetch(path)
    assert (reply.status, len(reply.cookies)) == (200, 1)
    assert browser.session not in {before, None}
    assert (await browser.fetch(path, method="DELETE")).status == 204


# -- everybody else ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
@pytest.mark.parametrize("is_done", [False, True], ids=["pending", "done"])
async def test_who_is_not_the_owner_learns_nothing(method: str, is_done: bool) -> None:
    """Another subject, nobody, another tenant, a guess: one answer, the same as for what never was."""
    world = a_world()
    path = await kept(world, a_result() if is_done else None)
    never = f"/.portero/result/{new_id()}"
    for fields, host in (((BOB,), "acme"), ((), "acme"), ((ANA,), "globex"), ((), "globex")):
        answers = [
            await world.ask(target, *fields, host=f"{host}.localhost", method=method) for target in (path, never)
        ]
        assert said(answers[0]) == said(answers[1])
        assert (answers[0].status, answers[0].reason) == (404, Reason.RESULT_UNKNOWN)
    assert not world.forgotten
    assert (await world.ask(path, ANA)).status == (200 if is_done else 202)


@pytest.mark.parametrize(
    "owner", ["login|ana ", "login|an", "Login|ana", "other|ana", "login|", "anonymous|anonymous", "|", "login|ana\0"]
)
async def test_a_subject_is_its_owner_to_the_letter(owner: str) -> None:
    """Another provider's ``ana`` is somebody else; nobody is not an owner by being named like one."""
    world = a_world()
    path = await kept(world, a_result(), owner)
    for fields in ((ANA,), ()):
        assert (await world.ask(path, *fields)).reason is Reason.RESULT_UNKNOWN


async def test_a_result_of_another_tenants_same_subject_is_unknown() -> None:
    """Tenants may have the same provider and the same person in it."""
    world = a_world()
    path = await kept(world, a_result(), tenant="globex")
    assert (await world.ask(path, ANA)).reason is Reason.RESULT_UNKNOWN
    anonymous = await kept(world, a_result(), None, tenant="globex")
    assert (await world.ask(anonymous)).reason is Reason.RESULT_UNKNOWN
    assert (await world.ask(anonymous, host="globex.localhost")).status == 200


async def test_a_bad_credential_is_refused_before_anything_is_looked_up() -> None:
    """Also for an anonymous result: who guesses tokens is counted here as everywhere."""
    world = a_world()
    path = await kept(world, a_result(), None)
    reply = await world.ask(path, (b"Authorization", b"Bearer forged"))
    assert (reply.status, reply.reason) == (401, Reason.CREDENTIAL_INVALID)
    world.bearers["many"] = Deny(Reason.TOO_MANY_FAILURES, retry_after_s=9)
    assert (await world.ask(path, (b"Authorization", b"Bearer many"))).reason is Reason.TOO_MANY_FAILURES


async def test_a_token_for_one_function_reads_no_results() -> None:
    """AP-R15: the function that was handed it must not read what others have answered its caller."""
    world = a_world()
    world.bearers["ana"].only_function = "survey-report"  # type: ignore[union-attr]  # a principal: see a_world
    path = await kept(world, a_result())
    for method in ("GET", "DELETE"):
        reply = await world.ask(path, ANA, method=method)
        assert (reply.status, reply.reason) == (401, Reason.CREDENTIAL_INVALID)


async def test_an_ended_session_is_told_so_whatever_there_is() -> None:
    """The same for its own result and for what never was; an anonymous one is still there for it."""
    world = a_world()
    browser = world.browser()
    await browser.log_in()
    cookie = cookie_of(browser)
    world.clock.pass_s(2 * 3600)
    path = await kept(world, a_result(), "login|ana")
    anonymous = await kept(world, a_result(), None)
    answers = [await world.ask(target, cookie) for target in (path, f"/.portero/result/{new_id()}")]
    assert said(answers[0]) == said(answers[1])
    assert (answers[0].status, answers[0].reason) == (401, Reason.SESSION_EXPIRED)
    assert (await world.ask(anonymous, cookie)).status == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_a_page_of_another_origin_deletes_nothing(site: str) -> None:
    """A cookie is sent by whatever page; AP-R53."""
    world = a_world()
    browser = world.browser()
    await browser.log_in()
    path = await kept(world, a_result())
    cookie = cookie_of(browser)
    fields = (cookie, (b"Sec-Fetch-Site", site.encode()), (b"Origin", b"https://evil.example"))
    reply = await world.ask(path, *fields, method="DELETE")
    assert (reply.status, reply.reason) == (403, Reason.ORIGIN_REFUSED)
    assert (await world.ask(path, cookie, method="DELETE")).reason is Reason.ORIGIN_REFUSED
    assert (await world.ask(path, cookie)).status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "OPTIONS", "PROPFIND"])
async def test_other_methods_are_refused(method: str) -> None:
    """And say which ones are not."""
    world = a_world()
    reply = await world.ask(await kept(world, a_result(), None), method=method)
    assert (reply.status, reply.field("Allow")) == (405, "GET, HEAD, DELETE")


@pytest.mark.parametrize("rest", ["", "A", "A" * 22, "A" * 21 + "B", "../" * 8, "é" * 22, "A" * 22 + "\0", "x" * 9000])
async def test_an_id_that_is_none_is_unknown(rest: str) -> None:
    """Whatever the core would let through one day."""
    world = a_world()
    await kept(world, a_result(), None)
    raw = a_head("/.portero/whoami")
    request = read_head(raw, NOBODY)
    assert isinstance(request, AccessRequest)
    call = PageCall(Case(raw, request, world.policies, "r", world.clock()), Page(world.tenants[0], "result", rest))
    answered = await world.pages.answer(call, b"")
    assert isinstance(answered, Deny)
    assert answered.reason is Reason.RESULT_UNKNOWN


# -- what a function's answer may not do -------------------------------------------------------------------------------

EVIL = (
    (b"Set-Cookie", b"a=b"),
    (b"set-cookie", b"__Host-portero-session=x"),
    (b"Set-Cookie2", b"a=b"),
    (b"Service-Worker-Allowed", b"/"),
    (b"Clear-Site-Data", b'"*"'),
    (b"Strict-Transport-Security", b"max-age=1"),
    (b"Alt-Svc", b'h3=":443"'),
    (b"Refresh", b"0; url=https://evil.example"),
    (b"Access-Control-Allow-Origin", b"https://evil.example"),
    (b"Access-Control-Allow-Credentials", b"true"),
    (b"access-control-allow-private-network", b"true"),
    (b"Timing-Allow-Origin", b"*"),
    (b"Cache-Control", b"public, max-age=99999"),
    (b"Expires", b"Thu, 01 Jan 2099 00:00:00 GMT"),
    (b"CDN-Cache-Control", b"max-age=99999"),
    (b"Surrogate-Control", b"max-age=99999"),
    (b"Pragma", b"cache"),
    (b"X-Content-Type-Options", b"sniff"),
    (b"Referrer-Policy", b"unsafe-url"),
    (b"Cross-Origin-Resource-Policy", b"cross-origin"),
    (b"X-Portero-Result", b"pending"),
    (b"X-Portero-Subject", b"root"),
    (b"X_Portero_Result", b"pending"),
    (b"X-Request-Id", b"forged"),
    (b"Content-Length", b"1"),
    (b"Transfer-Encoding", b"chunked"),
    (b"Connection", b"close"),
    (b"Keep-Alive", b"timeout=1"),
    (b"Upgrade", b"websocket"),
    (b"Trailer", b"X-Evil"),
    (b"RateLimit", b"x"),
    (b"Report-To", b"{}"),
    (b"", b"x"),
    (b"X Evil", b"x"),
    (b"X-Evil:", b"x"),
    (b"X-Evil\r\nSet-Cookie", b"a=b"),
    (b"X-Evil", b"a\r\nSet-Cookie: a=b"),
    (b"X-Evil", b"a\nSet-Cookie: a=b"),
    (b"X-Evil", b"a\0b"),
    (b"X-Evil", b"a\x1b[2J"),
    (b"X-Portero-Reason", b"x\r\nSet-Cookie: a=b"),
)


@pytest.mark.parametrize("field", EVIL, ids=lambda field: ascii(field[0])[2:-1])
async def test_a_field_that_reaches_further_is_left_out(field: tuple[bytes, bytes]) -> None:
    """It is not written, in no part of it; the others and the body are."""
    world = a_world()
    path = await kept(world, a_result(b"body", (b"X-Before", b"1"), field, (b"X-After", b"2")))
    plain = await kept(world, a_result(b"body", (b"X-Before", b"1"), (b"X-After", b"2")))
    assert said(await world.ask(path, ANA)) == said(await world.ask(plain, ANA))


async def test_what_a_function_writes_runs_nowhere() -> None:
    """HTML, SVG and scripts come sandboxed; a policy of the function's own can only add to that."""
    world = a_world()
    own = b"default-src *; script-src 'unsafe-inline'; sandbox allow-scripts allow-same-origin"
    for kind in (b"text/html", b"image/svg+xml", b"application/xhtml+xml", b"text/javascript", b"application/pdf"):
        fields = ((b"Content-Type", kind), (b"Content-Security-Policy", own))
        reply = await world.ask(await kept(world, a_result(b"<script>alert(1)</script>", *fields)), ANA)
        policies = [value for name, value in reply.fields if name.lower() == "content-security-policy"]
        assert policies == [own.decode(), "sandbox"]
        assert reply.field("X-Content-Type-Options") == "nosniff"


@pytest.mark.parametrize(
    "field", [(b"Service-Worker", b"script"), (b"service-worker", b" Script"), (b"Sec-Fetch-Dest", b"serviceworker")]
)
async def test_a_result_becomes_no_service_worker(field: tuple[bytes, bytes]) -> None:
    """
    Functions share the host's origin: a page of one could otherwise register an answer of another as the script that
    stands between the browser and everybody's results.
    """
    world = a_world()
    path = await kept(world, a_result(b"self.onfetch = 1", (b"Content-Type", b"text/javascript")), None)
    reply = await world.ask(path, field)
    assert (reply.status, reply.reason) == (400, Reason.BAD_REQUEST)
    assert b"onfetch" not in reply.body


@pytest.mark.parametrize("status", [0, 100, 101, 103, 199, 600, 99999, -1])
async def test_a_status_that_is_none_is_not_written(status: int) -> None:
    """A result that says it switches protocols, or says nothing, is garbled."""
    world = a_world()
    reply = await world.ask(await kept(world, a_result(status=status)), ANA)
    assert (reply.status, reply.reason) == (502, Reason.UPSTREAM_GARBLED)


# -- when it is not there, or cannot be asked --------------------------------------------------------------------------


async def test_a_result_whose_time_is_over_is_unknown() -> None:
    """Kept for an hour; one that nobody works on any more, for a moment."""
    world = a_world()
    done, pending = await kept(world, a_result()), await kept(world, None)
    world.clock.pass_s(PENDING_S)
    assert (await world.ask(pending, ANA)).reason is Reason.RESULT_UNKNOWN
    assert (await world.ask(done, ANA)).status == 200
    world.clock.pass_s(3600)
    assert (await world.ask(done, ANA)).reason is Reason.RESULT_UNKNOWN


class DownStore:
    """Fails at the step it is told to."""

    def __init__(self, world: PagesWorld, step: str) -> None:
        self._results = world.results
        self._step = step

    async def read(self, tenant: str, result_id: str) -> tuple[Owner, Result | None] | None:
        if self._step == "read":
            raise StoreUnavailable("redis: canary")
        return await self._results.read(tenant, result_id)

    async def delete(self, tenant: str, result_id: str) -> bool:
        if self._step == "delete":
            raise StoreUnavailable("redis: canary")
        return self._step != "raced" and await self._results.delete(tenant, result_id)


def with_store(world: PagesWorld, store: DownStore | None) -> Pages:
    pages = world.pages
    pages._parts = replace(pages._parts, results=store)
    return pages


@pytest.mark.parametrize(("step", "method"), [("read", "GET"), ("read", "DELETE"), ("delete", "DELETE")])
async def test_a_store_that_cannot_be_asked_is_503(step: str, method: str) -> None:
    """Not unknown, which would have somebody begin again; and nobody is told to stop working."""
    world = a_world()
    path = await kept(world, None)
    with_store(world, DownStore(world, step))
    reply = await world.ask(path, ANA, method=method)
    assert (reply.status, reply.reason, reply.field("Retry-After")) == (503, Reason.SESSION_STORE_UNAVAILABLE, "5")
    assert b"canary" not in reply.body
    assert not world.forgotten


async def test_of_two_who_delete_one_does() -> None:
    """The other learns that there is none; nobody is told twice to stop."""
    world = a_world()
    path = await kept(world, a_result())
    with_store(world, DownStore(world, "raced"))
    assert (await world.ask(path, ANA, method="DELETE")).reason is Reason.RESULT_UNKNOWN
    assert not world.forgotten


async def test_where_nothing_is_answered_later_there_are_no_results() -> None:
    """A Portero without a store of results has the same answer as one that knows none."""
    world = a_world()
    path = await kept(world, a_result(), None)
    with_store(world, None)
    assert (await world.ask(path)).reason is Reason.RESULT_UNKNOWN
