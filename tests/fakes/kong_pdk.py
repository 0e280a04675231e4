"""
Kong's plugin development kit in memory, for one request: ``FUNCTIONS`` by their names, for Lua and for plugin servers.

What Kong raises as a Lua error raises ``LuaError``, what ends the request ``Exited``. Each function takes the request
and its arguments; strings are bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from tests.fakes.kong_request import KongRequest, Phase, check_fields, grouped, normalized_values, text
from tests.fakes.kong_router import escaped, normalized
from tests.fakes.kong_rpc import LuaError

NODE_ID: Final = "0f1d9a1e-6f6b-4f7c-8a52-3a1f4f7d1c11"

Function = Callable[..., Any]
FUNCTIONS: Final[dict[str, Function]] = {}


def _in(phase: Phase, name: str, function: Function) -> Function:
    def checked(one: KongRequest, *arguments: Any) -> Any:
        if one.phase != phase:
            raise LuaError(f"function cannot be called in {one.phase} phase (only in: {phase}): {name}")
        return function(one, *arguments)

    return checked


def _kong(name: str, *, phase: Phase | None = None) -> Callable[[Function], Function]:
    def register(function: Function) -> Function:
        FUNCTIONS[f"kong.{name}"] = function if phase is None else _in(phase, name, function)
        return function

    return register


_READS: Final[dict[str, Callable[[KongRequest], Any]]] = {
    "request.get_method": lambda one: one.head.method,
    "request.get_path": lambda one: normalized(one.head.path),
    "request.get_raw_path": lambda one: one.head.path,
    "request.get_path_with_query": lambda one: one.head.uri,
    "request.get_raw_query": lambda one: one.args or b"",
    "request.get_host": lambda one: one.head.host,
    "request.get_port": lambda one: one.port,
    "request.get_scheme": lambda one: one.scheme,
    "request.get_http_version": lambda one: one.head.version / 1000 if one.head.version == 1000 else 1.1,
    "request.get_raw_body": lambda one: one.body,
    "client.get_ip": lambda one: one.peer[0].encode(),
    "client.get_forwarded_ip": lambda one: one.peer[0].encode(),
    "client.get_port": lambda one: one.peer[1],
    "node.get_id": lambda _: NODE_ID,
    "router.get_route": lambda one: {"id": one.route.document.get("id"), "name": one.route.document.get("name")},
    "router.get_service": lambda one: {"name": one.route.service.get("name"), "host": one.route.service.get("host")},
}
for _name, _read in _READS.items():
    _kong(_name)(_read)


@_kong("request.get_header")
def _get_header(one: KongRequest, name: bytes) -> bytes | None:
    return one.header(name)


@_kong("request.get_headers")
def _get_headers(one: KongRequest, most: int = 100) -> dict[bytes, Any]:
    return one.headers(most)


@_kong("nginx.get_var")
def _get_var(one: KongRequest, name: bytes) -> bytes | None:
    return one.variable(name.decode())


@_kong("nginx.get_ctx")
def _get_context(one: KongRequest, name: bytes) -> Any:
    return one.context.get(name)


@_kong("nginx.set_ctx")
def _set_context(one: KongRequest, name: bytes, value: Any = None) -> None:
    one.context[name] = value


@_kong("ctx.shared.get")
def _get_shared(one: KongRequest, name: bytes) -> Any:
    try:
        return one.from_lua(one.shared[name])
    except KeyError:
        return None


@_kong("ctx.shared.set")
def _set_shared(one: KongRequest, name: bytes, value: Any = None) -> None:
    one.shared[name] = one.to_lua(value)


@_kong("service.set_target", phase="access")
def _set_target(one: KongRequest, host: Any, port: Any) -> None:
    if not isinstance(host, bytes):
        raise LuaError("host must be a string")
    if isinstance(port, bool) or not isinstance(port, (int, float)) or int(port) != port:
        raise LuaError("port must be an integer")
    if not 0 <= port <= 65535:
        raise LuaError(f"port must be an integer between 0 and 65535: given {port}")
    one.variables["upstream_host"] = host
    one.balancer.update(host=host, port=int(port))


@_kong("service.set_timeouts", phase="access")
def _set_timeouts(one: KongRequest, *timeouts: Any) -> None:
    for name, value in zip(("connect", "write", "read"), timeouts, strict=True):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or int(value) != value:
            raise LuaError(f"{name}_timeout must be an integer")
        if not 1 <= value <= 2147483646:
            raise LuaError(f"{name}_timeout must be an integer between 1 and 2147483646: given {value}")
    names = ("connect_timeout", "write_timeout", "read_timeout")  # Kong's mistake: the balancer reads send_timeout
    one.balancer.update(zip(names, timeouts, strict=True))


@_kong("service.set_retries", phase="access")
def _set_retries(_: KongRequest, retries: Any) -> None:
    if not isinstance(retries, int) or not 0 <= retries <= 32767:
        raise LuaError("retries must be an integer")


@_kong("service.set_tls_verify", phase="access")
def _set_tls_verify(_: KongRequest, is_on: Any) -> bool:
    if not isinstance(is_on, bool):
        raise LuaError("argument must be a boolean")
    return True


@_kong("service.request.set_scheme", phase="access")
def _set_scheme(one: KongRequest, scheme: Any) -> None:
    if scheme not in {b"http", b"https"}:
        raise LuaError("scheme must be a string")
    one.variables["upstream_scheme"] = scheme


@_kong("service.request.set_path", phase="access")
def _set_path(one: KongRequest, path: Any) -> None:
    if not isinstance(path, bytes) or not path.startswith(b"/"):
        raise LuaError("path must start with /")
    one.variables["upstream_uri"] = escaped(path)


@_kong("service.request.set_raw_query", phase="access")
def _set_raw_query(one: KongRequest, query: Any) -> None:
    if not isinstance(query, bytes):
        raise LuaError("query must be a string")
    one.args = query or None


@_kong("service.request.set_method", phase="access")
def _set_method(one: KongRequest, method: Any) -> None:
    raise LuaError(f"no support for another method: {method}, {one.head.method!r}")


@_kong("service.request.set_header", phase="access")
def _set_header(one: KongRequest, name: Any, value: Any = None) -> None:
    check_fields({name: value})
    if name.lower() == b"host":
        one.variables["upstream_host"] = text(value)
    one.set_header(name, value)


@_kong("service.request.add_header", phase="access")
def _add_header(one: KongRequest, name: Any, value: Any = None) -> None:
    check_fields({name: value})
    one.fields += [(name, each) for each in normalized_values(value)]


@_kong("service.request.clear_header", phase="access")
def _clear_header(one: KongRequest, name: Any) -> None:
    if not isinstance(name, bytes):
        raise LuaError("header must be a string")
    one.set_header(name, None)


@_kong("service.request.set_headers", phase="access")
def _set_headers(one: KongRequest, fields: Any) -> None:
    fields = {} if fields == [] else fields
    check_fields(fields)
    for name, value in fields.items():
        _set_header(one, name, value)


@_kong("response.set_header")
def _set_answer_header(one: KongRequest, name: Any, value: Any = None) -> None:
    check_fields({name: value})
    one.set_answer_header(name, value)


@_kong("response.add_header")
def _add_answer_header(one: KongRequest, name: Any, value: Any = None) -> None:
    check_fields({name: value})
    one.answer_fields.extend((name, each) for each in normalized_values(value))


@_kong("response.set_headers")
def _set_answer_headers(one: KongRequest, fields: Any) -> None:
    check_fields(fields or {})
    for name, value in (fields or {}).items():
        one.set_answer_header(name, value)


@_kong("response.clear_header")
def _clear_answer_header(one: KongRequest, name: Any) -> None:
    if not isinstance(name, bytes):
        raise LuaError("header must be a string")
    one.set_answer_header(name, None)


@_kong("response.get_header", phase="header_filter")
def _get_answer_header(one: KongRequest, name: Any) -> bytes | None:
    return next((value for key, value in one.answer_fields if key.lower() == name.lower()), None)


@_kong("response.get_headers", phase="header_filter")
def _get_answer_headers(one: KongRequest, most: int = 100) -> dict[bytes, Any]:
    return grouped(one.answer_fields[:most])


@_kong("response.get_status", phase="header_filter")
def _get_status(one: KongRequest) -> int | None:
    return one.answer.status if one.answer is not None else None


@_kong("response.get_source", phase="header_filter")
def _get_source(one: KongRequest) -> str:
    return one.answer.source if one.answer is not None else "error"


@_kong("response.exit", phase="access")
def _exit(one: KongRequest, status: Any, body: Any = None, fields: Any = None) -> None:
    one.exit(status, body, fields)


@_kong("response.error", phase="access")
def _error(one: KongRequest, status: Any, message: Any = None, fields: Any = None) -> None:
    one.error(status, message, fields)


def _logs(level: str) -> Function:
    def log(one: KongRequest, *parts: Any) -> None:
        text = b"".join(part if isinstance(part, bytes) else str(part).encode() for part in parts)
        one.trace.log.append((level, text.decode("utf-8", "replace")))

    return log


for _level in ("alert", "crit", "debug", "emerg", "err", "info", "notice", "warn"):
    _kong(f"log.{_level}")(_logs(_level))
_kong("log")(_logs("notice"))


class RequestPdk:
    """What a plugin server asks for, answered."""

    def __init__(self, request: KongRequest) -> None:
        self._request = request

    def call(self, method: str, arguments: Sequence[Any]) -> Any:
        """
        The function's result; a name that there is not is logged, and its result nil.

        Raises: LuaError, Exited.
        """
        function = FUNCTIONS.get(method)
        if function is None:
            self._request.trace.log.append(("err", f"could not find pdk method: {method}"))
            return None
        try:
            return function(self._request, *arguments)
        except (TypeError, AttributeError, ValueError) as error:  # wrong arguments: Kong's checks raise, too
            raise LuaError(f"{method}: {error}") from error
