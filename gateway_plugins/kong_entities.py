"""
The entities of a declarative configuration in one form, however they are nested and whatever Kong has added to them.

Services, routes and plugins may stand inside one another or beside each other with a reference by name or id; Kong's
own dump and decK's add ids, times and every default. Read here they are flat, refer by name, and say only what is not
the default. It refuses to know policies, and believes nothing of a document's shape: what is no mapping is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

Entity = dict[str, Any]

_IGNORED: Final = frozenset({"id", "created_at", "updated_at", "ws_id", "_comment", "_ignore"})
_TEXTS: Final = frozenset({"name", "instance_name", "host", "path", "protocol"})
_PORTS: Final = {"http": 80, "https": 443}
_DEFAULTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "services": {
        "protocol": "http",
        "retries": 5,
        "connect_timeout": 60000,
        "write_timeout": 60000,
        "read_timeout": 60000,
        "enabled": True,
    },
    "routes": {
        "protocols": ["http", "https"],
        "https_redirect_status_code": 426,
        "strip_path": True,
        "preserve_host": False,
        "request_buffering": True,
        "response_buffering": True,
        "regex_priority": 0,
        "path_handling": "v0",
    },
    "plugins": {"protocols": ["grpc", "grpcs", "http", "https"], "enabled": True},
}
SETS: Final = frozenset({"hosts", "paths", "methods", "protocols", "snis", "tags"})
"""Fields whose order says nothing."""
SCOPES: Final = ("route", "service", "consumer", "consumer_group")
"""What a plugin may be attached to."""


class Entities(NamedTuple):
    """Flat; ``route`` of a plugin, ``service`` of a route or plugin and so on are names (ids where there is none)."""

    services: list[Entity]
    routes: list[Entity]
    plugins: list[Entity]


def read_entities(document: Mapping[str, Any]) -> Entities:
    """
    Services, routes and plugins of ``document`` in the order they stand.

    Absent fields of a service or route with a default have it, and a service's ``url`` is taken apart. Plugins of
    consumers and consumer groups are among the plugins. What has another shape than Kong knows is named by its type: no
    field can make a reader of the result stumble.
    """
    found = Entities([], [], [])
    names: dict[str, str] = {}
    for kind in ("services", "routes"):
        _collect_names(document, kind, names)
    for service in _list(document, "services"):
        flat = _flat("services", service)
        found.services.append(_with_url(flat))
        _read_children(service, {"service": _name(service)}, found)
    _read_children(document, {}, found)
    for kind, scope in (("consumers", "consumer"), ("consumer_groups", "consumer_group")):
        for owner in _list(document, kind):
            name = owner.get("username") or owner.get("name") or owner.get("id") or "?"
            found.plugins.extend(_child("plugins", plugin, {scope: str(name)}) for plugin in _list(owner, "plugins"))
    for entity in (*found.routes, *found.plugins):
        for scope in SCOPES:
            if isinstance(entity.get(scope), str):
                entity[scope] = names.get(entity[scope], entity[scope])
    return found


def without_defaults(kind: str, entity: Mapping[str, Any]) -> Entity:
    """What ``entity`` says that goes beyond the defaults, sets in order: equal results mean the same to Kong."""
    said: Entity = {}
    for field, value in entity.items():
        if field in SETS and isinstance(value, list):
            value = sorted(map(str, value))  # noqa: PLW2901
        if value in (None, [], {}) or _DEFAULTS[kind].get(field) == value:
            continue
        said[field] = _without_empty(value) if field == "config" else value
    return said


def _read_children(owner: Mapping[str, Any], scope: Mapping[str, str], found: Entities) -> None:
    for route in _list(owner, "routes"):
        child = _child("routes", route, scope)
        found.routes.append(child)
        inner = {"route": _name(route)}
        found.plugins.extend(_child("plugins", plugin, inner) for plugin in _list(route, "plugins"))
    found.plugins.extend(_child("plugins", plugin, scope) for plugin in _list(owner, "plugins"))


def _child(kind: str, entity: Mapping[str, Any], scope: Mapping[str, str]) -> Entity:
    flat = _flat(kind, entity)
    for field in SCOPES:
        if isinstance(reference := flat.get(field), Mapping):
            flat[field] = str(reference.get("name") or reference.get("id") or "?")
    return {**flat, **scope}


def _flat(kind: str, entity: Mapping[str, Any]) -> Entity:
    own = {
        field: value
        for field, value in entity.items()
        if field not in _IGNORED and field not in {"routes", "plugins"} and value is not None
    }
    for field in own.keys() & SETS:
        values = own[field] if isinstance(own[field], list) else [own[field]]
        own[field] = [value if isinstance(value, str) else type(value).__name__ for value in values]
    for field in own.keys() & _TEXTS:
        if not isinstance(own[field], str):
            own[field] = type(own[field]).__name__
    if not isinstance(own.get("config", {}), Mapping):
        own["config"] = {"?": type(own["config"]).__name__}
    return {**_DEFAULTS[kind], **own}


def _with_url(service: Entity) -> Entity:
    url = service.pop("url", None)
    if isinstance(url, str):
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            return service
        service["protocol"] = parts.scheme or "http"
        service["host"] = parts.hostname
        service["port"] = port or _PORTS.get(parts.scheme, 80)
        if parts.path:
            service["path"] = parts.path
    service.setdefault("port", 80)
    return {field: value for field, value in service.items() if value is not None}


def _collect_names(document: Mapping[str, Any], kind: str, names: dict[str, str]) -> None:
    """Id -> name, so that references by either are the same."""
    inner = [one for service in _list(document, "services") for one in _list(service, kind)]
    for entity in (*_list(document, kind), *inner):
        if isinstance(entity.get("id"), str) and isinstance(entity.get("name"), str):
            names[entity["id"]] = entity["name"]


def _without_empty(value: Any) -> Any:
    if isinstance(value, Mapping):
        inner = {key: _without_empty(item) for key, item in value.items()}
        return {key: item for key, item in inner.items() if item is not None and item not in ([], {}, False)}
    return value


def _name(entity: Mapping[str, Any]) -> str:
    return str(entity.get("name") or entity.get("id") or "?")


def _list(owner: Mapping[str, Any], kind: str) -> Iterable[Mapping[str, Any]]:
    inner = owner.get(kind)
    return [one for one in inner if isinstance(one, Mapping)] if isinstance(inner, list) else []
