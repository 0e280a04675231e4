"""
All plugins by Kong's names for them, and what Kong is told of each at its start (``pluginserver_NAME_query_cmd``).

Kong reads one plugin of each plugin server since 3.9, so a dump holds one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from gateway_plugins import coldstart, portero, ratelimit, rbac, tenant
from gateway_plugins import handler as handlers


class PluginModule(Protocol):
    """One plugin: a module, as ``kong-pdk`` loads them."""

    @property
    def name(self) -> str:
        """Kong's."""

    @property
    def version(self) -> str: ...

    @property
    def priority(self) -> int:
        """Plugins run from the highest to the lowest."""

    @property
    def Schema(self) -> Sequence[Mapping[str, Any]]:  # noqa: N802 (kong-pdk's name)
        """Fields of ``config``, each a mapping of one name to what Kong's schema language says of it."""

    @property
    def Plugin(self) -> type[handlers.Plugin]: ...  # noqa: N802 (kong-pdk's name)


PLUGINS: Final[Mapping[str, PluginModule]] = {
    module.name: module for module in (portero, tenant, rbac, ratelimit, coldstart)
}


def dump(name: str) -> list[dict[str, Any]]:
    """What Kong asks of the plugin ``name`` at its start, to be printed as JSON. Raises: KeyError."""
    module = PLUGINS[name]
    fields = [dict(field) for field in module.Schema]
    return [
        {
            "Name": name,
            "Phases": ["access"],
            "Version": module.version,
            "Priority": module.priority,
            "Schema": {"name": name, "fields": [{"config": {"type": "record", "fields": fields}}]},
        }
    ]
