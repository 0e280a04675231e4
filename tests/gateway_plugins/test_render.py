"""
Policies as Kong's configuration: closed, deterministic, accepted by Kong, and routed by it as Portero routes.

What Kong accepts is written down in ``render_rules``: neither PyPI nor npm nor Debian has Kong's schemas to check by.

Longer than other modules: what is rendered, what changes it and how Kong routes by it are asked of the same policies.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway_plugins import render_routes
from gateway_plugins.kong_entities import Entity, read_entities
from gateway_plugins.plugins import PLUGINS
from gateway_plugins.render import (
    CHAIN,
    all_services,
    conf_lines,
    environment_lines,
    environment_text,
    render,
)
from gateway_plugins.render_routes import host_groups, path_of, priority_of
from gateway_plugins.render_rules import flaws
from policies.compiler import compile_files
from policies.routes import match_routes, parse_route_path
from policies.tables import PolicySet, RouteSpec
from policies.target import Target, canonical_target
from tests.fakes.tenancy import a_policy_set, a_route, a_tenant

ROOT: Final = Path(__file__).parents[2]
SURVEY: Final = ROOT / "policies" / "examples" / "survey"


def survey() -> PolicySet:
    return compile_files({file.name: file.read_bytes() for file in SURVEY.glob("*.yaml")})


def document(policies: PolicySet, **how: Any) -> dict[str, Any]:
    (text,) = render(policies, **how).values()
    read: dict[str, Any] = yaml.load(text, yaml.CSafeLoader)
    return read


def unwritten(policies: PolicySet) -> dict[str, Any]:
    """The same without the detour by text, for many policies."""
    return {"_format_version": "3.0", "services": all_services(policies)}


def by_name(policies: PolicySet) -> dict[str, Entity]:
    entities = read_entities(document(policies))
    return {
        f"{kind} {one.get('instance_name') or one['name']}": one
        for kind, group in zip(entities._fields, entities, strict=True)
        for one in group
    }


# -- what stands in it -----------------------------------------------------------------------------------------------


def test_the_example_is_the_survey_rendered() -> None:
    """``kong/`` shows what ``portero kong render policies/examples/survey`` and ``portero kong conf`` print."""
    assert (ROOT / "kong" / "kong.yml").read_text() == render(survey())["kong.yml"]
    assert (ROOT / "kong" / "kong.conf").read_text() == conf_lines()


def test_every_service_is_closed() -> None:
    """A dead address, no retries, and what opens it stands on the service itself."""
    read = document(survey())
    assert [service["name"] for service in read["services"]] == ["portero.acme", "portero.globex", "portero-catch-all"]
    for service in read["services"]:
        assert (service["url"], service["retries"]) == ("http://127.0.0.1:1", 0)
        assert [plugin["name"] for plugin in service["plugins"]] == ["pre-function", "portero", "post-function"]
        for route in service["routes"]:
            assert route["protocols"] == ["http", "https"], "426 and 405 are Portero's answers"
            assert not {"methods", "headers", "snis", "plugins"} & route.keys()
            assert (route["strip_path"], route["preserve_host"]) == (False, True)
            assert (route["request_buffering"], route["response_buffering"]) == (False, False)


def test_the_last_route_takes_what_nobody_has() -> None:
    """Unknown hosts are answered by the same plugin."""
    (route,) = document(survey())["services"][-1]["routes"]
    assert (route.get("hosts"), route["paths"]) == (None, ["/"])


def test_tags_tell_tenants_apart() -> None:
    """One for everything of Portero's, one for each tenant, in characters that Kong takes."""
    for name, entity in by_name(survey()).items():
        tenant = re.search(r"portero\.(\w+)", name)
        assert entity["tags"] == ["portero", *([f"portero-tenant-{tenant[1]}"] if tenant else [])]


def test_a_chain_names_what_must_have_run() -> None:
    """Each demands its predecessors' findings; the last one alone opens; each takes the config it gets."""
    for service in document(survey(), chain=True)["services"]:
        assert [plugin["name"] for plugin in service["plugins"]] == ["pre-function", *CHAIN, "post-function"]
        configs = {plugin["name"]: plugin["config"] for plugin in service["plugins"] if plugin["name"] in CHAIN}
        assert configs == {
            "portero-tenant": {},
            "portero-rbac": {"after": ["portero-tenant"]},
            "portero-ratelimit": {"after": ["portero-tenant", "portero-rbac"]},
            "portero-coldstart": {"after": ["portero-tenant", "portero-rbac", "portero-ratelimit"], "final": True},
        }
        for name, config in configs.items():
            PLUGINS[name].Plugin(config)
    assert sorted(CHAIN, key=lambda name: -PLUGINS[name].priority) == list(CHAIN)


def test_split_files_are_whole_and_together_the_same() -> None:
    """One a tenant and one for the rest, each of which Kong or decK could load by itself."""
    policies = survey()
    files = render(policies, split=True)
    assert list(files) == ["tenant-acme.yml", "tenant-globex.yml", "catch-all.yml"]
    services = []
    for text in files.values():
        read = yaml.safe_load(text)
        assert flaws(read) == []
        services += read["services"]
    assert services == document(policies)["services"]


def test_nothing_of_a_policy_but_hosts_paths_and_names_stands_in_it() -> None:
    """Whoever may read Kong's configuration learns no issuer, rule, limit or backend."""
    text = render(survey())["kong.yml"]
    for word in ("id.example", "gateway.openfaas", "analyst", "survey-report", "login-client", "20/s"):
        assert word not in text


def test_the_same_policies_give_the_same_bytes() -> None:
    """Whatever order hosts and tenants were written in."""
    one, other = a_tenant("a", hosts=("b.example", "a.example")), a_tenant("b")
    again = a_tenant("a", hosts=("a.example", "b.example"))
    assert render(a_policy_set(one, other)) == render(a_policy_set(other, again))


# -- what changes ----------------------------------------------------------------------------------------------------


def changed(before: PolicySet, after: PolicySet) -> set[str]:
    """Entities that are added, taken away or different."""
    one, other = by_name(before), by_name(after)
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


A, B = a_route("/a/{x}"), a_route("/b", id="b")


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (a_policy_set(a_tenant(routes=[A, B]), a_tenant("globex")), set()),
        (a_policy_set(a_tenant(routes=[A]), a_tenant("globex")), {"routes portero.acme.route.b"}),
        (
            a_policy_set(a_tenant(routes=[A, B, a_route("/c/*", id="c")]), a_tenant("globex")),
            {"routes portero.acme.route.c"},
        ),
        (
            a_policy_set(a_tenant(routes=[A, a_route("/bb", id="b")]), a_tenant("globex")),
            {"routes portero.acme.route.b"},
        ),
        (a_policy_set(a_tenant(routes=[A, a_route("/b", id="b", methods=["GET"])]), a_tenant("globex")), set()),
    ],
    ids=["nothing", "route gone", "route more", "another path", "methods are judged, not routed"],
)
def test_a_change_changes_what_it_should(after: PolicySet, expected: set[str]) -> None:
    """By entity: a route more renumbers no other, and nothing of another tenant changes."""
    assert changed(a_policy_set(a_tenant(routes=[A, B]), a_tenant("globex")), after) == expected


def test_a_tenant_more_touches_no_other() -> None:
    """Its own entities are added and that is all."""
    before = a_policy_set(a_tenant(routes=[A]))
    assert all(".globex" in name for name in changed(before, a_policy_set(a_tenant(routes=[A]), a_tenant("globex"))))
    hosts = changed(before, a_policy_set(a_tenant(routes=[A], hosts=("acme.localhost", "acme.example"))))
    assert hosts == {name for name in by_name(before) if name.startswith("routes portero.acme.")}


# -- Kong takes it, and routes as Portero does -----------------------------------------------------------------------

LITERALS: Final = st.text(st.sampled_from("aB1-._~!$&'()+,;=:@[]^|{ \"<>é%?#"), min_size=1, max_size=3).filter(
    lambda text: text.partition(";")[0] not in {"", ".", ".."}
)


def spelled(text: str) -> str:
    """A literal as an operator could write it: whatever might be read otherwise is escaped."""
    return "".join(c if c.isalnum() and c.isascii() else "".join(f"%{b:02X}" for b in c.encode()) for c in text)


SEGMENTS: Final = st.one_of(LITERALS.map(spelled), st.sampled_from(["a", "b", "{x}", "{y}"]))
PATHS: Final = st.lists(SEGMENTS, max_size=3).flatmap(
    lambda parts: st.sampled_from(["", "/", "/*"]).map(lambda end: "/" + "/".join(parts) + (end if parts else end[1:]))
)


def routes_of(paths: list[str]) -> list[RouteSpec]:
    found: dict[object, RouteSpec] = {}
    for n, path in enumerate(paths):
        try:
            shape = parse_route_path(path)
        except ValueError:
            continue
        key = (tuple(None if part.is_parameter else part.text for part in shape[0]), *shape[1:])
        if not (shape[0] and shape[0][0].text in {"function", ".portero", "async-function"}):
            found.setdefault(key, a_route(path, id=f"r{n}"))
    return list(found.values())


def as_kong_sees(target: str) -> str:
    """Kong's normal form: all but reserved characters decoded."""

    def decoded(found: re.Match[bytes]) -> bytes:
        byte = bytes([int(found[1], 16)])
        return found[0].upper() if byte in b"!*'();:@&=+$,/?%#[]" else byte

    return re.sub(rb"%([0-9A-Fa-f]{2})", decoded, target.encode()).decode()


def kongs_choice(routes: list[Entity], host: str, path: str) -> str | None:
    """As both of Kong's routers rank routes by hosts and paths."""
    best: tuple[tuple[Any, ...], str] | None = None
    for route in routes:
        hosts = route.get("hosts") or []
        if hosts and not any(host == one or (one[0] == "*" and host.endswith(one[1:])) for one in hosts):
            continue
        (one,) = route["paths"]
        is_expression = one.startswith("~")
        if not (re.match(one[1:], path) if is_expression else path.startswith(one)):
            continue
        is_plain = bool(hosts) and not any("*" in host for host in hosts)
        rank = (bool(hosts), is_plain, is_expression, route.get("regex_priority", 0) if is_expression else len(one))
        if best is None or rank > best[0]:
            best = (rank, route["name"])
        elif rank == best[0]:
            raise AssertionError(f"Kong may choose {best[1]} or {route['name']}")
    return None if best is None else best[1]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(PATHS, max_size=6),
    st.lists(st.one_of(LITERALS, st.sampled_from(["a", "b"])), max_size=4),
    st.booleans(),
    st.booleans(),
)
def test_kong_chooses_the_route_that_portero_chooses(
    paths: list[str], segments: list[str], slash: bool, bare: bool
) -> None:
    """Whatever the paths, for paths in either spelling; and Kong would take the configuration."""
    policies = a_policy_set(a_tenant(routes=routes_of(paths)))
    read = unwritten(policies)
    assert flaws(read) == []
    kept = "!$&'()*+,;=:@[]" if bare else ""
    raw = "/" + "/".join("".join(c if c in kept else spelled(c) for c in text) for text in segments)
    target = canonical_target((raw + "/" * (slash and bool(segments))).encode())
    assert isinstance(target, Target)
    chosen = kongs_choice(
        read_entities(read).routes, "acme.localhost", as_kong_sees(raw + "/" * (slash and bool(segments)))
    )
    ours = match_routes(policies.tenants["acme"].routes, target)
    assert chosen == (f"portero.acme.route.{ours[0].id}" if ours else "portero.acme.rest")


@pytest.mark.parametrize(
    ("host", "path", "route"),
    [
        ("a.example", "/x", "portero.a.route.r1"),
        ("b.a.example", "/x", "portero.a.route.r1.any2"),
        ("b.a.example", "/", "portero.a.rest.any2"),
        ("c.example", "/x", "portero.b.rest.any1"),
        ("c.example", "/function/x", "portero.b.own.functions.any1"),
        ("c.example", "/.portero/login", "portero.b.own.pages.any1"),
        ("c.example", "/async-function/x", "portero.b.own.async.any1"),
        ("d", "/function/x", "portero-catch-all.rest"),
    ],
)
def test_a_longer_wildcard_goes_before_a_shorter_one(host: str, path: str, route: str) -> None:
    """As tenants are found: exact, then the longest suffix; what operators attach to a tenant is asked for its own."""
    one = a_tenant("a", hosts=("a.example",), routes=[a_route("/x", id="r1")])
    other = a_tenant("b", hosts=())
    policies = a_policy_set(one, other, wildcards={".a.example": one, ".example": other})
    assert flaws(document(policies)) == []
    assert kongs_choice(read_entities(document(policies)).routes, host, path) == route


def test_a_tenant_whose_own_route_takes_everything_has_no_second_one() -> None:
    """``/*`` under a wildcard is the rest already."""
    tenant = a_tenant(hosts=(), routes=[a_route("/*", id="all")])
    policies = a_policy_set(tenant, wildcards={".acme.example": tenant})
    assert flaws(document(policies)) == []
    names = [route["name"] for route in document(policies)["services"][0]["routes"]]
    assert "portero.acme.route.all.any2" in names
    assert "portero.acme.rest.any2" not in names


def test_priorities_fit_into_what_kong_keeps() -> None:
    """32 bits; a path of the greatest length and hosts of the greatest depth included."""
    longest = a_route("/" + "/".join(["a"] * 500) + "/*")
    (group,) = host_groups([], [".a.b.c.d.e.f"])
    assert (group.rank << render_routes._WIDTH) + render_routes._OWN + priority_of(longest) < 2**32
    assert priority_of(longest) < priority_of(a_route("/{x}"))


def test_an_address_may_be_a_host() -> None:
    """IPv4, and IPv6 in brackets."""
    policies = a_policy_set(a_tenant(hosts=("127.0.0.1", "[::1]")))
    assert flaws(document(policies)) == []


def test_a_literal_is_no_expression() -> None:
    """What an operator writes is matched, not run."""
    path = path_of(a_route("/a.b+c%3F(x)"))
    assert path == r"~/a\.b(?:\+|%2B)c%3F(?:\(|%28)x(?:\)|%29)$"


# -- kong.conf -------------------------------------------------------------------------------------------------------


def test_the_first_plugin_starts_the_server_that_serves_them_all() -> None:
    """One process; a socket and a query for each, since Kong reads one plugin of a server."""
    lines = environment_lines(chain=True)
    assert [name for name in lines if name.endswith("_START_CMD")] == ["KONG_PLUGINSERVER_PORTERO_TENANT_START_CMD"]
    assert lines["KONG_PLUGINSERVER_NAMES"] == ",".join(CHAIN)
    assert lines["KONG_PLUGINS"] == "bundled," + ",".join(CHAIN)
    for name in CHAIN:
        upper = name.upper().replace("-", "_")
        assert lines[f"KONG_PLUGINSERVER_{upper}_SOCKET"] == f"/usr/local/kong/{name}.socket"
        assert lines[f"KONG_PLUGINSERVER_{upper}_QUERY_CMD"].endswith(f" --dump {name}")
    assert environment_text(lines).count("\n") == len(lines)


def test_kong_conf_and_the_environment_say_the_same() -> None:
    """Line by line."""
    text = conf_lines(start_cmd=None)
    pairs = [line.split(" = ", 1) for line in text.splitlines() if line and not line.startswith("#")]
    expected = environment_lines(start_cmd=None)
    assert {f"KONG_{name.upper()}": value for name, value in pairs} == expected
    assert not [name for name in expected if name.endswith("START_CMD")], "somebody else runs it"


def test_a_plugin_of_somebody_elses_is_not_served() -> None:
    """A typing mistake is said at once."""
    with pytest.raises(ValueError, match="portero-rback"):
        conf_lines(["portero-rback"])
