"""
The route of a declarative config that a request takes, as Kong's ``traditional`` router chooses it.

Only hosts and paths: a route with any other criterion is refused (``ValueError``), as is one without either.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

_HOST: Final = 0x40
_URI: Final = 0x10
_REGEX_FIRST: Final = 0x01
_PLAIN_HOSTS: Final = 0x02
_RESERVED: Final = frozenset(b"!*'();:@&=+$,/?%#[]")
_ESCAPED: Final = re.compile(rb"[^!#$&'()*+,/:;=?@\[\]A-Za-z0-9\-_.~%]")
_KNOWN: Final = frozenset(
    {
        *("id", "name", "hosts", "paths", "protocols", "strip_path", "preserve_host", "path_handling", "tags"),
        *("regex_priority", "request_buffering", "response_buffering", "https_redirect_status_code", "plugins"),
        "service",
    }
)


@dataclass(slots=True)
class Route:
    """A route of the config with its service."""

    document: Mapping[str, Any]
    service: Mapping[str, Any]
    plugins: Sequence[Mapping[str, Any]] = ()
    """Of the whole chain, the nearest one of each name."""


@dataclass(slots=True)
class _Entry:
    """A route with one of its paths."""

    route: Route
    hosts: list[tuple[bytes, re.Pattern[bytes] | None]]
    path: bytes | None
    regex: re.Pattern[bytes] | None
    rules: int = 0
    weight: int = 0
    order: tuple[int, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Match:
    route: Route
    upstream_uri: bytes
    prefix: bytes | None
    """What ``strip_path`` takes away."""


class Router:
    """Raises: ValueError for a config that needs another router."""

    def __init__(self, routes: Sequence[Route]) -> None:
        entries = [entry for route in routes for entry in _entries(route)]
        entries.sort(key=lambda entry: entry.order)
        rules = {entry.rules for entry in entries}
        self._categories = sorted(rules, key=lambda rule: (-rule.bit_count(), -rule))
        self._by_rules = {rule: [entry for entry in entries if entry.rules == rule] for rule in rules}
        self._entries = entries

    def match(self, host: bytes | None, uri: bytes, scheme: bytes = b"http") -> Match | None:
        """``host``: the Host field as sent; ``uri``: ``$request_uri``."""
        path = normalized(uri.partition(b"?")[0] if not uri.startswith(b"?") else uri)
        try:
            path.decode()
        except UnicodeDecodeError:  # "invalid utf-8 sequence", of traditional_compatible, which is the default
            return None
        name, with_port = _split_port(host or b"", b"443" if scheme == b"https" else b"80")
        category = 0
        if host is not None and any(_has_host(one, host, name, with_port) for one in self._entries if one.hosts):
            category |= _HOST
        if any(_matched_prefix(one, path) is not None for one in self._entries if one.path is not None):
            category |= _URI
        if not category:
            return None
        first = self._categories.index(category) if category in self._categories else 0
        for rules in self._categories[first:]:
            for entry in self._by_rules[rules]:
                if rules & _HOST and (host is None or not _has_host(entry, host, name, with_port)):
                    continue
                prefix = _matched_prefix(entry, path) if rules & _URI else b""
                if prefix is not None:
                    return _match(entry, path, prefix if rules & _URI else None)
        return None


def _entries(route: Route) -> list[_Entry]:
    document = route.document
    if unknown := {key for key, value in document.items() if value is not None} - _KNOWN:
        raise ValueError(f"route {document.get('name')}: no support for {sorted(unknown)}")
    hosts = [_read_host(host) for host in document.get("hosts") or ()]
    paths = document.get("paths") or [None]
    if not hosts and paths == [None]:
        raise ValueError(f"route {document.get('name')}: could not categorize route")
    if any(path is not None and not path.startswith(("/", "~/")) for path in paths):
        raise ValueError(f"route {document.get('name')}: should start with: / (fixed path) or ~/ (regex path)")
    return [_entry(route, hosts, path) for path in paths]


def _read_host(host: str) -> tuple[bytes, re.Pattern[bytes] | None]:
    if "*" not in host:
        return host.encode(), None
    pattern = host.replace(".", r"\.").replace("*", ".+")
    return host.encode(), re.compile(pattern.encode() + (rb"$" if ":" in host else rb"(?::\d+)?$"))


def _entry(route: Route, hosts: list[tuple[bytes, re.Pattern[bytes] | None]], path: str | None) -> _Entry:
    is_regex = path is not None and path.startswith("~")
    regex = None
    if path is not None and is_regex:
        regex = re.compile(path[1:].replace("(?<", "(?P<").encode() + rb"(?P<uri_postfix>.*)", re.DOTALL)
    entry = _Entry(route, hosts, None if path is None else path.removeprefix("~").encode(), regex)
    entry.rules = (_HOST if hosts else 0) | (_URI if path is not None else 0)
    is_plain = all(pattern is None for _, pattern in hosts)
    submatch = (_REGEX_FIRST if is_regex else 0) | (_PLAIN_HOSTS if is_plain else 0)
    priority = int(route.document.get("regex_priority") or 0) if is_regex else 0
    length = 0 if is_regex or path is None else len(path)
    entry.order = (-submatch, -priority, -length)
    return entry


def _has_host(entry: _Entry, host: bytes, name: bytes, with_port: bytes) -> bool:
    return any(value in {host, name} if pattern is None else pattern.match(with_port) for value, pattern in entry.hosts)


def _matched_prefix(entry: _Entry, path: bytes) -> bytes | None:
    if entry.regex is not None:
        found = entry.regex.match(path)
        return path[: len(path) - len(found["uri_postfix"])] if found is not None else None
    return entry.path if entry.path is not None and path.startswith(entry.path) else None


def _split_port(host: bytes, default: bytes) -> tuple[bytes, bytes]:
    found = re.fullmatch(rb"(?:\[(?P<v6>[^\]]*)\]|(?P<name>[^:]*))(?::(?P<port>[0-9]*))?", host)
    if found is None:
        return host, b"[" + host + b"]:" + default
    name = found["v6"] if found["v6"] is not None else found["name"]
    return name, host if found["port"] else host.removesuffix(b":") + b":" + default


def _match(entry: _Entry, path: bytes, prefix: bytes | None) -> Match:
    route = entry.route
    strips = bool(route.document.get("strip_path", True))
    base = (route.service.get("path") or "/").encode()
    if (route.document.get("path_handling") or "v0") != "v0":
        raise ValueError("only path_handling v0")
    taken = prefix if strips and prefix is not None else None
    rest = _without_dots(path[len(taken) :]) if taken is not None else path[1:]
    return Match(route, _joined(base, rest, path, strips=strips), taken)


def _without_dots(rest: bytes) -> bytes:
    if rest in {b".", b".."}:
        return b""
    return rest.removeprefix(b"../") if rest.startswith(b"../") else rest.removeprefix(b"./")


def _joined(base: bytes, rest: bytes, path: bytes, *, strips: bool) -> bytes:
    if not strips:
        if base.endswith(b"/"):
            return base + path[1:]
        return base if path == b"/" else base + path
    if not rest:
        if base == b"/":
            return base
        return base.rstrip(b"/") + (b"/" if len(path) > 1 and path.endswith(b"/") else b"")
    return base.removesuffix(b"/") + (rest if rest.startswith(b"/") else b"/" + rest)


def normalized(uri: bytes) -> bytes:
    """As ``kong.tools.uri.normalize(uri, true)``: unreserved and other bytes decoded, dots and doubled slashes gone."""

    def decode(escape: re.Match[bytes]) -> bytes:
        number = int(escape[1], 16)
        return escape[0].upper() if number in _RESERVED else bytes([number])

    uri = re.sub(rb"%([0-9A-Fa-f]{2})", decode, uri)
    if uri in {b"", b"/"} or (b"." not in uri and b"//" not in uri):
        return uri
    kept: list[bytes] = []
    segments = uri.split(b"/")
    for segment in segments[1:]:
        if segment == b"..":
            kept = kept[:-1]
        elif segment not in {b"", b"."}:
            kept.append(segment)
    ends_open = segments[-1] in {b"", b".", b".."}
    return b"/" + b"/".join(kept) + (b"/" if ends_open and kept else b"")


def escaped(path: bytes) -> bytes:
    """As ``kong.tools.uri.escape``."""
    return _ESCAPED.sub(lambda one: b"%%%02X" % one[0][0], path)
