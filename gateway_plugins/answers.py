"""
The gate's verdict as Kong is told it: an answer of Portero's own, or how the request leaves.

What a function can take at once leaves from Kong, with exactly the fields that the proxy would have sent
(``direct_verdict``). Whatever has to be held, counted while it runs, bounded as it comes or answered by Portero itself
goes by the internal listener, with a pass under which the judged request waits there (``internal_verdict``). Either is
a table that ``lua/admit.lua`` applies and ``lua/answer.lua`` reads. It decides which of the two ways, and nothing of
whether. It refuses to know Kong's protocol.

Every verdict that comes in here ends here or is handed to the passes: the gate is told of each end exactly once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from authproxy.gate.verdict import Deferred, DirectAnswer, PageCall, Passed, Refused, StagePassed, Undecided, Verdict
from gateway_plugins.changes import changes
from gateway_plugins.front import Front, Passable
from gateway_plugins.handler import Exit
from policies.decision import Deny, Reason
from policies.request import Head
from policies.tables import Timeouts

VERDICT: Final = "portero_verdict"
"""Key in ``kong.ctx.shared``."""
PASS_FIELD: Final = "X-Portero-Pass"  # noqa: S105 (a field's name)

_JUDGED: Final = (b"authorization", b"cookie", b"dpop")
"""Not sent to the internal listener: they have been judged, and wait there with the request."""
_MAX_MS: Final = 2**31 - 2
"""What Kong takes for a timeout."""
_OWN_TIMEOUTS: Final = Timeouts()
"""Of requests that Portero answers itself."""
_SPARE_S: Final = 10.0
"""What the internal listener may take beyond its own deadlines, so that it is the one to say what happened."""

_BROKEN: Final = Deny(Reason.INTERNAL_ERROR)
_OVERLOADED: Final = Deny(Reason.OVERLOADED, "too many requests wait for the internal listener", retry_after_s=1)
_NO_LISTENER: Final = Deny(
    Reason.WAKE_FAILED, "this request cannot go to its function directly, and there is no internal listener"
)


def depart(front: Front, verdict: Verdict | Undecided, head: Head, *, may_be_direct: bool) -> Exit | dict[str, Any]:
    """
    What Kong is told of ``verdict``: the answer, or the table under which the request leaves.

    Args:
        front: gate and passes; told of the end of what ends here.
        verdict: of the gate. ``Undecided`` when only its function is to be waited for.
        head: what was judged.
        may_be_direct: False: every request goes by the internal listener.
    """
    if type(verdict) is Passed:
        if may_be_direct and goes_direct(verdict, head) and not front.gate.is_starting(verdict):
            try:
                table = direct_verdict(verdict, head)
            except BaseException:
                front.passes.refuse(verdict, _BROKEN)
                raise
            front.gate.left(verdict)
            return table
        return _by_listener(front, verdict, head)
    if isinstance(verdict, Refused | DirectAnswer):
        return as_exit(verdict)
    if isinstance(verdict, StagePassed):  # not of a final one
        return as_exit(front.gate.refuse_head(_BROKEN, head))
    return _by_listener(front, verdict, head)


def _by_listener(front: Front, verdict: Passable, head: Head) -> Exit | dict[str, Any]:
    if front.internal is None:
        return as_exit(front.passes.refuse(verdict, _NO_LISTENER))
    try:
        token = front.passes.issue(verdict)
        if token is None:
            return as_exit(front.passes.refuse(verdict, _OVERLOADED))
    except BaseException:
        front.passes.refuse(verdict, _BROKEN)
        raise
    try:
        return internal_verdict(front.internal, token, verdict, head)
    except BaseException:
        front.passes.take_back(token)
        raise


def goes_direct(passed: Passed, head: Head) -> bool:
    """
    Whether Kong may take the request to its function itself, once that has been awake for a while. Not when

    - its end has to be known: ``concurrency`` of the function, ``concurrent`` limits, a place that it was held for;
    - it has to be cut meanwhile: a total timeout, a websocket of a caller whose login may end;
    - its body's length is not known and bounded;
    - the function's certificate has to be checked, which Kong does not by itself;
    - Kong would ask the function for a websocket and Portero would not.
    """
    request, allow = passed.request, passed.allow
    spec = allow.place.spec
    return (
        passed.lease is None
        and passed.grant is None
        and spec.concurrency is None
        and spec.timeouts.total_s is None
        and not passed.destination.address.is_tls
        and not (request.is_chunked and spec.max_body_bytes is not None)
        and (allow.principal.is_anonymous if request.is_websocket else not _asks_upgrade(head))
    )


def _asks_upgrade(head: Head) -> bool:
    for name, value in head.fields:  # noqa: SIM110 (``any`` takes twice as long)
        if name == b"upgrade" and value.lower() == b"websocket":
            return True
    return False


# -- how a request leaves --------------------------------------------------------------------------------------------


def direct_verdict(passed: Passed, head: Head) -> dict[str, Any]:
    """
    The table for a request that Kong takes to its function: what differs between ``head`` and what the proxy would
    send.

    Raises: ValueError, UnicodeError when that cannot be said in a table: a defect of ours.
    """
    address, target, host = passed.destination
    request, allow = passed.request, passed.allow
    path, mark, query = target.decode("ascii").partition("?")
    cleared, written, forwarded = changes(head, passed)
    written["Host"] = host.decode("ascii")
    route, principal, timeouts = allow.place.route, allow.principal, allow.place.spec.timeouts
    silence_ms = _ms(max(timeouts.first_byte_s, timeouts.idle_s))
    table: dict[str, Any] = {
        "host": address.host,
        "port": address.port,
        "path": path,
        "clear": cleared,
        "set": written,
        "forwarded": forwarded,
        "timeouts": {"connect_ms": _ms(timeouts.connect_s), "write_ms": silence_ms, "read_ms": silence_ms},
        "answer": {
            "add": _by_name(_lines(passed.answer_block)),
            "strip_cors": route is not None and bool(route.cors_origins),
            "is_private": bool(principal.set_cookie),
            "is_by_cookie": principal.is_by_cookie,
        },
    }
    if (query if mark else None) != request.target.query:
        table["query"] = query
    return table


def internal_verdict(internal: tuple[str, int], token: str, verdict: Passable, head: Head) -> dict[str, Any]:
    """The table for a request that goes by the internal listener; its answer is Portero's own and left untouched."""
    request = verdict.request
    silence_ms = _ms(_patience_s(verdict))
    here = [name.decode("ascii") for name in _JUDGED if any(pair[0] == name for pair in head.fields)]
    return {
        "host": internal[0],
        "port": internal[1],
        "path": request.target.path,
        "clear": here,
        "set": {"Host": request.authority, PASS_FIELD: token},
        "forwarded": {"for": request.client_ip, "proto": request.scheme, "host": request.host},
        "timeouts": {"connect_ms": _ms(_OWN_TIMEOUTS.connect_s), "write_ms": silence_ms, "read_ms": silence_ms},
    }


def _patience_s(verdict: Passable) -> float:
    """Longest that the internal listener may be silent: it is held, perhaps once more, then its function is waited for.

    A hold of which the caller says how long is no longer than that of the function.
    """
    if isinstance(verdict, PageCall | Deferred):
        return _OWN_TIMEOUTS.first_byte_s + _SPARE_S
    spec = (verdict.need.place if isinstance(verdict, Undecided) else verdict.allow.place).spec
    timeouts = spec.timeouts
    return max(2 * spec.cold_start.max_wait_s + timeouts.first_byte_s, timeouts.idle_s) + _SPARE_S


def _ms(seconds: float) -> int:
    return max(1, min(_MAX_MS, round(seconds * 1000)))


# -- what is answered here -------------------------------------------------------------------------------------------


def as_exit(answer: Refused | DirectAnswer) -> Exit:
    """The answer that is Portero's own, as Kong is to write it."""
    if isinstance(answer, DirectAnswer):
        return Exit(answer.status, _by_name(answer.fields), b"")
    problem = answer.problem
    return Exit(problem.status, _by_name(problem.fields), problem.body)


def _lines(block: bytes) -> list[tuple[str, str]]:
    """``name: value CRLF`` lines of Portero's own, as pairs."""
    if not block:
        return []
    pairs = [line.partition(": ") for line in block.decode("ascii").split("\r\n")[:-1]]
    return [(name, value) for name, _, value in pairs]


def _by_name(fields: Iterable[tuple[str, str]]) -> dict[str, str | list[str]]:
    """Fields as Kong takes them: a list where a name stands several times."""
    found: dict[str, str | list[str]] = {}
    for name, value in fields:
        known = found.get(name)
        if known is None:
            found[name] = value
        elif isinstance(known, list):
            known.append(value)
        else:
            found[name] = [known, value]
    return found
