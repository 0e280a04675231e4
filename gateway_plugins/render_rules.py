"""
What Kong 3.4 to 3.9 accepts of a declarative configuration, as far as Portero writes it or ``kong check`` reads it.

Kong publishes no schema that a test could install (none on PyPI, npm or Debian), so its rules are written down here,
from its behaviour: a flaw found here keeps Kong from starting, or makes it route otherwise than is meant. Rules that
are Portero's own alone (no ports in hosts, expressions apart from prefixes) are marked so. It refuses to know policies.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from gateway_plugins.kong_entities import Entities, read_entities

_NAME: Final = re.compile(r"[A-Za-z0-9._~\u0080-\U0010ffff-]+")
_TAG: Final = re.compile(r"[ !-+\--.0-~\u0080-\U0010ffff-]+")
"""Printable but ``,`` and ``/``."""
_HOST: Final = re.compile(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*(\.\*)?|\[[0-9A-Fa-f:.]+\]")
_PLAIN_PATH: Final = re.compile(r"/[A-Za-z0-9._~/%:@!$&'()*+,;=-]*")
_BROKEN_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_UNSHARED: Final = re.compile(r"\(\?[<=!>P#]|\\[1-9]|[*+?}]\+")
"""Look-around, back-references, possessive quantifiers: PCRE has them and Rust's engine has not."""
_ESCAPED_UNRESERVED: Final = re.compile(r"%(2D|2E|5F|7E|3[0-9]|[46][1-9A-F]|[57][0-9A])", re.IGNORECASE)
_MAX_TIMEOUT_MS: Final = 2**31 - 2
_PROTOCOLS: Final = frozenset({"http", "https"})
_PHASES: Final = ("certificate", "rewrite", "access", "header_filter", "body_filter", "log")


def flaws(document: Mapping[str, Any], *, tag: str | None = None) -> list[str]:
    """
    What Kong would refuse or misread of ``document``, one sentence each; empty: nothing known.

    Args:
        document: a declarative configuration.
        tag: only entities that have it are looked at closely; what operators may do besides is more than is known here.
    """
    found = []
    if document.get("_format_version") != "3.0":
        found.append('_format_version is not "3.0"; before that, paths were expressions when they looked like some.')
    every = read_entities(document)
    found += list(_names(every))
    entities = Entities(*([one for one in kind if tag is None or tag in one.get("tags", ())] for kind in every))
    found += list(_twice(entities))
    for service in entities.services:
        found += [f"service {service.get('name')}: {flaw}" for flaw in _service(service)]
    for route in entities.routes:
        found += [f"route {route.get('name')}: {flaw}" for flaw in _route(route)]
    for plugin in entities.plugins:
        found += [f"plugin {plugin.get('name')} of {place(plugin)}: {flaw}" for flaw in _plugin(plugin)]
    return found


def place(plugin: Mapping[str, Any]) -> str:
    """Where a plugin stands, for sentences."""
    scopes = [
        f"{scope} {plugin[scope]}" for scope in ("route", "service", "consumer", "consumer_group") if plugin.get(scope)
    ]
    return ", ".join(scopes) or "every service"


def names_twice(entities: Entities) -> Iterator[str]:
    """Of one document, or of several that are loaded together."""
    for kind, names in _names_of(entities):
        for name, count in Counter(map(str, names)).items():
            if count > 1:
                yield f"{kind} {name}: the name stands twice."


def _names(entities: Entities) -> Iterator[str]:
    for kind, names in _names_of(entities):
        for name in names:
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                yield f"{kind} {name!r}: a name has letters, digits, '.', '-', '_' and '~' only."
    yield from names_twice(entities)


def _names_of(entities: Entities) -> Iterator[tuple[str, list[object]]]:
    for kind, field, every in (
        ("service", "name", entities.services),
        ("route", "name", entities.routes),
        ("plugin instance", "instance_name", entities.plugins),
    ):
        yield kind, [one[field] for one in every if one.get(field) is not None]


def _twice(entities: Entities) -> Iterator[str]:
    scopes: set[tuple[object, ...]] = set()
    for plugin in entities.plugins:
        scope = (plugin.get("name"), place(plugin))
        if scope in scopes:
            yield f"plugin {scope[0]} of {scope[1]}: stands there twice."
        scopes.add(scope)
    seen_routes: dict[tuple[object, ...], object] = {}
    for route in entities.routes:
        key = (
            *[_as_set(route.get(part)) for part in ("hosts", "paths", "methods", "snis")],
            repr(route.get("headers")),
        )
        if key in seen_routes:
            yield f"route {route.get('name')}: takes the same requests as route {seen_routes[key]}."
        seen_routes.setdefault(key, route.get("name"))


def _service(service: Mapping[str, Any]) -> Iterator[str]:
    if not service.get("host"):
        yield "has neither url nor host."
    if service.get("protocol") not in _PROTOCOLS:
        yield "its protocol is neither http nor https."
    yield from _range(service, "port", 0, 65535)
    yield from _range(service, "retries", 0, 32767)
    for timeout in ("connect_timeout", "write_timeout", "read_timeout"):
        yield from _range(service, timeout, 1, _MAX_TIMEOUT_MS)
    yield from _tags(service)


def _route(route: Mapping[str, Any]) -> Iterator[str]:
    if not any(route.get(part) for part in ("methods", "hosts", "headers", "paths", "snis")):
        yield "names no methods, hosts, headers, paths or snis."
    if not set(route.get("protocols") or ()) <= _PROTOCOLS:
        yield "its protocols are not http and https."
    for host in route.get("hosts") or ():
        if not isinstance(host, str) or not _HOST.fullmatch(host) or ("*." in host and ".*" in host):
            yield f"host {host!r}: expected a name or address without a port, or '*.' before or '.*' behind one."
    paths = route.get("paths") or ()
    for path in paths:
        yield from _path(path)
    expressions = [path for path in paths if isinstance(path, str) and path.startswith("~")]
    if expressions and len(expressions) != len(paths):
        yield "mixes expressions with prefixes, which Kong weighs apart."
    yield from _range(route, "regex_priority", 0, 2**32 - 1)
    yield from _tags(route)


def _path(path: object) -> Iterator[str]:
    if not isinstance(path, str) or not path.startswith(("/", "~/")):
        yield f"path {path!r}: expected '/' or '~/' at its beginning."
        return
    if "//" in path:
        yield f"path {path!r}: has an empty segment."
    if _BROKEN_ESCAPE.search(path):
        yield f"path {path!r}: has a broken percent-escape."
    if path.startswith("/"):
        if not _PLAIN_PATH.fullmatch(path):
            yield f"path {path!r}: holds characters that are not for a path (RFC 3986 section 3.3)."
        elif {".", ".."} & set(path.split("/")) or _ESCAPED_UNRESERVED.search(path):
            yield f"path {path!r}: is not in its normal form."
        return
    try:
        re.compile(path[1:])
    except re.error as error:
        yield f"path {path!r}: is no regular expression ({error})."
    if _UNSHARED.search(path):
        yield f"path {path!r}: holds what only one of Kong's two engines knows."


def _plugin(plugin: Mapping[str, Any]) -> Iterator[str]:
    name = plugin.get("name")
    if not isinstance(name, str) or not name:
        yield "has no name."
    config = plugin.get("config") or {}
    if name in {"pre-function", "post-function"}:
        if not any(config.get(phase) for phase in _PHASES):
            yield "has no function in any phase."
        if not all(isinstance(text, str) for phase in _PHASES for text in config.get(phase) or ()):
            yield "has a function that is no text."
    yield from _tags(plugin)


def _range(entity: Mapping[str, Any], field: str, least: int, most: int) -> Iterator[str]:
    value = entity.get(field)
    if value is not None and (not isinstance(value, int) or not least <= value <= most):
        yield f"{field} {value!r} is not a whole number from {least} to {most}."


def _tags(entity: Mapping[str, Any]) -> Iterator[str]:
    for tag in entity.get("tags") or ():
        if not isinstance(tag, str) or not _TAG.fullmatch(tag):
            yield f"tag {tag!r}: expected printable characters without ',' and '/'."


def _as_set(values: Iterable[Any] | None) -> frozenset[str]:
    return frozenset(map(str, values or ()))
