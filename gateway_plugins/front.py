"""
What handlers need of the process they run in: the gate that judges, the passes, where the internal listener is.

Composed by ``authproxy.kong_app``. Both are described by what handlers use of them; tests bring their own.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Protocol

from authproxy.gate.verdict import Deferred, PageCall, Passed, Undecided
from policies.decision import Decision
from policies.pipeline import Need
from policies.request import AccessRequest, Head, HeadMemo
from policies.tables import PolicySet

Judging = Callable[[AccessRequest, PolicySet, float], Generator[Need, Any, Decision]]
"""As ``policies.pipeline.judge``: request, policies, now (Unix seconds)."""
Passable = Undecided | Passed | PageCall | Deferred
"""What the internal listener can go on with."""


class PluginGate(Protocol):
    """What handlers need of ``authproxy.gate.gate.Gate``."""

    def decide_now(self, head: Head, memo: HeadMemo | None = None, judging: Judging | None = None) -> Any: ...

    async def decide(self, undecided: Undecided, body: None = None, *, until_ready: bool = False) -> Any: ...

    def left(self, passed: Passed) -> None: ...


class PluginPasses(Protocol):
    """What handlers need of ``authproxy.gate.passes.Passes``."""

    def issue(self, verdict: Passable) -> str | None: ...


@dataclass
class Front:
    """One a process."""

    gate: PluginGate
    passes: PluginPasses
    internal: tuple[str, int] | None
    """Host and port of Portero's internal listener, as Kong reaches it; None: there is none, nothing can be held."""
