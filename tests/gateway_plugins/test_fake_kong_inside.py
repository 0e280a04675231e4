"""The stand-in for Kong chooses routes as Kong does, and runs Lua with what Kong's sandbox has and nothing else."""

from __future__ import annotations

from typing import Any, Final

import pytest

from tests.fakes.kong_lua import KongLua, from_lua
from tests.fakes.kong_one import a_request
from tests.fakes.kong_pdk import RequestPdk
from tests.fakes.kong_request import Exited, KongRequest
from tests.fakes.kong_router import Route, Router, escaped, normalized
from tests.fakes.kong_rpc import LuaError


@pytest.fixture(scope="module")
def lua() -> KongLua:
    return KongLua()


def ran(lua: KongLua, code: str) -> KongRequest:
    request = a_request()
    lua.prepare(request)
    lua.run(lua.compile(code), request)
    return request


def test_what_lua_leaves_in_shared_comes_to_plugins_and_back(lua: KongLua) -> None:
    """Bytes as they are, tables as lists and maps; the table that was put there is the one that is read."""
    code = r'kong.ctx.shared.a = {x = {1, 2}, y = "\255"}; kong.ctx.shared.a.z = ngx.var.request_uri'
    request = ran(lua, code)
    found = RequestPdk(request).call("kong.ctx.shared.get", [b"a"])
    assert found == {b"x": [1, 2], b"y": b"\xff", b"z": b"/a?b"}
    RequestPdk(request).call("kong.ctx.shared.set", [b"b", {b"k": [b"v"]}])
    lua.run(lua.compile("kong.ctx.shared.c = kong.ctx.shared.b.k[1]"), request)
    assert from_lua(request.shared)[b"c"] == b"v"


def test_nothing_follows_an_exit(lua: KongLua) -> None:
    """Not even behind a ``pcall``, as in Kong, where the request's coroutine never goes on."""
    with pytest.raises(Exited):
        ran(lua, 'pcall(kong.response.exit, 403, "no"); error("went on")')


@pytest.mark.parametrize(
    "code",
    [
        'os.execute("x")',
        'io.open("x")',
        'load("x")',
        'require("cjson")',
        "debug.getinfo(1)",
        "getmetatable(kong)",
        "rawset(kong, 1, 1)",
        'ngx.var.remote_addr = "1.2.3.4"',
        'ngx.var.nothing = "x"',
        "kong.cache.get()",
        "bit.band(1, 1)",
    ],
)
def test_what_the_sandbox_lacks_raises(lua: KongLua, code: str) -> None:
    """As in the sandboxes of all versions, 3.4 to 3.9."""
    with pytest.raises(LuaError):
        ran(lua, code)


def test_a_snippet_that_returns_a_function_is_that_function(lua: KongLua) -> None:
    """Compiled once: what stands outside of it is kept between requests."""
    request = a_request()
    lua.prepare(request)
    snippet = lua.compile("local n = 0; return function() n = n + 1; kong.ctx.shared.n = n end")
    for expected in (1, 2, 3):
        snippet = lua.run(snippet, request)
        assert request.shared[b"n"] == expected


def test_an_error_that_is_caught_is_none(lua: KongLua) -> None:
    """``pcall`` around a call that raises; uncaught it is a Lua error."""
    assert ran(lua, "kong.ctx.shared.ok = pcall(kong.service.set_target, 1, 2)").shared[b"ok"] is False
    with pytest.raises(LuaError, match="host must be a string"):
        ran(lua, "kong.service.set_target(1, 2)")


# --- the router -----------------------------------------------------------------------------------------------------

ROUTES: Final[dict[str, dict[str, Any]]] = {
    "host": {"hosts": ["a.test"]},
    "wild": {"hosts": ["*.a.test"]},
    "both": {"hosts": ["a.test"], "paths": ["/x"]},
    "longer": {"hosts": ["a.test"], "paths": ["/x/y"]},
    "regex": {"hosts": ["a.test"], "paths": ["~/r/[a-z]+$"], "regex_priority": 1},
    "regex first": {"hosts": ["a.test"], "paths": ["~/r/.*$"], "regex_priority": 2},
    "any": {"paths": ["/"]},
}


@pytest.mark.parametrize(
    ("host", "uri", "expected"),
    [
        (b"a.test", b"/", "host"),
        (b"a.test:8000", b"/", "host"),
        (b"b.a.test", b"/", "wild"),
        (b"b.a.test:80", b"/", "wild"),
        (b"a.test", b"/x", "both"),
        (b"a.test", b"/xyz", "both"),
        (b"a.test", b"/x/y/z?q", "longer"),
        (b"a.test", b"/%78/./y", "longer"),
        (b"a.test", b"/r/q", "regex first"),
        (b"other", b"/x/y", "any"),
        (None, b"/", "any"),
    ],
)
def test_a_route_is_chosen_as_kong_chooses(host: bytes | None, uri: bytes, expected: str) -> None:
    """More criteria first, then regular expressions by priority, then the longest prefix."""
    router = Router([Route({"name": name, **route}, {}) for name, route in ROUTES.items()])
    match = router.match(host, uri)
    assert match is not None
    assert match.route.document["name"] == expected


def test_nothing_matches_where_nothing_may() -> None:
    """404 of Kong's own."""
    assert Router([Route({"hosts": ["a.test"]}, {})]).match(b"b.test", b"/") is None


@pytest.mark.parametrize(
    "route", [{}, {"methods": ["GET"], "paths": ["/"]}, {"paths": ["x"]}, {"headers": {"a": ["b"]}, "paths": ["/"]}]
)
def test_a_route_it_cannot_weigh_is_refused(route: dict[str, Any]) -> None:
    """A criterion that is overlooked would lead requests elsewhere than in Kong."""
    with pytest.raises(ValueError, match="route"):
        Router([Route(route, {})])


def test_paths_are_normalised_and_escaped_as_kong_does() -> None:
    """Reserved characters stay as they came."""
    assert normalized(b"/a/%2e%2e/b//c/%2F%41%3f") == b"/b/c/%2FA%3F"
    assert normalized(b"/a/b/..") == b"/a/"
    assert escaped(b"/a b\xe9\"%20'") == b"/a%20b%E9%22%20'"
