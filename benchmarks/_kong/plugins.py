"""
Plugins that judge nothing and call Kong so many times: what a server alone costs.

On the stock server they are written as its users write theirs, without anything of Portero's in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Final

from gateway_plugins.front import Front
from gateway_plugins.handler import Call, Handler

CALLS: Final = {"one": 1, "five": 5}
_GET: Final = Call("kong.request.get_header", ("host",))


def module(name: str) -> Any:
    """As the modules of ``gateway_plugins.plugins.PLUGINS``. Raises: KeyError."""
    calls = CALLS[name]

    class Plugin:
        def __init__(self, config: Mapping[str, Any]) -> None:
            pass

        def answer(self, _front: Front) -> Handler:
            for _ in range(calls):
                yield _GET
            return None

        def access(self, kong: Any) -> None:
            for _ in range(calls):
                kong.request.get_header("host")

    return SimpleNamespace(name=name, version="1", priority=1, Schema=(), Plugin=Plugin)
