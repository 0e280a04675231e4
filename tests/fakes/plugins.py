"""
Plugins, run by hand: what Kong remembers of a request, what becomes of a verdict, a front that does as it is told.

``play`` is plugin server and Kong in one: it drives a handler to its end. ``leaving`` is what the rendered
post-function and nginx make of a verdict.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from authproxy.gate.passes import Passable, Passes
from authproxy.gate.verdict import Case, Passed, Refused, Undecided, Verdict
from authproxy.limits.concurrency import Lease
from authproxy.upstream.departure import Address, Destination
from gateway_plugins.facts import FACTS
from gateway_plugins.front import Front, Judge
from gateway_plugins.handler import Call, Exit, Handler, Wait
from policies.decision import Allow, Deny, LimitState, Reason, Refusal
from policies.pipeline import Ready
from policies.principal import Principal
from policies.problem import problem
from policies.request import Head, HeadMemo, read_head
from policies.tables import Place, TenantTable
from policies.tenancy import resolve
from policies.upstream_identity import answer_block, request_block
from tests.fakes.gate import StubGate
from tests.fakes.tenancy import NOBODY, a_policy_set
from tests.fakes.world import World, running_world

REQUEST_ID: Final = "0123456789abcdef0123456789abcdef"
INTERNAL: Final = ("127.0.0.1", 8090)
PASS: Final = "a-pass"
FUNCTION: Final = Address("10.1.2.3", 8080)
_NGINXS: Final = frozenset(
    {b"host", b"connection", b"content-length", b"transfer-encoding", b"expect", b"upgrade", b"keep-alive"}
)
"""Fields of the client that nginx never passes on as they are."""

Pairs = list[tuple[bytes, bytes]]


# -- Kong --------------------------------------------------------------------------------------------------------------


def facts_of(head: Head) -> bytes:
    """What the pre-function writes down for ``head``."""
    version = {(1, 1): "1.1", (1, 0): "1.0"}[head.version]
    line = b"%b %b HTTP/%b" % (head.method.encode(), head.target, version.encode())
    first = (b"portero/1", head.peer.encode(), head.scheme.encode(), (head.server_name or "").encode(), line)
    return b"\n".join((*first, *(b"%b: %b" % (name.lower(), value) for name, value in head.fields)))


class Played(NamedTuple):
    """One event at its end."""

    exit: Exit | None
    calls: list[str]
    """``get KEY`` and ``set KEY`` of ``kong.ctx.shared``."""

    @property
    def reason(self) -> str | list[str]:
        assert self.exit is not None
        return self.exit.fields["X-Portero-Reason"]


async def play(handler: Handler, shared: dict[str, Any]) -> Played:
    """Run one event. ``shared`` is Kong's ``ctx.shared``; strings come back from it as bytes."""
    calls: list[str] = []
    answer: Any = None
    try:
        while True:
            step = handler.send(answer)
            if isinstance(step, Wait):
                answer = await step.awaitable
            else:
                calls.append(f"{step.method.removeprefix('kong.ctx.shared.')} {step.args[0]}")
                answer = _called(step, shared)
    except StopIteration as end:
        return Played(end.value, calls)


def _called(call: Call, shared: dict[str, Any]) -> Any:
    if call.method == "kong.ctx.shared.get":
        return shared.get(call.args[0])
    assert call.method == "kong.ctx.shared.set"
    key, value = call.args
    shared[key] = value.encode() if isinstance(value, str) else value
    return None


def leaving(head: Head, verdict: dict[str, Any]) -> Pairs:
    """The fields, names in lower case and in order, that leave Kong for what ``verdict`` says of ``head``."""
    cleared = {name.lower().encode() for name in verdict["clear"]}
    kept = [(name.lower(), value) for name, value in head.fields if name.lower() not in cleared | _NGINXS]
    for name, value in verdict["set"].items():
        wanted = name.lower().encode()
        values = value if isinstance(value, list) else [value]
        kept = [pair for pair in kept if pair[0] != wanted] + [(wanted, one.encode()) for one in values]
    # Kong removes what the client's Connection names once all plugins have run.
    named = {
        option.strip().lower() for name, value in head.fields if name == b"connection" for option in value.split(b",")
    }
    kept = [pair for pair in kept if pair[0] not in named]
    for own, value in verdict["forwarded"].items():
        written = f"x-forwarded-{own}".encode()
        kept = [pair for pair in kept if pair[0] != written] + [(written, value.encode())]
    return sorted(kept)


def sent_by_proxy(passed: Passed) -> Pairs:
    """The same of what the proxy would send."""
    lines = passed.request_block.split(b"\r\n")[1:-1]
    return sorted((name.lower(), value) for name, _, value in (line.partition(b": ") for line in lines))


# -- judged requests -------------------------------------------------------------------------------------------------


def a_passed(
    head: Head,
    tenant: TenantTable,
    principal: Principal,
    *,
    address: Address = FUNCTION,
    written: bytes | None = None,
    limits: tuple[LimitState, ...] = (),
    lease: Lease | None = None,
) -> Passed | Deny:
    """
    What a gate makes of ``head`` that lets everything through; a Deny when it is no request.

    ``written``: the target as the backend wants it.
    """
    request = read_head(head, NOBODY)
    if isinstance(request, Deny):
        return request
    policies = a_policy_set(tenant)
    place = resolve(request, policies)
    if isinstance(place, Deny):
        return place
    assert isinstance(place, Place), place
    query = request.target.query
    target = written or place.path.encode() + (b"" if query is None else b"?" + query.encode())
    return Passed(
        case=Case(head, request, policies, REQUEST_ID, 0.0),
        request=request,
        allow=Allow(place, principal, None, limits),
        destination=Destination(address, target, b"gateway.test:8080"),
        request_block=request_block(request, place, principal, REQUEST_ID, target, b"gateway.test:8080"),
        answer_block=answer_block(place, request, REQUEST_ID, limits) + principal.set_cookie,
        lease=lease,
        gate=StubGate(address),
    )


def an_undecided(passed: Passed) -> Undecided:
    """The same request before question 5."""

    def ended() -> Any:
        yield from ()

    ready = Ready(passed.allow.place, passed.allow.principal, passed.request)
    return Undecided(passed.case, passed.request, ended(), ready)


@dataclass
class Told:
    """A gate and its passes that do as they are told, and remember what they were told."""

    verdict: Verdict | Undecided | Exception | None = None
    settled: Verdict | Exception | None = None
    """What ``decide_unheld`` comes to."""
    token: str | None = PASS
    left_: list[Passed] = field(default_factory=list)
    issued: list[Passable] = field(default_factory=list)
    ended: list[tuple[Passable, Reason]] = field(default_factory=list)
    taken_back: list[str] = field(default_factory=list)
    heads: list[Head] = field(default_factory=list)
    request_ids: list[str | None] = field(default_factory=list)
    callers: list[Principal | None] = field(default_factory=list)
    refusals: list[Reason] = field(default_factory=list)
    is_starting_: bool = False
    breaks: bool = False
    """Whatever it is asked raises."""

    def front(self, internal: tuple[str, int] | None = INTERNAL) -> Front:
        return Front(self, self, internal)

    def decide_now(
        self,
        head: Head,
        memo: HeadMemo | None = None,
        asks: Judge | None = None,
        request_id: str | None = None,
        caller: Principal | None = None,
    ) -> Verdict | Undecided:
        self.heads.append(head)
        self.request_ids.append(request_id)
        self.callers.append(caller)
        if isinstance(self.verdict, Exception) or self.verdict is None:
            raise self.verdict or AssertionError("asked for a verdict")
        return self.verdict

    async def decide_unheld(self, undecided: Undecided) -> Verdict | Undecided:
        if isinstance(self.settled, Exception) or self.settled is None:
            raise self.settled or AssertionError("asked for more")
        return self.settled

    def is_starting(self, passed: Passed) -> bool:
        return self.is_starting_

    def left(self, passed: Passed) -> None:
        self.left_.append(passed)

    def refuse_head(self, refusal: Deny, head: Head) -> Refused:
        return self._refused(refusal)

    def refuse_unread(self, reason: Reason, detail: str, peer: str) -> Refused:
        return self._refused(Deny(reason, detail))

    def issue(self, verdict: Passable) -> str | None:
        if self.breaks:
            raise RuntimeError("a secret")
        if self.token is not None:
            self.issued.append(verdict)
        return self.token

    def refuse(self, verdict: Passable, refusal: Refusal) -> Refused:
        self.ended.append((verdict, refusal.reason))
        return Refused(problem(refusal, REQUEST_ID), REQUEST_ID)

    def take_back(self, token: str) -> None:
        self.taken_back.append(token)

    def _refused(self, refusal: Deny) -> Refused:
        if self.breaks:
            raise RuntimeError("a secret")
        self.refusals.append(refusal.reason)
        return Refused(problem(refusal, REQUEST_ID), REQUEST_ID)


# -- a real front ----------------------------------------------------------------------------------------------------


@dataclass
class Kong:
    """A whole Portero (``world``) whose gate is asked by plugins; nobody is behind the passes."""

    world: World
    front: Front
    passes: Passes

    async def ask(self, plugins: list[Any], line: str, *fields: tuple[str, str], token: str | None = None) -> Asked:
        """One request through ``plugins`` in their order, as a route of Kong runs them."""
        method, _, target = line.partition(" ")
        said = [("host", "acme.test"), *([] if token is None else [("authorization", f"Bearer {token}")]), *fields]
        raw = tuple((name.encode(), value.encode("latin-1")) for name, value in said)
        head = Head(method, target.encode(), raw, (1, 1), "198.51.100.7", "http")
        return await self.go_on(Asked(None, {FACTS: facts_of(head)}, [], head), plugins)

    async def go_on(self, asked: Asked, plugins: list[Any]) -> Asked:
        """The rest of the plugins of a request that was asked about by some already."""
        calls = list(asked.calls)
        for plugin in plugins:
            played = await play(plugin.answer(self.front), asked.shared)
            calls += played.calls
            if played.exit is not None:
                return asked._replace(exit=played.exit, calls=calls)
        return asked._replace(calls=calls)


class Asked(NamedTuple):
    exit: Exit | None
    shared: dict[str, Any]
    calls: list[str]
    head: Head


@contextlib.asynccontextmanager
async def running_kong(**settings: Any) -> AsyncIterator[Kong]:
    async with running_world(**settings) as world:
        gate = world.app.parts.gate
        passes = Passes(gate)
        try:
            yield Kong(world, Front(gate, passes, INTERNAL), passes)
        finally:
            await passes.close()
