"""
Who judges what comes in at the internal listener: nobody a second time. A request is what waits under its pass.

It decides whether a request brings one pass, and what of the arriving head counts: how its body is framed, because
whoever sent it on may have framed it anew (Kong's buffering turns chunks into a length), and nothing else. Method,
host, target, credentials, every field and the answers to all questions are those that were judged. What is larger than
the function takes is refused here again: its length may not have been known then.

It refuses to know who may connect; the pass is the only authority (RFC 9112 section 6 for framing).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from authproxy.audit import get_logger
from authproxy.edges.judge import Judge
from authproxy.gate.passes import Passable, Passes
from authproxy.gate.verdict import PageCall, Passed, Refused, Undecided, Verdict
from authproxy.upstream.held_body import HoldableBody
from policies.decision import Deny, Reason
from policies.header_fields import (
    CONNECTION,
    CONTENT_LENGTH,
    EXPECT,
    HOST,
    REQUEST_KINDS,
    TRANSFER_ENCODING,
    UPGRADE,
    WEBSOCKET_KEY,
    WEBSOCKET_VERSION,
)
from policies.pipeline import Spend
from policies.request import AccessRequest, Head, HeadMemo, TrustedPeers, read_head

PASS_FIELD: Final = b"x-portero-pass"
"""Lower case. Another spelling (``X_Portero_Pass``) is another field, and not read."""
_FRAMES: Final = frozenset(
    {HOST, CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE, EXPECT, WEBSOCKET_KEY, WEBSOCKET_VERSION}
)
"""All that is read of an arriving head; whoever sent it on may have added fields to one that was full."""
_NOBODY: Final = TrustedPeers()
_INVALID: Final = Deny(Reason.PASS_INVALID)

_log = get_logger("edge")


class InternalGate(Judge, Protocol):
    """What is needed of ``authproxy.gate.gate.Gate``."""

    def refuse_head(self, refusal: Deny, head: Head) -> Refused: ...

    def go_on_now(self, undecided: Undecided) -> Verdict | Undecided: ...


class InternalJudge:
    """
    See ``Judge``: what a request is comes from ``passes``, all else from ``gate``.

    ``refused``: one-element list, counts those who brought no pass that was theirs.
    """

    def __init__(self, gate: InternalGate, passes: Passes, refused: list[float] | None = None) -> None:
        self._gate = gate
        self._passes = passes
        self._refused = [0.0] if refused is None else refused
        self.abandon = gate.abandon
        self.finish = gate.finish
        self.upstream_failed = gate.upstream_failed
        self.says_not_reached = gate.says_not_reached
        self.failure_of = gate.failure_of
        self.may_retry = gate.may_retry
        self.hold_again = gate.hold_again
        self.fail = gate.fail
        self.refuse_unread = gate.refuse_unread
        self.page_answered = gate.page_answered
        self.page_refused = gate.page_refused
        self.page_failed = gate.page_failed
        self.deferred_refused = gate.deferred_refused

    def decide_now(self, head: Head, memo: HeadMemo | None = None) -> Verdict | Undecided:  # noqa: ARG002  # see below
        """
        What waits under the request's pass, or the refusal. Never raises.

        ``memo`` is left alone: no two requests of a connection have anything in common but their sender.
        """
        tokens = [value for name, value in head.fields if name.lower() == PASS_FIELD]
        if len(tokens) != 1:
            return self._without_pass(head)
        arrived = read_head(head._replace(fields=_framing_fields(head)), _NOBODY)
        if isinstance(arrived, Deny):
            refused = self._gate.refuse_head(arrived, head)
            refused.keeps_alive = False  # where it ends is as doubtful as it is
            return refused
        verdict = self._passes.redeem(tokens[0], head)
        if verdict is None:
            return self._without_pass(head)
        if isinstance(verdict, Refused):
            return verdict
        try:
            refusal = _reframe(verdict, arrived)
        except Exception:  # noqa: BLE001  # contained: what it holds has to be given back
            _log.exception("going on with a pass failed", request_id=verdict.case.request_id)
            refusal = Deny(Reason.INTERNAL_ERROR)
        if refusal is not None:
            return self._passes.refuse(verdict, refusal)
        return self._gate.go_on_now(verdict) if type(verdict) is Undecided else verdict

    def _without_pass(self, head: Head) -> Refused:
        self._refused[0] += 1
        return self._gate.refuse_head(_INVALID, head)

    def decide_soon(self, _undecided: Undecided, _then: Callable[[Verdict | Undecided], None]) -> bool:
        """What comes here has had its limits spent; what is left to wait for is its function."""
        return False

    async def decide(self, undecided: Undecided, body: HoldableBody | None = None) -> Verdict:
        return await self._gate.decide(undecided, body)


def _framing_fields(head: Head) -> tuple[tuple[bytes, bytes], ...]:
    return tuple([pair for pair in head.fields if REQUEST_KINDS[pair[0]] in _FRAMES])


def _reframe(verdict: Passable, arrived: AccessRequest) -> Deny | None:
    """Have ``verdict`` say how the body comes that has arrived; a refusal: it is not what was judged, or too large."""
    request = verdict.case.request
    if request is None or request.is_websocket != arrived.is_websocket:
        return _INVALID
    request = request._replace(
        content_length=arrived.content_length,
        is_chunked=arrived.is_chunked,
        expects_continue=arrived.expects_continue,
        keeps_alive=arrived.keeps_alive,
    )
    verdict.case.request = request
    if isinstance(verdict, PageCall):
        return None  # pages have bounds of their own
    if isinstance(verdict, Undecided):
        need = verdict.need
        verdict.request = request
        if not isinstance(need, Spend):
            verdict.need = need._replace(request=request)
        spec = need.place.spec
    else:
        if isinstance(verdict, Passed):
            verdict.request = request
        spec = verdict.allow.place.spec
    most, length = spec.max_body_bytes, request.content_length
    if most is not None and length is not None and length > most:
        return Deny(Reason.BODY_TOO_LARGE, f"the function takes at most {most} bytes")
    return None
