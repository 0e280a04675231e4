"""
The stock plugin server with a plugin whose config says what to do; run in a process of its own by ``stock_server.py``.

    python -m tests.fakes.stock_child SILENCE_S [options of kong-pdk]
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, NoReturn, cast

from gateway_plugins import stock
from gateway_plugins.front import Front
from gateway_plugins.handler import Call, Exit, Handler, Wait

NAME: Final = "scripted"
MEETING_S: Final = 10.0
"""How long those who came first wait for the rest."""
_GET: Final = Call("kong.ctx.shared.get", ("portero_facts",))
_VERDICT: Final = Call("kong.ctx.shared.set", ("portero_verdict", {"host": "127.0.0.1", "port": 8081}))


class Plugin:
    """``do`` says what happens; each way but ``allow`` must end without a verdict."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        if config["do"] == "break at the start":
            raise ValueError("this config cannot be used")
        self._do = config["do"]
        self._seconds = config.get("seconds", 0.0)
        self._count = int(config.get("count", 1))
        self._until = Path(config.get("until", ""))
        self._meeting: asyncio.Barrier | None = None

    def access(self, kong: Any) -> None:
        stock.run(cast("Any", self), kong)

    def answer(self, _front: Front) -> Handler:
        match self._do:
            case "break before":
                raise RuntimeError("before the first call")
            case "meet first":
                yield Wait(self._meet())
            case "refuse first":
                return Exit(403, {"X-Portero-Reason": "no-rule-allows"}, b"no\n")
        facts = yield _GET
        match self._do:
            case "break after":
                raise RuntimeError("after the first call")
            case "refuse":
                return Exit(403, {"X-Portero-Reason": "no-rule-allows"}, b"no\n")
            case "call wrongly":
                yield Call("kong.request.get_path")
            case "wait":
                yield Wait(asyncio.sleep(self._seconds))
            case "block":
                while not self._until.exists():
                    time.sleep(0.005)
        if facts is not None:
            yield _VERDICT
        return None

    async def _meet(self) -> None:
        """Until ``count`` events wait here at the same time. Raises: TimeoutError."""
        if self._meeting is None:
            self._meeting = asyncio.Barrier(self._count)
        await asyncio.wait_for(self._meeting.wait(), MEETING_S)


class Process:
    """Nothing behind the plugin."""

    front = Front(cast("Any", None), cast("Any", None), None)

    async def start(self) -> None: ...

    async def stop(self, drain_s: float | None = None) -> None: ...


def refuse(text: str) -> NoReturn:
    sys.exit(f"refused: {text}")


if __name__ == "__main__":
    from gateway_plugins.stock_main import serve

    stock.SILENCE_S = float(sys.argv[1])  # type: ignore[misc]  # a test cannot wait for fifteen seconds
    stock.set_process(Process)
    names = {"do": "string", "seconds": "number", "count": "number", "until": "string"}
    schema = tuple({name: {"type": kind}} for name, kind in names.items())
    module = SimpleNamespace(Plugin=Plugin, Schema=schema, version="0.1.0", priority=1040)
    serve(NAME, module, sys.argv[2:], refuse=refuse)
