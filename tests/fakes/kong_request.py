"""
One request inside of Kong: header fields, nginx's variables, where it goes, and Kong's own answer to it.

Every string is bytes. What Kong raises as a Lua error raises ``LuaError``; what ends the request raises ``Exited``.
Knows neither sockets nor Lua.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from tests.fakes.kong_nginx import NginxHead
from tests.fakes.kong_router import Route, normalized
from tests.fakes.kong_rpc import LuaError, Trace

SERVER: Final = b"kong/3.9.1"
UPSTREAM_VARIABLES: Final = tuple(
    f"upstream_{name}"
    for name in (
        *("te", "via", "host", "upgrade", "connection", "scheme", "uri"),
        *(f"x_forwarded_{name}" for name in ("for", "proto", "host", "port", "path", "prefix")),
    )
)
"""All that a snippet may set, besides ``args``."""
_OWN_NAMES: Final = frozenset({"host", "user_agent", "referer", "via", "x_forwarded_for", "cookie"})
"""``$http_`` variables that nginx finds by their exact header name; for all others ``-`` and ``_`` are the same."""

Phase = Literal["access", "header_filter"]
Fields = list[tuple[bytes, bytes]]


def _new_id() -> bytes:
    return uuid.uuid4().hex.encode()


class Exited(Exception):
    """The request is answered by Kong itself: ``KongRequest.answer``."""


@dataclass(slots=True)
class Answer:
    status: int
    fields: Fields
    body: bytes | None = None
    """Of Kong's own answers."""
    source: Literal["exit", "error", "service"] = "exit"


@dataclass(slots=True)
class KongRequest:
    head: NginxHead
    route: Route
    trace: Trace
    balancer: dict[str, Any]
    """``ngx.ctx.balancer_data``: type (``ipv4``, ``ipv6``, ``name``: only then is a name resolved), host, port, ..."""
    peer: tuple[str, int] = ("127.0.0.1", 0)
    port: int = 8000
    scheme: bytes = b"http"
    sni: bytes | None = None
    body: bytes = b""
    id: bytes = field(default_factory=_new_id)
    fields: Fields = field(default_factory=list)
    """As they will go to the upstream, but for those that Kong makes itself."""
    args: bytes | None = None
    cached: Fields | None = None
    """``ngx.ctx.cached_request_headers``: what Kong 3.6 to 3.9 has read of ``fields`` before any plugin."""
    variables: dict[str, bytes] = field(default_factory=lambda: dict.fromkeys(UPSTREAM_VARIABLES, b""))
    upstream_fields: Fields = field(default_factory=list)
    """Of the upstream's answer, as it came."""
    shared: Any = field(default_factory=dict)
    """``kong.ctx.shared``: a dict, or a table of Lua's."""
    context: dict[bytes, Any] = field(default_factory=dict)
    answer: Answer | None = None
    early_fields: Fields = field(default_factory=list)
    """Of the answer, set before there is one."""
    phase: Phase = "access"
    from_lua: Callable[[Any], Any] = lambda value: value
    to_lua: Callable[[Any], Any] = lambda value: value
    """How values come out of and get into ``shared``."""

    def __post_init__(self) -> None:
        self.fields = list(self.head.fields)
        self.args = self.head.args

    # --- header fields ----------------------------------------------------------------------------------------------

    def header(self, name: bytes) -> bytes | None:
        """The first value, of exactly this name."""
        return next((value for key, value in self.fields if key.lower() == name.lower()), None)

    def headers(self, most: int = 100) -> dict[bytes, Any]:
        """``ngx.req.get_headers``; ``most`` 0: all."""
        return grouped(self.fields[:most] if most else self.fields)

    def set_header(self, name: bytes, value: Any) -> None:
        """``ngx.req.set_header``: all of this name are replaced. None: removed."""
        values = normalized_values(value)
        self.fields[:] = _replaced(self.fields, name, values)

    @property
    def answer_fields(self) -> Fields:
        return self.answer.fields if self.answer is not None else self.early_fields

    def set_answer_header(self, name: bytes, value: Any) -> None:
        """``ngx.header[name] = value``, with ``lua_transform_underscores_in_response_headers off`` as in kong.conf."""
        fields = self.answer_fields
        fields[:] = _replaced(fields, name, normalized_values(value))

    # --- nginx's variables ------------------------------------------------------------------------------------------

    def variable(self, name: str) -> bytes | None:
        """``ngx.var[name]``; None: there is none of this name, or it has no value."""
        if name in self.variables:
            return self.variables[name]
        if name.startswith("http_"):
            return self._field_variable(self.fields, name.removeprefix("http_"))
        if name.startswith("upstream_http_"):
            return self._field_variable(self.upstream_fields, name.removeprefix("upstream_http_"))
        if name.startswith("sent_http_"):
            return self._field_variable(self.answer_fields, name.removeprefix("sent_http_"))
        made = _VARIABLES.get(name)
        return made(self) if made is not None else None

    def _field_variable(self, fields: Fields, name: str) -> bytes | None:
        wanted = name.encode()
        if name in _OWN_NAMES:
            found = [value for key, value in fields if key.lower() == wanted.replace(b"_", b"-")]
        else:
            found = [value for key, value in fields if key.lower().replace(b"-", b"_") == wanted]
        return (b"; " if name == "cookie" else b", ").join(found) if found else None

    def set_variable(self, name: str, value: bytes | None) -> None:
        """Raises: LuaError for one that cannot be changed."""
        if name == "args":
            self.args = value or None
        elif name in self.variables:
            self.variables[name] = b"" if value is None else text(value)
        else:
            raise LuaError(f'variable "{name}" not found for writing')

    # --- answers of Kong's own --------------------------------------------------------------------------------------

    def exit(
        self, status: Any, body: Any = None, fields: Any = None, *, source: Literal["exit", "error"] = "exit"
    ) -> None:
        """``kong.response.exit``. Raises: Exited, LuaError."""
        if isinstance(status, bool) or not isinstance(status, (int, float)):
            raise LuaError("code must be a number")
        if not 100 <= status <= 599:
            raise LuaError("code must be a number between 100 and 599")
        if body is not None and not isinstance(body, (bytes, dict, list)):
            raise LuaError("body must be a nil, string or table")
        if fields is not None and not isinstance(fields, dict) and fields != []:
            raise LuaError("headers must be a nil or table")
        check_fields(fields or {})
        self.answer = Answer(int(status), list(self.early_fields), source=source)
        for name, value in (fields or {}).items():
            if name.lower().replace(b"_", b"-") != b"transfer-encoding":
                self.set_answer_header(name, value)
        names = {name.lower() for name, _ in self.answer.fields}
        if isinstance(body, (dict, list)):
            body = json.dumps(_decoded(body), separators=(",", ":")).encode()
            if b"content-type" not in names:
                self.set_answer_header(b"Content-Type", b"application/json; charset=utf-8")
        self.answer.body = body or b""
        if b"content-length" not in names:
            self.set_answer_header(b"Content-Length", len(self.answer.body))
        raise Exited

    def error(self, status: Any, message: Any = None, fields: Any = None) -> None:
        """``kong.response.error`` to a client that takes JSON. Raises: Exited, LuaError."""
        if not isinstance(status, int) or not 400 <= status <= 599:
            raise LuaError("code must be a number between 400 and 599")
        text = _decoded(message) if message is not None else "An unexpected error occurred"
        self.exit(status, {b"message": text, b"request_id": self.id}, fields)

    def fail(self) -> None:
        """A plugin of the access phase has raised."""
        try:
            self.exit(500, {b"message": b"An unexpected error occurred"}, source="error")
        except Exited:
            return


def text(value: Any) -> bytes:
    """What Lua makes of a value where it wants a string. Raises: LuaError."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, (bool, int, float)):
        return str(value).lower().encode()
    raise LuaError(f"attempt to use a {type(value).__name__} value as a string")


def _decoded(value: Any) -> Any:
    if isinstance(value, dict):
        return {_decoded(key): _decoded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def grouped(fields: Fields) -> dict[bytes, Any]:
    """By name in lower case; a list where there are several."""
    found: dict[bytes, Any] = {}
    for name, value in fields:
        key = name.lower()
        if key not in found:
            found[key] = value
        elif isinstance(found[key], list):
            found[key].append(value)
        else:
            found[key] = [found[key], value]
    return found


def normalized_values(value: Any) -> list[bytes]:
    """An empty value becomes a space, as Kong makes it."""
    if value is None:
        return []
    values = value if isinstance(value, list) else [value]
    return [text(one) or b" " for one in values]


def _replaced(fields: Fields, name: bytes, values: list[bytes]) -> Fields:
    place = next((index for index, (key, _) in enumerate(fields) if key.lower() == name.lower()), len(fields))
    others = [(key, value) for key, value in fields[:place] if key.lower() != name.lower()]
    rest = [(key, value) for key, value in fields[place:] if key.lower() != name.lower()]
    return others + [(name, value) for value in values] + rest


def check_fields(fields: Any) -> None:
    """Raises: LuaError."""
    if not isinstance(fields, dict):
        raise LuaError("headers must be a table")
    for name, value in fields.items():
        if not isinstance(name, bytes):
            raise LuaError(f"invalid header name {name!r}: expected string")
        for one in value if isinstance(value, list) else [value]:
            if not isinstance(one, bytes if isinstance(value, list) else (bytes, bool, int, float)):
                raise LuaError(f"invalid header value for {name!r}: got {type(one).__name__}")


_VARIABLES: Final[dict[str, Callable[[KongRequest], bytes | None]]] = {
    "request": lambda one: one.head.line,
    "request_method": lambda one: one.head.method,
    "request_uri": lambda one: one.head.uri,
    "uri": lambda one: re.sub(rb"%([0-9A-Fa-f]{2})", lambda e: bytes([int(e[1], 16)]), normalized(one.head.path)),
    "host": lambda one: one.head.host,
    "args": lambda one: one.args,
    "query_string": lambda one: one.args,
    "is_args": lambda one: b"?" if one.args else b"",
    "remote_addr": lambda one: one.peer[0].encode(),
    "realip_remote_addr": lambda one: one.peer[0].encode(),
    "remote_port": lambda one: str(one.peer[1]).encode(),
    "server_port": lambda one: str(one.port).encode(),
    "server_protocol": lambda one: b"HTTP/%d.%d" % divmod(one.head.version, 1000),
    "scheme": lambda one: one.scheme,
    "https": lambda one: b"on" if one.scheme == b"https" else b"",
    "ssl_server_name": lambda one: one.sni,
    "content_length": lambda one: one.header(b"content-length"),
    "content_type": lambda one: one.header(b"content-type"),
    "request_id": lambda one: one.id,
    "kong_request_id": lambda one: one.id,
    "status": lambda one: str(one.answer.status).encode() if one.answer is not None else None,
    "upstream_status": lambda one: (
        str(one.answer.status).encode() if one.answer is not None and one.answer.source == "service" else None
    ),
}
