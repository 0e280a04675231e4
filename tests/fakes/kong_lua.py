"""
Lua snippets as Kong's ``pre-function`` and ``post-function`` run them: in LuaJIT, with the sandbox's names only.

The names are those that the sandboxes of Kong 3.4 to 3.9 have in common, ``kong.*`` of ``kong_pdk`` and the part of
``ngx.*`` below. A snippet runs to its end, raises (``LuaError``), or leaves by ``kong.response.exit`` or ``ngx.exit``
(``Exited``), behind which, as in Kong, not even a ``pcall`` of its own goes on.

Longer than other modules: what the sandbox gives to snippets is one table.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from lupa import luajit21

from tests.fakes.kong_pdk import FUNCTIONS
from tests.fakes.kong_request import Answer, Exited, KongRequest, grouped
from tests.fakes.kong_rpc import LuaError
from tests.fakes.kong_values import as_lua

NAMES: Final = """
_VERSION assert error ipairs next pairs pcall select tonumber tostring type unpack xpcall
coroutine.create coroutine.resume coroutine.running coroutine.status coroutine.wrap coroutine.yield
math.abs math.acos math.asin math.atan math.atan2 math.ceil math.cos math.cosh math.deg math.exp math.fmod math.floor
math.frexp math.huge math.ldexp math.log math.log10 math.max math.min math.modf math.pi math.pow math.rad math.random
math.sin math.sinh math.sqrt math.tan math.tanh
os.clock os.date os.difftime os.time
string.byte string.char string.find string.format string.gmatch string.gsub string.len string.lower string.match
string.rep string.reverse string.sub string.upper
table.concat table.insert table.maxn table.remove table.sort
"""
_BOOT: Final = rb"""
local names, functions, call, finished = ...
local environment = {}
for name in names:gmatch("%S+") do
  local module, method = name:match("^([^.]+)%.(.+)$")
  if module then
    environment[module] = environment[module] or {}
    environment[module][method] = _G[module][method]
  else
    environment[name] = _G[name]
  end
end

-- call answers (true, result) or (false, message): what raises here can be caught here, and only here
local function raising(name, ...)
  local is_good, result = call(name, ...)
  if not is_good then error(result, 3) end
  if finished() then coroutine.yield() end
  return result
end

local function put(tree, name, callable)
  local path, last = name:match("^(.-)%.?([^.]+)$")
  for part in path:gmatch("[^.]+") do
    if type(tree[part]) ~= "table" then
      local there = tree[part]
      tree[part] = setmetatable({}, there and { __call = function(_, ...) return there(...) end })
    end
    tree = tree[part]
  end
  if tree[last] then
    setmetatable(tree[last], { __call = function(_, ...) return callable(...) end })
  else
    tree[last] = callable
  end
end

local kong, ngx = {}, {}
for name in functions:gmatch("%S+") do
  local root, rest = name:match("^([^.]+)%.(.+)$")
  if not rest:find("^ctx%.") then
    put(root == "kong" and kong or ngx, rest, function(...) return raising(name, ...) end)
  end
end

local get_headers = ngx.req.get_headers
ngx.req.get_headers = function(...) return get_headers(...), raising("ngx.req.leaves_out", ...) end

local function proxy(getter, setter)
  return setmetatable({}, {
    __index = function(_, key) return raising(getter, key) end,
    __newindex = function(_, key, value) raising(setter, key, value) end,
  })
end

kong.ctx = setmetatable({}, { __index = function(_, key) return raising("kong.ctx", key) end })
kong.configuration = {}
ngx.var = proxy("ngx.var.get", "ngx.var.set")
ngx.header = proxy("ngx.header.get", "ngx.header.set")
local balancer = proxy("ngx.balancer.get", "ngx.balancer.set")
ngx.ctx = setmetatable({}, {
  __index = function(_, key) return key == "balancer_data" and balancer or nil end,
  __newindex = function(_, key, value) raising("ngx.ctx.set", key, value) end,
})
ngx.null = setmetatable({}, { __tostring = function() return "userdata: NULL" end })
ngx.config = { subsystem = "http", nginx_version = 1025003, ngx_lua_version = 10026, debug = false }
for name, number in pairs({
  OK = 0, ERROR = -1, AGAIN = -2, DONE = -4, DECLINED = -5, HTTP_OK = 200, HTTP_BAD_REQUEST = 400,
  HTTP_FORBIDDEN = 403, HTTP_INTERNAL_SERVER_ERROR = 500, HTTP_SERVICE_UNAVAILABLE = 503,
  STDERR = 0, EMERG = 1, ALERT = 2, CRIT = 3, ERR = 4, WARN = 5, NOTICE = 6, INFO = 7, DEBUG = 8,
}) do
  ngx[name] = number
end
setmetatable(ngx, {
  __index = function(_, key) return raising("ngx.get", key) end,
  __newindex = function(_, key, value) raising("ngx.set", key, value) end,
})
environment.kong, environment.ngx = kong, ngx
environment.require = function(name) error("require '" .. tostring(name) .. "' not allowed within sandbox") end

local function compile(code)
  local own = {}
  for key, value in pairs(environment) do own[key] = value end
  own._G = own
  local compiled, message = load(code, "=snippet", "t", own)
  if not compiled then return nil, message end
  return compiled
end

local function run(compiled)
  local is_good, result = coroutine.resume(coroutine.create(compiled))
  if not is_good then return false, tostring(result) end
  return true, type(result) == "function" and result or nil
end

return compile, run
"""


class KongLua:
    """One Lua state, as a worker has. Used from one thread, one snippet at a time."""

    def __init__(self) -> None:
        self._lua: Any = luajit21.LuaRuntime(encoding=None, unpack_returned_tuples=True)
        self._request: KongRequest | None = None
        self._has_ended = False
        functions = " ".join([*FUNCTIONS, *_NGX]).encode()
        boot = self._lua.eval(b"function(code) return load(code, '=boot') end")(_BOOT)
        self._compile, self._run = boot(NAMES.encode(), functions, self._call, lambda: self._has_ended)

    def compile(self, code: str) -> Any:
        """A snippet, ready to run. Raises: LuaError for what is no Lua."""
        compiled = self._compile(code.encode())
        if isinstance(compiled, tuple):
            raise LuaError(compiled[1].decode("utf-8", "replace"))
        return compiled

    def prepare(self, request: KongRequest) -> None:
        """Give the request a ``kong.ctx.shared`` of this state."""
        request.shared, request.from_lua, request.to_lua = self._lua.table(), from_lua, self.to_lua

    def run(self, compiled: Any, request: KongRequest) -> Any:
        """
        Run a snippet; of one that returns a function, run that, too, and return it: it is what runs from now on.

        Raises: LuaError, Exited.
        """
        self._request, self._has_ended = request, False
        try:
            is_good, result = self._run(compiled)
            if self._has_ended:
                raise Exited
            if not is_good:
                raise LuaError(result.decode("utf-8", "replace"))
            if result is None:
                return compiled
            self.run(result, request)
            return result
        finally:
            self._request = None

    def _call(self, name: bytes, *arguments: Any) -> tuple[bool, Any]:
        request = self._request
        if request is None:
            return False, b"API disabled in the current context"
        try:
            return True, self.to_lua(self._answer(request, name.decode(), arguments))
        except Exited:
            self._has_ended = True
            return True, None
        except LuaError as error:
            return False, str(error).encode()
        except (TypeError, AttributeError, ValueError) as error:  # wrong arguments: Kong's checks raise, too
            return False, f"bad argument to {name.decode()}: {error}".encode()

    def _answer(self, request: KongRequest, name: str, arguments: tuple[Any, ...]) -> Any:
        if name == "kong.ctx":
            return request.shared if arguments[0] == b"shared" else None
        function = FUNCTIONS.get(name) or _NGX[name]
        return function(request, *map(from_lua, arguments))

    def to_lua(self, value: Any) -> Any:
        """A value as one of this state's."""
        value = value if luajit21.lua_type(value) is not None else as_lua(value)
        if isinstance(value, dict):
            return self._table(value)
        if isinstance(value, list):
            return self._table(dict(enumerate(value, 1)))
        return value

    def _table(self, items: dict[Any, Any]) -> Any:
        table = self._lua.table()
        for key, item in items.items():
            table[key] = self.to_lua(item)
        return table


def from_lua(value: Any) -> Any:
    """A value of a Lua state as bytes, numbers, lists and dicts. Functions become None."""
    kind = luajit21.lua_type(value)
    if kind == "table":
        return as_lua({from_lua(key): from_lua(item) for key, item in value.items()})
    return None if kind is not None else value


# --- ngx ------------------------------------------------------------------------------------------------------------

_LEVELS: Final = ("stderr", "emerg", "alert", "crit", "err", "warn", "notice", "info", "debug")


def _log(request: KongRequest, level: int, *parts: Any) -> None:
    FUNCTIONS["kong.log"](request, *parts)
    request.trace.log[-1] = (_LEVELS[level], request.trace.log[-1][1])


def _exit(request: KongRequest, status: int) -> None:
    if status < 200:  # OK, DECLINED: on to the next phase, which for a plugin means on to the next one
        raise LuaError(f"no support for ngx.exit({status})")
    page = f"<html><body><h1>{int(status)}</h1></body></html>\r\n".encode()
    request.answer = Answer(int(status), list(request.early_fields), page)
    request.set_answer_header(b"Content-Type", b"text/html")
    request.set_answer_header(b"Content-Length", len(page))
    raise Exited


def _get_answer_header(request: KongRequest, name: bytes) -> Any:
    wanted = name.lower()
    found = [value for key, value in request.answer_fields if key.lower() == wanted]
    return (found[0] if len(found) == 1 else found) if found else None


def _get(request: KongRequest, name: bytes) -> Any:
    if name == b"status":
        return request.answer.status if request.answer is not None else 0
    if name == b"headers_sent":
        return False
    return None


def _set(request: KongRequest, name: bytes, value: Any) -> None:
    if name != b"status" or request.answer is None:
        raise LuaError(f"no support for ngx.{name.decode()} = here")
    request.answer.status = int(value)


def _set_context(request: KongRequest, key: bytes, value: Any = None) -> None:
    if key != b"cached_request_headers" or value is not None:
        raise LuaError(f"no support for ngx.ctx.{key.decode()} = here")
    request.cached = None


def _pattern(pattern: bytes, options: bytes) -> re.Pattern[bytes]:
    flags = re.IGNORECASE if b"i" in options else 0
    return re.compile((rb"\A" if b"a" in options else b"") + pattern.replace(b"(?<", b"(?P<"), flags)


def _re_find(_: KongRequest, subject: bytes, pattern: bytes, options: bytes = b"") -> int | None:
    found = _pattern(pattern, options).search(subject)
    return found.start() + 1 if found is not None else None


def _re_match(_: KongRequest, subject: bytes, pattern: bytes, options: bytes = b"") -> dict[Any, Any] | None:
    found = _pattern(pattern, options).search(subject)
    if found is None:
        return None
    groups = dict(enumerate(found.groups(), 1))
    return {0: found[0], **{key: b"" if value is None else value for key, value in groups.items()}}


def _set_query(request: KongRequest, query: bytes) -> None:
    request.args = query or None


_NGX: Final[dict[str, Callable[..., Any]]] = {
    "ngx.var.get": lambda one, name: one.variable(name.decode()),
    "ngx.var.set": lambda one, name, value=None: one.set_variable(name.decode(), value),
    "ngx.header.get": _get_answer_header,
    "ngx.header.set": lambda one, name, value=None: one.set_answer_header(name, value),
    "ngx.balancer.get": lambda one, name: one.balancer.get(name.decode()),
    "ngx.balancer.set": lambda one, name, value=None: one.balancer.update({name.decode(): value}),
    "ngx.ctx.set": _set_context,
    "ngx.get": _get,
    "ngx.set": _set,
    "ngx.log": _log,
    "ngx.exit": _exit,
    "ngx.get_phase": lambda one: one.phase,
    "ngx.now": lambda _: 1_700_000_000.25,
    "ngx.time": lambda _: 1_700_000_000,
    "ngx.re.find": _re_find,
    "ngx.re.match": _re_match,
    "ngx.req.get_headers": lambda one, most=100, _raw=False: one.headers(most),
    "ngx.req.leaves_out": lambda one, most=100, _raw=False: b"truncated" if 0 < most < len(one.fields) else None,
    "ngx.resp.get_headers": lambda one, most=100, _raw=False: grouped(one.answer_fields[: most or None]),
    "ngx.req.set_header": lambda one, name, value=None: one.set_header(name, value),
    "ngx.req.clear_header": lambda one, name: one.set_header(name, None),
    "ngx.req.get_method": lambda one: one.head.method,
    "ngx.req.http_version": lambda one: 1.0 if one.head.version == 1000 else 1.1,
    "ngx.req.set_uri_args": _set_query,
    "ngx.req.is_internal": lambda _: False,
}
"""What there is of it; ``ngx.var`` and ``ngx.header`` are tables in Lua."""
