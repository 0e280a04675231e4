"""
A declarative config (``_format_version: "3.0"``) as the stand-in for Kong takes it: services, routes, their plugins.

Of two configs of one plugin the nearest to the route counts. Defaults and the check of names come from what the plugin
says of itself (``dump``); a plugin nobody has described, and any entity not used here, is refused (``ValueError``).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final
from urllib.parse import urlsplit

import yaml

from tests.fakes.kong_router import Route
from tests.fakes.kong_rpc import Entity

PRE: Final = "pre-function"
POST: Final = "post-function"
_PRIORITIES: Final = {PRE: 1_000_000, POST: -1000}
_PHASES: Final = ("access", "header_filter")
Dumps = Mapping[str, Sequence[Mapping[str, Any]]]
"""By plugin name, what its query command prints."""


@dataclass(frozen=True, slots=True)
class Step:
    """One plugin of a route's chain."""

    entity: Entity
    priority: int

    @property
    def is_lua(self) -> bool:
        return self.entity.name in _PRIORITIES

    def snippets(self, phase: str) -> Sequence[str]:
        """Of a Lua plugin."""
        return self.entity.config.get(phase) or ()


def read_config(config: str | Mapping[str, Any], dumps: Dumps) -> list[tuple[Route, list[Step]]]:
    """Routes with their chains, the plugins of highest priority first. Raises: ValueError, YAMLError."""
    document = _parsed(config) if isinstance(config, str) else config
    if document.get("_format_version") != "3.0":
        raise ValueError("_format_version must be 3.0")
    if unknown := set(document) - {"_format_version", "_transform", "services", "plugins"}:
        raise ValueError(f"no support for {sorted(unknown)}")
    everywhere = [_entity(plugin, dumps) for plugin in document.get("plugins") or ()]
    return [found for service in document.get("services") or () for found in _routes(service, everywhere, dumps)]


@cache
def _parsed(text: str) -> Mapping[str, Any]:
    document: Mapping[str, Any] = yaml.load(text, yaml.CSafeLoader)
    return document


def _routes(service: Mapping[str, Any], everywhere: list[Entity], dumps: Dumps) -> Iterator[tuple[Route, list[Step]]]:
    service = {**_address_of(service), **service}
    for_all = [*everywhere, *(_entity(plugin, dumps, service=service) for plugin in service.get("plugins") or ())]
    for route in service.get("routes") or ():
        near = [_entity(plugin, dumps, service=service, route=route) for plugin in route.get("plugins") or ()]
        chosen = {entity.name: entity for entity in (*for_all, *near)}
        steps = [Step(entity, _priority(entity.name, dumps)) for entity in chosen.values()]
        yield Route(route, service), sorted(steps, key=lambda step: -step.priority)


def _address_of(service: Mapping[str, Any]) -> dict[str, Any]:
    if "url" not in service:
        return {}
    url = urlsplit(service["url"])
    port = url.port or (443 if url.scheme == "https" else 80)
    return {"protocol": url.scheme, "host": url.hostname, "port": port, "path": url.path or None}


def _priority(name: str, dumps: Dumps) -> int:
    return _PRIORITIES[name] if name in _PRIORITIES else int(dumps[name][0]["Priority"])


def _entity(
    plugin: Mapping[str, Any],
    dumps: Dumps,
    *,
    service: Mapping[str, Any] | None = None,
    route: Mapping[str, Any] | None = None,
) -> Entity:
    name, config = plugin["name"], plugin.get("config") or {}
    if name in _PRIORITIES:
        if unknown := {key for key, value in config.items() if value} - set(_PHASES):
            raise ValueError(f"{name}: no support for {sorted(unknown)}")
    elif name in dumps:
        config = _with_defaults(name, config, dumps[name][0])
    else:
        raise ValueError(f"plugin '{name}' not enabled; add it to the 'plugins' configuration property")
    # a change of the config is another entity of the same id; here a config is read once
    return Entity(name, config, str(uuid.uuid4()), route_id=_id(route), service_id=_id(service))


def _id(entity: Mapping[str, Any] | None) -> str | None:
    if entity is None:
        return None
    return str(entity.get("id") or uuid.uuid5(uuid.NAMESPACE_DNS, str(entity.get("name"))))


def _with_defaults(name: str, config: Mapping[str, Any], dump: Mapping[str, Any]) -> dict[str, Any]:
    [record] = [field["config"] for field in dump["Schema"]["fields"] if "config" in field]
    fields = {key: spec for field in record["fields"] for key, spec in field.items()}
    if unknown := set(config) - set(fields):
        raise ValueError(f"{name}: unknown field {sorted(unknown)}")
    for key, spec in fields.items():
        if spec.get("required") and key not in config and "default" not in spec:
            raise ValueError(f"{name}: {key}: required field missing")
    defaults = {key: spec["default"] for key, spec in fields.items() if "default" in spec}
    return {key: value for key, value in {**defaults, **config}.items() if value is not None}
