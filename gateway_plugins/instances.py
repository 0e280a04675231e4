"""
The configured plugins that Kong has started: what was said in their configuration, and how many are kept.

Each Kong worker starts one for each plugin entity at its first request and closes it when the configuration has
changed; a worker that dies closes nothing, so those that were used longest ago are forgotten beyond a bound. Kong, told
``no plugin instance``, starts anew. Ids begin at a random number: after a restart no old id may mean another
configuration (from 0 on, a worker that has not heard of the restart would run another's for moments).
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Collection, Mapping
from itertools import count
from typing import Any, Final

from gateway_plugins.handler import Plugin
from gateway_plugins.plugins import PluginModule

MAX_INSTANCES: Final = 10_000
"""Of one plugin: workers of Kong times plugin entities."""
_FIRST_ID_BITS: Final = 48
"""Lua's numbers are exact to 2**53."""


def new_ids() -> count[int]:
    """Ids of one process, which none of another process' equals but by a chance of 2**-48 each."""
    return count(secrets.randbits(_FIRST_ID_BITS) + 1)


class NoInstance(LookupError):
    """Kong's own words for it, on which it starts all instances of the plugin anew."""

    def __init__(self, instance_id: object) -> None:
        super().__init__(f"no plugin instance #{instance_id if isinstance(instance_id, int) else '?'}")


class Instance:
    """One plugin as one Kong worker has configured it."""

    __slots__ = ("config", "id", "plugin", "started_at", "used_at")

    def __init__(self, instance_id: int, plugin: Plugin, config: Mapping[str, Any]) -> None:
        self.id = instance_id
        self.plugin = plugin
        self.config = config
        self.started_at = time.time()
        """Unix seconds; Kong is told."""
        self.used_at = time.monotonic()

    def status(self, name: str) -> dict[str, Any]:
        """As Kong wants it in answer to ``StartInstance``."""
        return {"Name": name, "Id": self.id, "Config": self.config, "StartTime": self.started_at}


class Instances:
    """Those of one plugin."""

    def __init__(self, module: PluginModule, *, ids: count[int], at_most: int) -> None:
        self._module = module
        self._ids = ids
        self._at_most = at_most
        self._by_id: dict[int, Instance] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def start(self, config: bytes, busy: Callable[[], Collection[Instance]]) -> Instance:
        """
        Make a plugin of Kong's JSON.

        Args:
            config: a JSON object, as Kong has it from its own schema.
            busy: names those that must not be forgotten to make room.

        Raises: ValueError: no JSON object; LookupError: all that are kept are busy; whatever the plugin's
        ``__init__`` raises.
        """
        document = decode_config(config)
        if len(self._by_id) >= self._at_most:
            self._forget_one(busy())
        instance = Instance(next(self._ids), self._module.Plugin(document), document)
        self._by_id[instance.id] = instance
        return instance

    def get(self, instance_id: Any) -> Instance:
        """Raises: NoInstance, whatever was asked for."""
        try:
            instance = self._by_id[instance_id]
        except (KeyError, TypeError):
            raise NoInstance(instance_id) from None
        instance.used_at = time.monotonic()
        return instance

    def close(self, instance_id: Any) -> Instance:
        """Forget it; its events go on. Raises: NoInstance."""
        instance = self.get(instance_id)
        del self._by_id[instance.id]
        return instance

    def all(self) -> list[Instance]:
        return list(self._by_id.values())

    def clear(self) -> None:
        self._by_id.clear()

    def _forget_one(self, busy: Collection[Instance]) -> None:
        idle = [instance for instance in self._by_id.values() if instance not in busy]
        if not idle:
            raise LookupError("too many instances are in use")
        del self._by_id[min(idle, key=lambda instance: instance.used_at).id]


def decode_config(config: bytes) -> dict[str, Any]:
    """Raises: ValueError when it is no JSON object."""
    try:
        document = json.loads(config)
    except RecursionError:
        raise ValueError("the configuration is nested too deeply") from None
    if type(document) is not dict:
        raise ValueError("the configuration is no JSON object")
    return document
