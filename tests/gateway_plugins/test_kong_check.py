"""
What ``kong check`` says of a configuration that is not what the policies want, and of what it leaves alone.

Longer than other modules: each rule of Kong's that is written down has the example that breaks it.
"""

from __future__ import annotations

import copy
import json
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any, Final

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway_plugins.kong_check import drift
from gateway_plugins.kong_entities import read_entities
from gateway_plugins.render import render
from gateway_plugins.render_rules import flaws
from policies.tables import PolicySet
from tests.fakes.tenancy import a_policy_set, a_route, a_tenant

WILD: Final = a_tenant("wild", hosts=())
POLICIES: Final = a_policy_set(
    a_tenant(routes=[a_route("/a/{x}", id="a"), a_route("/b", id="b")]), WILD, wildcards={".wild.example": WILD}
)
Document = dict[str, Any]


def rendered(**how: Any) -> Document:
    (text,) = render(POLICIES, **how).values()
    read: Document = yaml.load(text, yaml.CSafeLoader)
    return read


RENDERED: Final = rendered()


def said(document: Document, policies: PolicySet = POLICIES) -> list[str]:
    return drift(policies, json.dumps(document))


def edited() -> Document:
    return copy.deepcopy(RENDERED)


# -- what is the same ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{}, {"chain": True}, {"split": True}, {"split": True, "chain": True}], ids=str)
def test_what_was_rendered_has_not_drifted(how: dict[str, Any]) -> None:
    """In one file or several, one plugin or four."""
    assert drift(POLICIES, *render(POLICIES, **how).values()) == []


LITERAL: Final = st.from_regex(r"[a-z]{1,3}", fullmatch=True)
PATH: Final = st.lists(LITERAL, min_size=1, max_size=3).map(lambda parts: "/x" + "/".join(parts))


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(LITERAL, st.lists(PATH, unique=True, max_size=3), min_size=1, max_size=3))
def test_no_policies_drift_from_themselves(tenants: dict[str, list[str]]) -> None:
    """Render and check agree, whatever the tenants and routes."""
    policies = a_policy_set(
        *(a_tenant(name, routes=[a_route(path, id=f"r{n}") for n, path in enumerate(paths)])
          for name, paths in tenants.items())
    )  # fmt: skip
    (text,) = render(policies).values()
    assert drift(policies, text) == []


def test_order_nesting_ids_and_defaults_say_nothing() -> None:
    """As Kong's dump and decK's write it: flat, referring by id, with every default."""
    flat: Document = {"_format_version": "3.0", "services": [], "routes": [], "plugins": []}
    for n, service in enumerate(reversed(edited()["services"])):
        reference = [{"id": f"s{n}"}, service["name"], {"name": service["name"]}][n % 3]
        url = service.pop("url")
        assert url == "http://127.0.0.1:1"
        address = {"protocol": "http", "host": "127.0.0.1", "port": 1, "path": None}
        for route in reversed(service.pop("routes")):
            extra = {"id": f"r{route['name']}", "path_handling": "v0", "https_redirect_status_code": 426, "snis": None}
            flat["routes"].append(route | extra | {"service": reference, "tags": route["tags"][::-1], "headers": {}})
        for plugin in service.pop("plugins"):
            config = plugin["config"] | {"log": [], "rewrite": []}
            extra = {
                "enabled": True,
                "protocols": ["https", "http", "grpcs", "grpc"],
                "consumer": None,
                "config": config,
            }
            flat["plugins"].append(plugin | extra | {"service": reference})
        flat["services"].append(
            service | address | {"id": f"s{n}", "created_at": 1, "enabled": True, "read_timeout": 60000}
        )
    assert said(flat) == []


# -- what differs ----------------------------------------------------------------------------------------------------


def first(document: Document) -> Document:
    service: Document = document["services"][0]
    return service


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: first(d).update(url="http://functions:80"), "service portero.acme differs: host is functions"),
        (lambda d: first(d).update(retries=5), "retries is 5, expected 0"),
        (lambda d: first(d)["routes"].pop(0), "route portero.acme.own.async is missing; render anew"),
        (lambda d: first(d)["plugins"].pop(1), "plugin portero of service portero.acme is missing"),
        (lambda d: first(d)["plugins"][1].update(enabled=False), "enabled is false, expected true"),
        (
            lambda d: first(d)["plugins"][1].update(protocols=["https"]),
            "protocols is https, expected grpc, grpcs, http, https",
        ),
        (lambda d: first(d)["plugins"][0]["config"].update(access=["return"]), "config.access is not what is rendered"),
        (lambda d: first(d)["plugins"][2]["config"].pop("header_filter"), "config.header_filter is not what is"),
        (lambda d: first(d)["routes"][0].update(methods=["GET"]), "methods is GET, expected none"),
        (lambda d: first(d)["routes"][0].update(tags=[]), "tags is none, expected portero, portero-tenant-acme"),
        (lambda d: first(d)["routes"][3].update(paths=["/a"]), "paths is /a, expected ~/a/[^/]+$"),
        (lambda d: first(d).update(tags=["portero"], name="old"), "service old has the tag portero and no policy"),
        (lambda d: d["services"].pop(0), "service portero.acme is missing"),
        (lambda d: d.update(_format_version="1.1"), '_format_version is not "3.0"'),
        (lambda d: first(d)["routes"].append(first(d)["routes"][0]), "the name stands twice"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_each_difference_is_said_with_what_to_do(change: Any, sentence: str) -> None:
    """One sentence that names the entity; everything else still is as it should be."""
    document = edited()
    change(document)
    found = said(document)
    assert sentence in "\n".join(found)
    assert all(one.endswith(".") for one in found)


def test_another_policy_is_another_configuration() -> None:
    """A route that was taken out of the policy is foreign in the file."""
    (sentence,) = said(edited(), a_policy_set(
        a_tenant(routes=[a_route("/a/{x}", id="a")]), WILD, wildcards={".wild.example": WILD}))  # fmt: skip
    assert sentence.startswith("The route portero.acme.route.b has the tag portero and no policy speaks of it")


def test_a_tenants_file_alone_is_not_the_whole() -> None:
    """What the other files would have brought is missing: one sentence for each, whatever is in it."""
    files = render(POLICIES, split=True)
    assert [one.partition(";")[0] for one in drift(POLICIES, files["tenant-acme.yml"])] == [
        "The service portero.wild is missing",
        "The service portero-catch-all is missing",
    ]


def test_what_differs_alike_is_one_sentence() -> None:
    """A host more is a change of every route of its tenant, and of no other."""
    document = edited()
    for route in first(document)["routes"]:
        route["hosts"] = ["acme.example", "old.example"]
    (sentence,) = said(document)
    assert sentence.startswith(
        f"The routes portero.acme.own.async and {len(first(document)['routes']) - 1} more differ: "
    )


def test_a_route_of_ours_under_somebody_elses_service_is_foreign() -> None:
    """The operator's service is nobody's business, a route that claims to be Portero's is."""
    document = with_route(hosts=["shop.example"], tags=["portero"])
    (sentence,) = said(document)
    assert sentence.startswith("The route shop has the tag portero and no policy speaks of it")


def test_a_tenant_that_has_gone_is_one_sentence() -> None:
    """Its routes and plugins go with its service."""
    (sentence,) = said(edited(), a_policy_set(a_tenant(routes=[a_route("/a/{x}", id="a"), a_route("/b", id="b")])))
    assert sentence.startswith("The service portero.wild has the tag portero and no policy speaks of it")


# -- the operator's own ----------------------------------------------------------------------------------------------


def with_route(**route: Any) -> Document:
    document = edited()
    document["services"].append({"name": "shop", "url": "http://shop", "routes": [{"name": "shop"} | route]})
    return document


@pytest.mark.parametrize(
    "route",
    [
        {"hosts": ["shop.example"], "paths": ["/"]},
        {"hosts": ["shop.example"], "paths": ["/"], "methods": ["GET"]},
        {"paths": ["/shop"]},
        {"hosts": ["acme.localhost"]},
        {"hosts": ["acme.localhost"], "methods": ["GET"]},
        {"hosts": ["*.localhost.example"], "paths": ["/"]},
        {"protocols": ["tcp"], "destinations": [{"port": 9000}]},
    ],
    ids=str,
)
def test_what_is_the_operators_is_left_alone(route: dict[str, Any]) -> None:
    """Other hosts, and routes that Kong asks after the tenants'."""
    document = with_route(**route)
    document["plugins"] = [{"name": "prometheus"}, {"name": "pre-function", "config": {"access": ["return"]}}]
    document["consumers"] = [{"username": "bob", "plugins": [{"name": "request-size-limiting"}]}]
    document["upstreams"] = [{"name": "u"}]
    first(document)["routes"][0]["plugins"] = [{"name": "http-log"}]
    assert said(document) == []


@pytest.mark.parametrize(
    "route",
    [
        {"hosts": ["acme.localhost"], "paths": ["/admin"]},
        {"hosts": ["ACME.localhost:8000"], "paths": ["/"]},
        {"hosts": ["*.localhost"], "paths": ["~/x"]},
        {"hosts": ["acme.*"], "paths": ["/"]},
        {"hosts": ["acme.localhost"], "headers": {"x": ["y"]}},
        {"hosts": ["a.b.wild.example"], "paths": ["/"]},
        {"hosts": ["a.wild.example"], "methods": ["GET"]},
        {"hosts": ["a.wild.example", "b.wild.example"], "snis": ["a.wild.example"]},
        {"hosts": ["*.b.wild.example"], "paths": ["/"]},
        {"hosts": ["*.example"], "paths": ["/"]},
        {"paths": ["/"], "methods": ["GET"], "headers": {"x": ["y"]}},
        {"expression": 'http.path == "/"'},
    ],
    ids=str,
)
def test_a_route_that_would_take_a_tenants_requests_is_said(route: dict[str, Any]) -> None:
    """It would go to somebody's service without being judged."""
    (sentence,) = said(with_route(**route))
    assert "route shop" in sentence


METHODS: Final = st.sampled_from([[], ["GET"]])
HOSTS: Final = ["acme.localhost", "*.localhost", "acme.*", "a.wild.example", "*.wild.example", "*.example", "x.example"]
OPERATORS: Final = st.fixed_dictionaries(
    {
        "hosts": st.lists(st.sampled_from(HOSTS), unique=True, max_size=2),
        "paths": st.sampled_from([[], ["/"], ["~/"], ["/some/where"]]),
        "methods": METHODS,
        "headers": st.sampled_from([{}, {"x": ["y"]}, {"x": ["y"], "z": ["y"]}]),
        "snis": st.sampled_from([[], ["acme.localhost"]]),
    }
).filter(any)


def weight(route: Document) -> tuple[int, ...]:
    """The order in which Kong's default router (``traditional_compatible``) asks, as its source has it."""
    hosts, paths, headers = route.get("hosts") or [], route.get("paths") or [], route.get("headers") or {}
    criteria = sum(bool(route.get(one)) for one in ("hosts", "paths", "methods", "headers", "snis"))
    is_regex = bool(paths) and paths[0].startswith("~")
    is_plain_host = bool(hosts) and not any("*" in host for host in hosts)
    priority = route.get("regex_priority", 0) if is_regex else 0
    return criteria, is_plain_host, len(headers), is_regex, priority, 0 if is_regex or not paths else len(paths[0])


@settings(max_examples=300, deadline=None)
@given(OPERATORS)
def test_whatever_kong_asks_before_a_tenants_last_route_is_said(route: Document) -> None:
    """Of any route of the operator's: the router's own order against what is said."""
    ours = [(one, weight(one)) for service in RENDERED["services"] for one in service["routes"] if one.get("hosts")]
    last = {host: min(w for one, w in ours if host in one["hosts"]) for one, _ in ours for host in one["hosts"]}
    example = {"acme.localhost": ["acme.localhost"], "*.wild.example": ["a.wild.example", "q.wild.example"]}

    def has(host: str) -> bool:
        return not route["hosts"] or any(fnmatchcase(host, one) for one in route["hosts"])

    if any(weight(route) >= last[one] and any(map(has, hosts)) for one, hosts in example.items()):
        assert any("route shop" in sentence for sentence in said(with_route(**route)))


def test_an_address_with_a_port_is_the_address() -> None:
    """Kong takes the port of a host off, also behind the bracket."""
    policies = a_policy_set(a_tenant(hosts=("[::1]",)))
    (text,) = render(policies).values()
    document = yaml.load(text, yaml.CSafeLoader)
    document["routes"] = [{"name": "shop", "hosts": ["[::1]:8000"], "paths": ["/x"]}]
    assert "route shop" in "".join(said(document, policies))


@pytest.mark.parametrize("name", ["proxy-cache", "aws-lambda", "azure-functions", "openwhisk"])
@pytest.mark.parametrize("where", ["global", "service", "route"])
def test_a_plugin_that_answers_before_the_last_lock_is_said(name: str, where: str) -> None:
    """Kong goes on without a plugin whose server is down: what answers by itself would answer unjudged."""
    document = edited()
    plugins = {"global": document, "service": first(document), "route": first(document)["routes"][0]}[where]
    plugins["plugins"] = [*plugins.get("plugins", []), {"name": name}]
    (sentence,) = said(document)
    assert f"plugin {name} of" in sentence
    assert "also while Portero cannot be asked" in sentence
    document = with_route(hosts=["shop.example"], plugins=[{"name": name}])
    document["plugins"] = [{"name": name, "enabled": False}]
    assert said(document) == []


def test_a_second_configuration_of_a_plugin_of_ours_is_said() -> None:
    """Whichever stands last, and whether it has our tag or not."""
    for at in (0, 3):
        document = edited()
        first(document)["plugins"].insert(at, {"name": "pre-function", "config": {"access": ["return"]}})
        assert "stands there twice" in "".join(said(document))


def test_a_name_that_stands_in_two_files_is_said() -> None:
    """They are loaded together: one of the two would be what counts."""
    files = list(render(POLICIES, split=True).values())
    other = {"_format_version": "3.0", "services": [{"name": "portero.acme", "url": "http://functions"}]}
    for texts in ([json.dumps(other), *files], [*files, json.dumps(other)]):
        assert "service portero.acme: the name stands twice" in "".join(drift(POLICIES, *texts))


@pytest.mark.parametrize(
    ("where", "plugin"),
    [
        ("route", {"name": "post-function", "config": {"access": ["return"]}}),
        ("consumers", {"name": "pre-function", "config": {"access": ["return"]}}),
        ("consumer_groups", {"name": "portero", "config": {}}),
        ("plugins", {"name": "pre-function", "service": "portero.acme", "consumer": "bob"}),
    ],
    ids=["on a route", "of a consumer", "of a group", "of both"],
)
def test_a_plugin_that_would_run_instead_of_ours_is_said(where: str, plugin: dict[str, Any]) -> None:
    """Kong runs the nearest configuration of a plugin: theirs would close the route, unless it is switched off."""
    document, plugin = edited(), dict(plugin)
    if where == "route":
        first(document)["routes"][0]["plugins"] = [plugin]
    elif where == "plugins":
        document["plugins"] = [plugin]
    else:
        document[where] = [{"username": "bob", "plugins": [plugin]}]
    (sentence,) = said(document)
    assert "would run instead of Portero's own" in sentence
    plugin["enabled"] = False
    assert said(document) == []


# -- what is no configuration ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "a: b: c",
        "\0",
        "!!python/object/apply:os.system [ls]",
        "[" * 5000,
        "services: 5",
        "services: [5, {routes: 7, plugins: [9]}]",
        "services: [{name: [1], url: 'http://[', tags: 3, routes: [{hosts: 5, paths: {a: b}, protocols: [[]]}]}]",
        "a: &a [*a]",
        "a: &a [1,1,1,1,1,1,1,1]\n" + "".join(f"{b}: &{b} [{f'*{a},' * 8}]\n" for a, b in pairwise("abcdefgh")),
    ],
    ids=["empty", "list", "broken", "NUL", "object", "deep", "number", "numbers", "shapes", "endless", "bomb"],
)
def test_what_is_no_configuration_is_a_sentence(text: str) -> None:
    """And never an exception, whatever stands in the file."""
    assert drift(POLICIES, text)


JSON: Final = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.sampled_from(["portero", "http-log"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["services", "routes", "plugins", "name", "hosts", "paths", "tags", "config", "url",
                             "retries", "consumers", "service", "route", "headers", "methods", "access",
                             "regex_priority", "id"]),
            inner, max_size=4),
    ),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(["services", "routes", "plugins", "consumers", "_format_version"]), JSON))
def test_whatever_stands_in_it_is_read(document: Document) -> None:
    """Random shapes under Kong's names: entities and flaws, no exception."""
    read_entities(document)
    flaws(document)
    assert said(document)


# -- what Kong accepts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("route", "flaw"),
    [
        ({"hosts": ["a.example:80"]}, "without a port"),
        ({"hosts": ["a.*.example"]}, "'*.' before"),
        ({"hosts": ["*.a.*"]}, "'*.' before"),
        ({"paths": ["a"]}, "at its beginning"),
        ({"paths": ["~a"]}, "at its beginning"),
        ({"paths": ["/a//b"]}, "empty segment"),
        ({"paths": ["/a%2"]}, "broken percent-escape"),
        ({"paths": ["/a b"]}, "not for a path"),
        ({"paths": ["/a/../b"]}, "normal form"),
        ({"paths": ["/%61"]}, "normal form"),
        ({"paths": ["~/(a"]}, "no regular expression"),
        ({"paths": ["~/(?=a)"]}, "one of Kong's two engines"),
        ({"paths": ["~/a", "/b"]}, "mixes expressions"),
        ({"paths": ["~/a"], "regex_priority": -1}, "regex_priority -1"),
        ({"name": "a/b", "paths": ["/a"]}, "a name has letters"),
        ({"paths": ["/a"], "tags": ["a,b"]}, "tag 'a,b'"),
        ({"protocols": ["tcp"], "paths": ["/a"]}, "its protocols"),
        ({}, "names no methods"),
    ],
    ids=str,
)
def test_a_route_that_kong_would_refuse_is_a_flaw(route: dict[str, Any], flaw: str) -> None:
    """Each rule by one example that breaks it."""
    service = {"name": "s", "url": "http://a", "routes": [{"name": "r"} | route]}
    (found,) = flaws({"_format_version": "3.0", "services": [service]})
    assert flaw in found


@pytest.mark.parametrize(
    ("document", "flaw"),
    [
        ({"services": [{"name": "s"}]}, "neither url nor host"),
        ({"services": [{"name": "s", "url": "tcp://a:1"}]}, "neither http nor https"),
        ({"services": [{"name": "s", "url": "http://a", "retries": 40000}]}, "retries 40000"),
        ({"services": [{"name": "s", "url": "http://a", "connect_timeout": 0}]}, "connect_timeout 0"),
        ({"services": [{"name": "s", "url": "http://a"}, {"name": "s", "url": "http://b"}]}, "stands twice"),
        ({"plugins": [{"name": "cors"}, {"name": "cors"}]}, "stands there twice"),
        ({"plugins": [{"name": "pre-function", "config": {"access": []}}]}, "no function in any phase"),
        ({"plugins": [{"name": "pre-function", "config": {"access": [5]}}]}, "a function that is no text"),
        ({"plugins": [{"config": {}}]}, "has no name"),
        ({"routes": [{"name": "a", "paths": ["/a"]}, {"name": "b", "paths": ["/a"]}]}, "same requests as route a"),
    ],
    ids=str,
)
def test_what_kong_would_refuse_is_a_flaw(document: Document, flaw: str) -> None:
    """Names, ranges, and what may stand once."""
    (found,) = flaws({"_format_version": "3.0"} | document)
    assert flaw in found
