"""
``portero``: all five questions in one event, and where the request leaves to.

It wants the rendered ``pre-function`` before it and ``post-function`` behind it (``portero kong render``): the first
leaves the facts and removes what strangers may not say, the second lets out what has a verdict and nothing else.

Its Kong config::

    plugins:
    - name: portero
      config:
        direct: true   # false: every request goes by Portero's internal listener, none from Kong to its function

With ``direct: true`` Kong talks itself to a function that is awake, wherever nothing about the request has to be
watched until its end (``answers.goes_direct``). Two calls to Kong in any case.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from authproxy.version import VERSION
from gateway_plugins.facts import read_facts
from gateway_plugins.front import Front
from gateway_plugins.handler import Handler
from gateway_plugins.steps import ASK_FACTS, broken, leave, settled, without_facts

name: Final = "portero"
version: Final = VERSION
priority: Final = 1040
Schema: Final = ({"direct": {"type": "boolean", "required": True, "default": True}},)


class Plugin:
    """See ``handler.Plugin``."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Raises: ValueError."""
        direct = config.get("direct", True)
        if not isinstance(direct, bool):
            raise ValueError("direct: expected true or false")  # noqa: TRY004 (a config, not an argument)
        self._may_be_direct = direct

    def answer(self, front: Front) -> Handler:
        """One request. Hot: the usual one has two steps and waits for nothing."""
        head = None
        try:
            head = read_facts((yield ASK_FACTS))
            if head is None:
                return without_facts(front, name)
            verdict = yield from settled(front, front.gate.decide_now(head))
            return (yield from leave(front, verdict, head, may_be_direct=self._may_be_direct))
        except Exception:  # noqa: BLE001 (whatever broke, the request must not pass)
            return broken(front, head, name)

    def access(self, kong: Any) -> None:
        """The stock server calls this."""
        from gateway_plugins.stock import run  # noqa: PLC0415 (of no use on our own server)

        run(self, kong)
