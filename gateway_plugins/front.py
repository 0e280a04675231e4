"""
What handlers need of the process they run in: the gate that judges, the passes, where the internal listener is.

Composed by ``authproxy.kong_app``. Gate and passes are described by what handlers use of them; tests bring their own.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Protocol

from authproxy.gate.verdict import Deferred, PageCall, Passed, Refused, Undecided, Verdict
from policies.decision import Decision, Deny, Known, Reason, Refusal
from policies.pipeline import Need, judge
from policies.principal import Principal
from policies.request import AccessRequest, Head, HeadMemo
from policies.tables import PolicySet

Judge = Callable[[AccessRequest, PolicySet, float], Generator[Need, Any, Decision | Known]]
"""What asks the questions; as ``policies.pipeline.judge``."""
Passable = Undecided | Passed | PageCall | Deferred
"""What the internal listener can go on with."""


class PluginGate(Protocol):
    """What handlers need of ``authproxy.gate.gate.Gate``."""

    def decide_now(
        self,
        head: Head,
        memo: HeadMemo | None = None,
        asks: Judge = judge,
        request_id: str | None = None,
        caller: Principal | None = None,
    ) -> Verdict | Undecided: ...

    async def decide_unheld(self, undecided: Undecided) -> Verdict | Undecided: ...

    def is_starting(self, passed: Passed) -> bool: ...

    def left(self, passed: Passed) -> None: ...

    def refuse_head(self, refusal: Deny, head: Head) -> Refused: ...

    def refuse_unread(self, reason: Reason, detail: str, peer: str) -> Refused: ...


class PluginPasses(Protocol):
    """What handlers need of ``authproxy.gate.passes.Passes``."""

    def issue(self, verdict: Passable) -> str | None: ...

    def refuse(self, verdict: Passable, refusal: Refusal) -> Refused: ...

    def take_back(self, token: str) -> None: ...


@dataclass
class Front:
    """One a process."""

    gate: PluginGate
    passes: PluginPasses
    internal: tuple[str, int] | None
    """Host and port of Portero's internal listener, as Kong reaches it; None: there is none, nothing can be held."""
