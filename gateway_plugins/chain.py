"""
The four plugins that each ask a part: what they have in common, and how they hang together.

Each runs by its priority: tenant 1040, rbac 1030, ratelimit 1020, coldstart 1010. What one has found the next takes
from ``kong.ctx.shared`` when its ``after`` names it, and never from a request's field. Two fields of config:

``after``
    The plugins that must have run before. If one of them has not, the request is refused (500): a plugin server that
    was down must not widen access. Empty: nothing is taken over, the plugin finds out itself what it needs.
``final``
    True on exactly one plugin of a route, the last: it lets the request out, and asks who is calling and whether he
    may, if nobody has (``policies.stages``). False is the default, also of a plugin that stands alone: a chain that
    nobody ends ends in the post-function's 503, never at the function.

``portero kong render --chain`` writes both.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Final

from authproxy.gate.verdict import DirectAnswer, PageCall, Refused, StagePassed, Undecided, Verdict
from gateway_plugins.answers import as_exit
from gateway_plugins.facts import read_facts
from gateway_plugins.found import FOUND, read_found, write_found
from gateway_plugins.front import Front
from gateway_plugins.handler import Call, Exit, Handler
from gateway_plugins.steps import ASK_FACTS, broken, complain, leave, settled, without_facts
from policies.decision import Deny, Reason
from policies.request import Head
from policies.stages import ORDER, Earlier, Stage, judge_stages

NAMES: Final[Mapping[Stage, str]] = {stage: f"portero-{stage.value}" for stage in ORDER}
_STAGES: Final[Mapping[str, Stage]] = {kong_name: stage for stage, kong_name in NAMES.items()}
_ASK_FOUND: Final = Call("kong.ctx.shared.get", (FOUND,))
_BROKEN: Final = Deny(Reason.INTERNAL_ERROR)


def schema_of(stage: Stage) -> tuple[dict[str, Any], ...]:
    """The config of the plugin that asks ``stage``, as Kong's schema language has it."""
    before = [NAMES[other] for other in ORDER[: ORDER.index(stage)]]
    elements: dict[str, Any] = {"type": "string"}
    after: dict[str, Any] = {"type": "array", "required": True, "default": [], "elements": elements}
    if before:
        elements["one_of"] = before
    else:
        after["len_max"] = 0
    return ({"after": after}, {"final": {"type": "boolean", "required": True, "default": False}})


class ChainPlugin:
    """See ``handler.Plugin``; each plugin's module says its stage."""

    stage: ClassVar[Stage]

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Raises: ValueError."""
        self._name = NAMES[self.stage]
        final = config.get("final", False)
        if not isinstance(final, bool):
            raise ValueError("final: expected true or false")  # noqa: TRY004 (a config, not an argument)
        before = ORDER[: ORDER.index(self.stage)]
        after = config.get("after") or []  # an empty table of Lua is a JSON object
        known = isinstance(after, list) and all(isinstance(one, str) and _STAGES.get(one) in before for one in after)
        if not known:
            expected = ", ".join(NAMES[stage] for stage in before) or "nothing"
            raise ValueError(f"after: expected plugins that run before {self._name}: {expected}")
        self._after = frozenset(_STAGES[one] for one in after)
        self._is_final = final

    def answer(self, front: Front) -> Handler:
        """One request."""
        head, earlier = None, None
        try:
            head = read_facts((yield ASK_FACTS))
            if head is None:
                return without_facts(front, self._name)
            if self._after:
                earlier = read_found((yield _ASK_FOUND))
                if earlier is None or not self._after <= earlier.done:
                    return self._unlinked(front, head)
            asks = partial(judge_stages, stages=frozenset({self.stage}), earlier=earlier, is_final=self._is_final)
            request_id = None if earlier is None else earlier.request_id
            caller = None if earlier is None else earlier.principal
            verdict = yield from settled(front, front.gate.decide_now(head, None, asks, request_id, caller))
            if self._is_final:
                return (yield from leave(front, verdict, head, may_be_direct=True))
            return (yield from self._pass_on(front, verdict, earlier))
        except Exception:  # noqa: BLE001 (whatever broke, the request must not pass)
            return broken(front, head, self._name)

    def _pass_on(self, front: Front, verdict: Verdict | Undecided, earlier: Earlier | None) -> Handler:
        """Leave what was found for the next one; a refusal is an answer already."""
        done = frozenset({self.stage}) | (frozenset() if earlier is None else earlier.done)
        if isinstance(verdict, StagePassed):
            known = verdict.known
            found = Earlier(
                done,
                known.principal,
                known.rule,
                known.limits,
                known.shadowed,
                verdict.case.request_id,
                known.place.tenant.name,
                known.place.function,
                verdict.case.policies.revision,
            )
        elif isinstance(verdict, PageCall):  # asked for again by the last one, who lets it out
            tenant = verdict.page.tenant.name
            found = Earlier(
                done, None, None, (), (), verdict.case.request_id, tenant, "", verdict.case.policies.revision
            )
        elif isinstance(verdict, Refused | DirectAnswer):
            return as_exit(verdict)
        else:  # only the last one asks what these are the answer to
            return as_exit(front.passes.refuse(verdict, _BROKEN))
        yield Call("kong.ctx.shared.set", (FOUND, write_found(found)))
        return None

    def _unlinked(self, front: Front, head: Head) -> Exit:
        complain("a plugin that this one comes after has not run: its server is down, or 'after' is wrong", self._name)
        return as_exit(front.gate.refuse_head(_BROKEN, head))

    def access(self, kong: Any) -> None:
        """The stock server calls this."""
        from gateway_plugins.stock import run  # noqa: PLC0415 (of no use on our own server)

        run(self, kong)
