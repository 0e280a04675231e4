"""
The steps that all plugins have in common: the facts first, then the gate, then what Kong is told.

Each is an error's last chance to become a refusal: whatever breaks in a handler, the request does not pass. Nothing of
an error's text reaches the client.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final

from authproxy.audit import get_logger
from authproxy.gate.verdict import Undecided, Verdict
from gateway_plugins.answers import PASS_FIELD, VERDICT, as_exit, depart
from gateway_plugins.facts import FACTS
from gateway_plugins.front import Front
from gateway_plugins.handler import Call, Exit, Handler, Wait
from gateway_plugins.kong_log import Throttle
from policies.decision import Deny, Reason
from policies.pipeline import Ready
from policies.problem import problem
from policies.request import Head

ASK_FACTS: Final = Call("kong.ctx.shared.get", (FACTS,))
_BROKEN: Final = Deny(Reason.INTERNAL_ERROR)
_LINES_A_SECOND: Final = 1
"""What each request would say once a chain or a config is wrong."""

_log = get_logger("kong")
_throttle = Throttle(_LINES_A_SECOND)


def settled(front: Front, verdict: Verdict | Undecided) -> Generator[Call | Wait, Any, Verdict | Undecided]:
    """``verdict``, once all is known but whether its function is awake: that is not waited for inside Kong."""
    if type(verdict) is Undecided and type(verdict.need) is not Ready:
        answer: Verdict | Undecided = yield Wait(front.gate.decide_unheld(verdict))
        return answer
    return verdict


def leave(front: Front, verdict: Verdict | Undecided, head: Head, *, may_be_direct: bool) -> Handler:
    """The last step of whoever lets requests out: tell Kong the answer, or under which verdict the request leaves."""
    told = depart(front, verdict, head, may_be_direct=may_be_direct)
    if isinstance(told, Exit):
        return told
    try:
        yield Call("kong.ctx.shared.set", (VERDICT, told))
    except BaseException:
        # Kong does not come back, or could not keep it: the request will not reach the listener.
        if (token := told["set"].get(PASS_FIELD)) is not None:
            front.passes.take_back(token)
        raise
    return None


def without_facts(front: Front, plugin: str) -> Exit:
    """The refusal of a request that nothing is known of."""
    complain(
        "no facts of a request: the rendered pre-function did not run before the plugin; render kong.yml anew", plugin
    )
    return as_exit(front.gate.refuse_unread(Reason.INTERNAL_ERROR, "", ""))


def broken(front: Front, head: Head | None, plugin: str) -> Exit:
    """The refusal for an exception of ours. Called from except clauses only; never raises."""
    try:
        if _throttle.admits():
            _log.exception("a plugin failed", plugin=plugin, left_out=_throttle.taken())
        if head is None:
            return as_exit(front.gate.refuse_unread(Reason.INTERNAL_ERROR, "", ""))
        return as_exit(front.gate.refuse_head(_BROKEN, head))
    except Exception:  # noqa: BLE001 (a gate that cannot even refuse must not let through)
        document = problem(_BROKEN, "-")
        return Exit(document.status, dict(document.fields), document.body)


def complain(event: str, plugin: str) -> None:
    """One line in the log, at most one a second."""
    if _throttle.admits():
        _log.error(event, plugin=plugin, left_out=_throttle.taken())
