"""
The Lua snippets in LuaJIT, against a ``kong`` and ``ngx`` of a few lines: what they remove, refuse and apply.

In a real nginx they run in ``test_lua_nginx``.

Longer than other modules: three snippets and the world that they see.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lupa import luajit21

import gateway_plugins
from gateway_plugins import render_lua
from gateway_plugins.facts import read_facts
from gateway_plugins.render_lua import snippet
from policies.header_fields import (
    BAD,
    CALLBACK_URL,
    CLIENT_CERT,
    FORWARDED_FOR,
    FORWARDED_PROTO,
    HOP,
    OUR_PREFIXES,
    OURS,
    TENANT_HINT,
    classify,
    filter_answer,
)

SNIPPETS: Final = ("facts", "admit", "answer")
ALLOWED: Final = frozenset(
    re.findall(
        r"\S+",
        """
        kong.ctx.shared kong.ctx.shared.portero_verdict kong.response.exit
        kong.service.request kong.service.request.clear_header
        kong.service.request.set_header kong.service.request.set_path kong.service.request.set_raw_query
        kong.service.set_target kong.service.set_timeouts
        ngx.ctx ngx.ctx.balancer_data ngx.ctx.cached_request_headers
        ngx.header ngx.req.get_headers ngx.resp.get_headers ngx.status ngx.var
        ngx.var.request_id ngx.var.server_protocol ngx.var.upstream_upgrade
        """,
    )
)
"""
What the handlers' sandbox of Kong lists (``kong.*`` and ``ngx.req``, ``ngx.resp``) or lets through beside the list
(``kong.ctx.shared``, ``ngx.var``, ``ngx.header``, ``ngx.ctx``, ``ngx.status``); before that list there was ``kong`` and
``ngx`` whole. ``set_timeouts`` is there since 3.8, and asked for before it is called.
"""
LUA_NAMES: Final = """
assert error ipairs next pairs pcall select tonumber tostring type unpack xpcall string.byte string.char string.find
string.format string.gmatch string.gsub string.len string.lower string.match string.reverse string.sub string.upper
table.concat table.insert table.maxn table.remove table.sort
"""
"""Of Lua itself, in every sandbox since 3.4."""
WORLD: Final = """
local names = ...
local environment, unknown = {}, nil
for name in names:gmatch("%S+") do
  local module, method = name:match("^([^.]+)%.(.+)$")
  if module then
    environment[module] = environment[module] or {}
    environment[module][method] = _G[module][method]
  else
    environment[name] = _G[name]
  end
end
setmetatable(environment, { __index = function(_, name) unknown[#unknown + 1] = name end })
local EXIT = {}

local function lowered(fields)
  local found = {}
  for _, field in ipairs(fields) do
    local name = field[1]:lower()
    local known = found[name]
    if known == nil then found[name] = field[2]
    elseif type(known) == "table" then known[#known + 1] = field[2]
    else found[name] = { known, field[2] } end
  end
  return found
end

local function set(fields, name, value)
  for at = #fields, 1, -1 do
    if fields[at][1]:lower() == name:lower() then table.remove(fields, at) end
  end
  if value == nil then return end
  for _, one in ipairs(type(value) == "table" and value or { value }) do
    fields[#fields + 1] = { name, one }
  end
end

return function(code, world)
  local calls = {}
  unknown = {}
  local function call(name)
    return function(...)
      if select("#", ...) == 0 or (...) == nil or select(select("#", ...), ...) == nil then error(name) end
      calls[#calls + 1] = { name, ... }
      return true
    end
  end
  local request = {
    clear_header = function(name) set(world.request, name) end,
    set_header = function(name, value) set(world.request, name, value) end,
    set_path = call("set_path"), set_raw_query = call("set_raw_query"),
  }
  environment.kong = {
    ctx = { shared = world.shared },
    response = { exit = function(...) calls[#calls + 1] = { "exit", ... } error(EXIT) end },
    service = {
      request = request, set_target = call("set_target"),
      set_timeouts = not world.is_old and call("set_timeouts") or nil,
    },
  }
  environment.ngx = {
    var = world.var, ctx = { balancer_data = world.balancer_data }, status = world.status,
    req = {
      get_headers = function(most) return lowered(world.request), most < #world.request and "truncated" or nil end,
    },
    resp = { get_headers = function(most) assert(most == 0) return lowered(world.answer) end },
    header = setmetatable({}, {
      __index = function(_, name) return lowered(world.answer)[name:lower()] end,
      __newindex = function(_, name, value)
        set(world.answer, world.transforms and name:gsub("_", "-") or name, value)
      end,
    }),
  }
  local chunk = assert(load(code, "=snippet", "t", environment))
  local handler = chunk()
  local is_good, message = pcall(handler)
  if not is_good and message ~= EXIT then return "error", tostring(message), calls, unknown end
  return is_good and "done" or "exit", nil, calls, unknown
end
"""
Fields = list[tuple[bytes, bytes]]


class World:
    """One request as a snippet sees it; run one with ``run``."""

    lua: Any = luajit21.LuaRuntime(encoding=None, unpack_returned_tuples=True)
    start: Any = None

    def __init__(self, request: Fields = (), answer: Fields = (), **more: Any) -> None:  # type: ignore[assignment]  # an empty default
        if World.start is None:
            World.start = self.lua.eval(b"function(code) return load(code, '=world') end")(WORLD.encode())(
                LUA_NAMES.encode()
            )
        var = {"remote_addr": "10.0.0.9", "scheme": "http", "request": "GET /a HTTP/1.1", "request_id": "5" * 32}
        self.table: Any = self.to_lua(
            {
                "request": [list(pair) for pair in request],
                "answer": [list(pair) for pair in answer],
                "shared": {},
                "var": var | more.pop("var", {}),
                "balancer_data": {"type": "ipv4", "retries": 5},
                "status": 200,
            }
            | more
        )

    @classmethod
    def to_lua(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return cls.lua.table_from(
                {(k.encode() if isinstance(k, str) else k): cls.to_lua(v) for k, v in value.items() if v is not None}
            )
        if isinstance(value, list | tuple):
            return cls.lua.table_from([cls.to_lua(one) for one in value])
        return value.encode() if isinstance(value, str) else value

    def run(self, name: str, code: str | None = None) -> tuple[str, list[list[Any]]]:
        """How it ended (``done``, ``exit``, ``error``) and the calls it made."""
        ended, _, calls, unknown = self.start((snippet(name) if code is None else code).encode(), self.table)
        assert list(unknown.values()) == [], "a name that no sandbox has"
        return ended.decode(), [[plain(one) for one in call.values()] for call in calls.values()]

    @property
    def shared(self) -> Any:
        return self.table[b"shared"]

    def fields(self, which: str) -> Fields:
        return [(pair[1], pair[2]) for pair in self.table[which.encode()].values()]


def plain(value: Any) -> Any:
    if luajit21.lua_type(value) == "table":
        return {plain(key): plain(item) for key, item in value.items()}
    return value.decode("latin-1") if isinstance(value, bytes) else value


# -- what they may use -----------------------------------------------------------------------------------------------


def source(name: str) -> str:
    text = (Path(gateway_plugins.__file__).parent / "lua" / f"{name}.lua").read_text()
    return re.sub(r'"[^"\n]*"', "", re.sub(r"--.*", "", text))


@pytest.mark.parametrize("name", SNIPPETS)
def test_a_snippet_names_only_what_kongs_sandbox_has(name: str) -> None:
    """Whatever Kong it is, 3.4 to 3.9: each name of kong and ngx is one that the sandbox lets through."""
    text = re.sub(r"\brequest\.", "kong.service.request.", re.sub(r"\b(kong|ngx)\.[a-z_.]+", "", source(name)))
    named = re.findall(r"\b(?:kong|ngx)(?:\.[a-z_]+)+", source(name) + text)
    assert set(named) <= ALLOWED
    assert not re.search(r"\b(require|loadstring|setmetatable|getmetatable|rawset|setfenv|string\.rep)\b", source(name))


@pytest.mark.parametrize("name", SNIPPETS)
def test_a_snippet_that_was_not_rendered_lets_nobody_pass(name: str) -> None:
    """Its tables are names that nothing defines: an error, which Kong answers with 500."""
    text = (Path(gateway_plugins.__file__).parent / "lua" / f"{name}.lua").read_text()
    world = World([(b"Host", b"a"), (b"X-A", b"b")], [(b"X-A", b"b")])
    world.shared[b"portero_verdict"] = World.to_lua({"answer": {"add": {}}}) if name == "answer" else None
    ended, _, calls, _ = world.start(text.encode(), world.table)
    assert ended == b"error"
    assert not list(calls)
    assert world.shared[b"portero_facts"] is None


def test_every_table_that_a_snippet_names_is_filled_in() -> None:
    """And no comment lines are left: they stand in the source."""
    for name in SNIPPETS:
        assert "PORTERO_" not in snippet(name)
        assert not [line for line in snippet(name).splitlines() if line.lstrip().startswith("--")]


def test_text_that_is_not_ascii_is_no_lua_string() -> None:
    """Nothing that Portero writes into a snippet is anything else."""
    assert render_lua.lua_string('a"\\\n]') == '"a\\034\\092\\010]"'
    with pytest.raises(ValueError, match="ASCII"):
        render_lua.lua_string("\N{BULLET}")


# -- facts -----------------------------------------------------------------------------------------------------------


def test_the_facts_are_what_nginx_has_read() -> None:
    """Every field with its value, also a repeated one and bytes that are no text; then what is spoofable goes."""
    head = [(b"Host", b"acme"), (b"A", b"1"), (b"a", b"\xff"), (b"X_Portero_Subject", b"ana"), (b"X-Real-IP", b"1")]
    world = World(head, var={"ssl_server_name": "acme", "realip_remote_addr": "10.0.0.1"})
    assert world.run("facts") == ("done", [])
    facts = world.shared[b"portero_facts"]
    assert facts.split(b"\n")[:5] == [b"portero/1", b"10.0.0.1", b"http", b"acme", b"GET /a HTTP/1.1"]
    read = read_facts(facts)
    assert read is not None
    assert sorted(read.fields) == sorted((name.lower(), value) for name, value in head)
    assert world.fields("request") == [(b"Host", b"acme"), (b"A", b"1"), (b"a", b"\xff")]


@pytest.mark.parametrize(
    ("fields", "var"),
    [
        ([(b"A", b"x\nhost: b")], {}),
        ([(b"A", b"x\r")], {}),
        ([(b"A", b"x\0y")], {}),
        ([(b"A\nhost", b"x")], {}),
        ([], {"request": "GET / HTTP/1.1\nhost: b"}),
        ([], {"request": None}),
        ([], {"scheme": None}),
        ([], {"remote_addr": None}),
    ],
    ids=["LF in a value", "CR", "NUL", "LF in a name", "LF in the line", "no line", "no scheme", "no peer"],
)
def test_what_could_be_read_as_another_fact_is_refused(fields: Fields, var: dict[str, Any]) -> None:
    """400 and no facts: whoever judges without them refuses."""
    world = World(fields, var=var)
    ended, (call,) = world.run("facts")
    assert (ended, call[0], call[1]) == ("exit", "exit", 400)
    assert json.loads(call[2])["reason"] == call[3]["X-Portero-Reason"] == "bad-request"
    assert json.loads(call[2])["request_id"] == call[3]["X-Request-Id"] == "5" * 32
    assert world.shared[b"portero_facts"] is None


def test_a_head_of_which_fields_are_missing_is_refused() -> None:
    """Nginx says that it has given not all of them: none has been removed, so it goes nowhere. 431, as Portero does."""
    most: Fields = [(b"K-%d" % n, b"") for n in range(render_lua.MAX_NGINX_FIELDS)]
    world = World(most)
    assert world.run("facts") == ("done", [])
    assert world.fields("request") == []
    world = World([*most, (b"K-", b"")])
    ended, (call,) = world.run("facts")
    assert (ended, call[1], json.loads(call[2])["reason"]) == ("exit", 431, "head-too-large")
    assert world.shared[b"portero_facts"] is None


def test_marks_that_were_there_before_are_not_believed() -> None:
    """Whoever wrote them, they are not this request's: an internal redirect begins anew."""
    world = World([(b"Host", b"a")], shared={"portero_verdict": {"host": "b"}, "portero_found": "x"})
    world.run("facts")
    assert world.shared[b"portero_verdict"] is None
    assert world.shared[b"portero_found"] is None


REMOVED_KINDS: Final = frozenset(
    {HOP, OURS, BAD, TENANT_HINT, FORWARDED_FOR, FORWARDED_PROTO, CLIENT_CERT, CALLBACK_URL}
)
KNOWN: Final = sorted(render_lua.removed_names() | {f"{prefix}a" for prefix in OUR_PREFIXES})
SPELLINGS: Final = st.builds(
    lambda name, marks, upper: "".join(
        marks[i % len(marks)] if c == "-" else c.upper() if upper >> (i % 8) & 1 else c for i, c in enumerate(name)
    ).encode(),
    st.sampled_from([*KNOWN, "x-custom", "user-agent", "content-type"]),
    st.text("-_.!#$%&'*+^`|~", min_size=1, max_size=4),
    st.integers(0, 255),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.one_of(SPELLINGS, st.binary(min_size=1, max_size=20)), min_size=1, max_size=12, unique=True))
def test_a_field_goes_exactly_when_classify_says_so(names: list[bytes]) -> None:
    """In every spelling: one source of truth, read twice."""
    names = [name for name in names if not {*b"\r\n\0"} & {*name}]
    world = World([(name, b"v") for name in names])
    assert world.run("facts")[0] == "done"
    left = {name for name, _ in world.fields("request")}
    # Lua sees lower-case names; all spellings of one name that differ by case alone go together.
    assert left == {name for name in names if classify(name.lower()) not in REMOVED_KINDS}


MEMO: Final = """
local code = ...
local headers, most = nil, 0
local request = { clear_header = function() end }
local environment = {
  kong = { ctx = { shared = {} }, service = { request = request } },
  ngx = {
    var = { remote_addr = "10.0.0.9", scheme = "http", request = "GET /a HTTP/1.1" },
    req = { get_headers = function() return headers end },
  },
}
local handler = load(code, "=facts", "t", setmetatable(environment, { __index = _G }))()
local function upvalue(callable, wanted)
  for at = 1, 60 do
    local name, value = debug.getupvalue(callable, at)
    if name == wanted then return value end
  end
end
for round = 1, 100 do
  headers = {}
  for n = 1, 100 do headers["x-" .. round .. "-" .. n] = "v" end
  headers[("x"):rep(65) .. round] = "v"
  handler()
  local count = 0
  for name in pairs(upvalue(upvalue(handler, "is_spoofable"), "verdicts")) do
    count = count + (#name > 64 and 100000 or 1)
  end
  most = math.max(most, count)
end
return most
"""


def test_the_memo_of_names_is_bounded() -> None:
    """Callers choose names; ten thousand of them leave no more than 4096 at any time, and no long one."""
    most = luajit21.LuaRuntime(encoding=None).execute(MEMO.encode(), snippet("facts").encode())
    assert 3000 < most <= 4096


# -- admit -----------------------------------------------------------------------------------------------------------

VERDICT: Final = {
    "host": "gateway.openfaas",
    "port": 8080,
    "path": "/function/a.acme/x%20y",
    "clear": ["authorization", "cookie"],
    "set": {"Host": "gateway.openfaas:8080", "X-Portero-Tenant": "acme", "Cookie": "a=b"},
    "forwarded": {"for": "10.0.0.1", "proto": "https", "host": "acme.localhost"},
    "timeouts": {"connect_ms": 5000, "write_ms": 60000, "read_ms": 61000},
}


def admitted(verdict: Any, **more: Any) -> tuple[World, str, list[list[Any]]]:
    head = [(b"Host", b"acme"), (b"Authorization", b"Bearer x"), (b"cookie", b"c"), (b"A", b"1")]
    world = World(head, **more)
    world.shared[b"portero_verdict"] = World.to_lua(verdict)
    return world, *world.run("admit")


def test_a_verdict_is_applied() -> None:
    """Where to, under which path, with which fields, for how long, and for whom."""
    world, ended, calls = admitted(VERDICT | {"query": "a=b"})
    assert ended == "done"
    assert calls == [
        ["set_target", "gateway.openfaas", 8080],
        ["set_timeouts", 5000, 60000, 61000],
        ["set_path", "/function/a.acme/x%20y"],
        ["set_raw_query", "a=b"],
    ]
    assert sorted(world.fields("request")) == [
        (b"A", b"1"),
        (b"Cookie", b"a=b"),
        (b"Host", b"gateway.openfaas:8080"),
        (b"X-Portero-Tenant", b"acme"),
    ]
    var = plain(world.table[b"var"])
    assert {name: var[name] for name in var if name.startswith("upstream_")} == {
        "upstream_x_forwarded_for": "10.0.0.1",
        "upstream_x_forwarded_proto": "https",
        "upstream_x_forwarded_host": "acme.localhost",
        "upstream_x_forwarded_port": "",
        "upstream_x_forwarded_path": "",
        "upstream_x_forwarded_prefix": "",
    }


@pytest.mark.parametrize(("host", "kind"), [("gateway.openfaas", "name"), ("10.0.0.1", "ipv4"), ("[::1]", "ipv6")])
def test_kong_is_told_what_kind_of_address_it_is(host: str, kind: str) -> None:
    """The dead address is IPv4, and Kong would not ask DNS for a name that took its place."""
    world, ended, calls = admitted(VERDICT | {"host": host}, is_old=True)
    data = plain(world.table[b"balancer_data"])
    assert (ended, data["type"]) == ("done", kind)
    assert data == {
        "type": kind,
        "retries": 0,
        "connect_timeout": 5000,
        "send_timeout": 60000,
        "read_timeout": 61000,
    }
    assert "set_timeouts" not in [call[0] for call in calls], "Kong before 3.8 has no such function"


@pytest.mark.parametrize("verdict", [None, "allow", True, 1], ids=repr)
def test_without_a_verdict_nobody_passes(verdict: Any) -> None:
    """503, a second lock beside the dead address."""
    world, ended, (call,) = admitted(verdict)
    assert (ended, call[1]) == ("exit", 503)
    assert json.loads(call[2])["reason"] == call[3]["X-Portero-Reason"] == "policy-unavailable"
    assert call[3]["Retry-After"] == "5"
    assert plain(world.table[b"balancer_data"])["type"] == "ipv4"


@pytest.mark.parametrize("missing", [*VERDICT, "set.Host", "forwarded.for", "forwarded.proto", "forwarded.host"])
def test_half_a_verdict_is_an_error_and_not_a_pass(missing: str) -> None:
    """A Lua error is Kong's 500. What the kit itself checks (host, port, path) it raises itself."""
    verdict = json.loads(json.dumps(VERDICT))
    first, _, second = missing.partition(".")
    if second:
        del verdict[first][second]
    else:
        del verdict[first]
    _, ended, calls = admitted(verdict)
    assert ended == "error", calls


# -- answer ----------------------------------------------------------------------------------------------------------


def answered(fields: Fields, answer: Any, **more: Any) -> tuple[World, str]:
    world = World([], fields, **more)
    world.shared[b"portero_verdict"] = World.to_lua({"answer": answer})
    return world, world.run("answer")[0]


def test_what_portero_answers_itself_passes_untouched() -> None:
    """No answer in the verdict, or no verdict at all: a refusal, or the internal listener's."""
    fields = [(b"X-Portero-Reason", b"a"), (b"Set-Cookie", b"__Host-portero=x"), (b"X-Request-Id", b"1")]
    assert answered(fields, None)[0].fields("answer") == fields
    world = World([], fields)
    assert world.run("answer")[0] == "done"
    assert world.fields("answer") == fields


def test_portero_adds_what_the_proxy_adds() -> None:
    """Beside a field of the function's own, which stays, and instead of one that it cannot say."""
    fields = [(b"Vary", b"Accept"), (b"X-Request-Id", b"theirs"), (b"RateLimit", b"own")]
    add = {"X-Request-Id": "ours", "Vary": "Origin", "Set-Cookie": ["a=1", "b=2"], "RateLimit": "l;r=1"}
    world, ended = answered(fields, {"add": add})
    assert ended == "done"
    assert sorted(world.fields("answer")) == [
        (b"RateLimit", b"l;r=1"),
        (b"RateLimit", b"own"),
        (b"Set-Cookie", b"a=1"),
        (b"Set-Cookie", b"b=2"),
        (b"Vary", b"Accept"),
        (b"Vary", b"Origin"),
        (b"X-Request-Id", b"ours"),
    ]


ANSWER_NAMES: Final = st.one_of(
    st.sampled_from(
        re.findall(
            r"\S+",
            """
            Set-Cookie set-cookie Cache-Control Expires Surrogate-Control CDN-Cache-Control X-CDN-Cache-Control
            X-Request-Id Access-Control-Allow-Origin Access-Control-Allow-Credentials Access-Control-Expose-Headers
            Vary X-Portero-Subject x_portero_subject X.PORTERO-a Upgrade Trailer Keep-Alive Proxy-Authenticate
            Content-Type X-Custom Age
            """,
        )
    ).map(str.encode),
    st.text("abX-_.~", min_size=1, max_size=8).map(str.encode),
)
ANSWER_VALUES: Final = st.sampled_from(
    [b"a=1", b"__Host-portero=x", b" =__host-PORTERO-login=x", b"=a", b"", b"no-store", b"x, y"]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(ANSWER_NAMES, ANSWER_VALUES), max_size=8), st.booleans(), st.booleans(), st.booleans())
def test_a_direct_answer_is_what_filter_answer_leaves(
    fields: Fields, strips: bool, private: bool, by_cookie: bool
) -> None:
    """The same fields as through the proxy, whatever the function says."""
    expected = filter_answer(fields, replaces_cors=strips, is_private=private, is_by_cookie=by_cookie)
    assert expected is not None
    says = {"add": {}, "strip_cors": strips, "is_private": private, "is_by_cookie": by_cookie}
    world, ended = answered(fields, says)
    assert ended == "done"
    left = sorted((name.lower(), value) for name, value in world.fields("answer"))
    lines = [line.partition(b": ") for line in expected.block.split(b"\r\n")[:-1]]
    assert left == sorted((name.lower(), value) for name, _, value in lines)


def test_a_switch_of_protocols_keeps_its_upgrade() -> None:
    """101 says what it upgrades to; any other answer does not."""
    upgrade = [(b"Upgrade", b"websocket")]
    var = {"upstream_upgrade": "websocket"}
    assert answered(upgrade, {"add": {}}, status=101, var=var)[0].fields("answer") == upgrade
    assert answered(upgrade, {"add": {}}, status=200, var=var)[0].fields("answer") == []


@pytest.mark.parametrize("status", [0, 9, 99, 100, 101, 103, 199])
def test_an_interim_answer_is_none(status: int) -> None:
    """To its client what follows would be the answer, which nobody has filtered; 101 is for whom nobody has asked."""
    assert answered([(b"A", b"b")], {"add": {}}, status=status)[1] == "error"
    assert answered([(b"A", b"b")], {"add": {}}, status=200)[1] == "done"


def test_a_field_that_nginx_would_not_remove_closes_the_connection() -> None:
    """Where the setting is missing, nginx takes another name than the one it is given: nothing of it may leave."""
    fields = [(b"X_Portero_Subject", b"root")]
    assert answered(fields, {"add": {}}, transforms=True)[1] == "error"
    world, ended = answered(fields, {"add": {}})
    assert (ended, world.fields("answer")) == ("done", [])
