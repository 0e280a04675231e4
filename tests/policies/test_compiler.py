"""
Documents to tables: what must fit together, every mistake at once, and what the tables hold in the end.

Longer than other modules: every rule of the policy files is held here, with its mistakes.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.compiler import compile_documents, compile_files, compile_with_warnings
from policies.decision import RuleRef
from policies.documents import parse
from policies.errors import PolicyError
from policies.findings import Findings
from policies.policytest import run_tests
from policies.route_compiler import compile_routes
from policies.rule_compiler import RuleInputs, rule_inputs
from policies.scope import Claim, Scope, is_within, overlaps, pattern
from policies.tables import Ceilings, ClientSpec, ColdStart, LoginSpec, Pattern, RoutePart, TenantTable, Timeouts
from policies.tenancy import function_spec
from tests.policies.mistakes import LOGIN, MISFITS
from tests.policies.processor_time import is_in_time, taken_by
from tests.policies.reference import routes_overlap

SURVEY = Path(__file__).parents[2] / "policies" / "examples" / "survey"
HEAD = "version: 1\ntenant: acme\n"
BACKENDS = "version: 1\nbackends:\n  faas: {kind: openfaas, url: http://gateway:8080}\n"
PLATFORM = BACKENDS + "tenants:\n  acme: {hosts: [acme.localhost], backend: faas, namespace: acme}\n"
RULE = "functions: [x], actions: [invoke]"


def folder(acme: str = "", platform: str = PLATFORM, **others: str) -> dict[str, bytes]:
    """A folder: acme's file after its head, the platform's, and other tenants' after theirs."""
    files = {"platform.yaml": platform, "acme.yaml": HEAD + acme}
    files |= {f"{name}.yaml": f"version: 1\ntenant: {name}\n{text}" for name, text in others.items()}
    return {name: text.encode() for name, text in files.items()}


def mistakes_of(files: dict[str, bytes], **options: bool) -> list[str]:
    try:
        compile_files(files, **options)
    except PolicyError as error:
        return [str(mistake) for mistake in error.mistakes]
    return []


def warnings_of(files: dict[str, bytes]) -> list[str]:
    return [str(warning) for warning in compile_with_warnings(parse(files))[1]]


def acme_of(acme: str, platform: str = PLATFORM) -> TenantTable:
    return compile_files(folder(acme, platform)).tenants["acme"]


def two_tenants(acme: str, globex: str, backends: str = BACKENDS) -> str:
    return f"{backends}tenants:\n  acme: {{{acme}}}\n  globex: {{{globex}}}\n"


# --- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MISFITS)
def test_misfit_has_its_line_and_column(name: str) -> None:
    """What a file names wrongly is said at the place where it is named."""
    text, expected = MISFITS[name]
    assert mistakes_of(folder(text)) == [f"acme.yaml:{expected}"]


OURS = "hosts: [a.example], backend: faas, namespace: acme"
THEIRS = "hosts: [g.example], backend: faas, namespace: globex"
FLAWS_OF_BACKENDS = {
    "names run together": (
        "kind: knative, url: 'http://{function}-{namespace}.svc'",
        (
            "30: 'http://{function}-{namespace}.svc': a-b in c and a in b-c would be one; "
            "expected such as http://{function}.{namespace}:8080"
        ),
    ),
    "names run together to be woken": (
        "kind: http, url: http://s, wake_url: 'http://w/{namespace}{function}'",
        (
            "47: 'http://w/{namespace}{function}': a-b in c and a in b-c would be one; "
            "expected such as http://scaler:8080/wake/{namespace}/{function}"
        ),
    ),
    "knative without namespace": (
        "kind: knative, url: 'http://{function}.svc'",
        "30: 'http://{function}.svc': every namespace would be one; expected {namespace} in it",
    ),
    "domain of many": (
        "kind: knative, url: http://gw, domain: '*.fn.example'",
        "49: '*.fn.example' is no domain that a function's name could stand before; expected such as fn.example",
    ),
    "domain that is an address": (
        "kind: knative, url: http://gw, domain: 10.0.0.1",
        "49: '10.0.0.1' is no domain that a function's name could stand before; expected such as fn.example",
    ),
    "wake_url with dot segments": (
        "kind: http, url: http://s, wake_url: 'http://w/../x'",
        (
            "47: 'http://w/../x' has a path with escapes, empty or dot segments; "
            "expected such as http://scaler:8080/wake/{namespace}/{function}"
        ),
    ),
    "a path of a gateway": (
        "kind: openfaas, url: http://gw/api",
        "31: 'http://gw/api' has a path; expected scheme, host and port alone",
    ),
    "a service with dot segments": (
        "kind: http, url: 'http://s/a/../{function}'",
        (
            "27: 'http://s/a/../{function}' has a path with escapes, empty or dot segments; "
            "expected such as http://legacy:8080/api or http://{function}.{namespace}:8080"
        ),
    ),
    "a service with a query": (
        "kind: http, url: 'http://s/a?b={function}'",
        "27: 'http://s/a?b={function}' has a query; expected none",
    ),
    "a service of a namespace": (
        "kind: http, url: 'http://{namespace}.svc'",
        (
            "27: 'http://{namespace}.svc' names the namespace alone; "
            "expected such as http://legacy:8080/api or http://{function}.{namespace}:8080"
        ),
    ),
    "names run together in a path": (
        "kind: http, url: 'http://s/{namespace}-{function}'",
        (
            "27: 'http://s/{namespace}-{function}': a-b in c and a in b-c would be one; "
            "expected such as http://legacy:8080/api or http://{function}.{namespace}:8080"
        ),
    ),
    "wake_url with user": (
        "kind: http, url: http://s, wake_url: 'http://u:secret@w'",
        "47: the address names a user before its host; expected none, and credentials: NAME of a secret",
    ),
    "credentials for nobody": (
        "kind: http, url: http://s, credentials: scaler",
        "37: credentials go to wake_url and nowhere else; expected wake_url beside them",
    ),
    "probe nobody reads alike": (
        "kind: openfaas, url: http://gw, probe: /a/../b",
        "49: '/a/../b' is not a path such as /healthz (no query, escape or dot segment), or off",
    ),
}
"""An entry -> column and message."""
ONE_PLATFORM = {
    "the port of the scheme": (
        "kind: http, url: 'http://{function}.{namespace}.svc'",
        "kind: http, url: 'http://{function}.{namespace}.svc:80'",
    ),
    "case": (
        "kind: knative, url: 'http://{function}.{namespace}.svc'",
        "kind: knative, url: 'http://{function}.{namespace}.SVC/'",
    ),
    "two ingresses of a cluster": (
        "kind: knative, url: http://one, domain: a.example, cluster: in-cluster",
        "kind: knative, url: http://two, domain: b.example, cluster: in-cluster",
    ),
    "the functions themselves": (
        "kind: openfaas, url: http://gw, direct_url: 'http://{function}.{namespace}:8080'",
        "kind: http, url: 'http://{function}.{namespace}:8080'",
    ),
}
"""Two entries by which one function of a namespace is reached."""
PLATFORM_MISTAKES = {
    "host of two tenants": (
        two_tenants(OURS, "hosts: [b.example, a.example], backend: faas, namespace: globex"),
        "platform.yaml:6:31: the host 'a.example' belongs to the tenant 'acme' already (platform.yaml:5)",
    ),
    "wildcard of two tenants": (
        two_tenants(
            "hosts: ['*.a.example'], backend: faas, namespace: acme",
            "hosts: ['*.a.example'], backend: faas, namespace: globex",
        ),
        "platform.yaml:6:20: the host '*.a.example' belongs to the tenant 'acme' already (platform.yaml:5)",
    ),
    "host twice": (
        two_tenants("hosts: [a.example, a.example], backend: faas, namespace: acme", THEIRS),
        "platform.yaml:5:29: the host 'a.example' belongs to this tenant already (platform.yaml:5)",
    ),
    "host in capitals": (
        two_tenants(OURS.replace("a.example", "A.example"), THEIRS),
        "platform.yaml:5:18: 'A.example' is not how the host is spelt on the wire; write 'a.example'",
    ),
    "host with port": (
        two_tenants(OURS.replace("a.example", "'a.example:80'"), THEIRS),
        "platform.yaml:5:18: 'a.example:80' is not how the host is spelt on the wire; write 'a.example'",
    ),
    "host with letters of elsewhere": (
        two_tenants(OURS.replace("a.example", "bücher.example"), THEIRS),
        "platform.yaml:5:18: 'bücher.example' is not how the host is spelt on the wire; write 'xn--bcher-kva.example'",
    ),
    "any host": (
        two_tenants(OURS.replace("a.example", "'*'"), THEIRS),
        (
            "platform.yaml:5:18: '*' is no host; expected such as app.acme.example or *.acme.example, "
            "without scheme, port and path"
        ),
    ),
    "wildcard in the middle": (
        two_tenants(OURS.replace("a.example", "a.*.example"), THEIRS),
        (
            "platform.yaml:5:18: 'a.*.example' is no host; expected such as app.acme.example or *.acme.example, "
            "without scheme, port and path"
        ),
    ),
    "wildcard before an address": (
        two_tenants(OURS.replace("a.example", "'*.127.0.0.1'"), THEIRS),
        "platform.yaml:5:18: '*.127.0.0.1' can never match: nothing stands before an address",
    ),
    "unknown backend": (
        two_tenants(OURS, THEIRS.replace("faas", "fass")),
        "platform.yaml:6:41: the backend 'fass' is unknown; did you mean 'faas'?",
    ),
    "namespace shared, nobody's owned": (
        two_tenants(OURS, THEIRS.replace("globex", "acme")),
        [
            "platform.yaml:5:56: shares its namespace with 'globex'; expected owns: [...] with functions of its own",
            "platform.yaml:6:58: shares its namespace with 'acme'; expected owns: [...] with functions of its own",
        ],
    ),
    "namespace shared, one's owned": (
        two_tenants(OURS + ", owns: ['a-*']", THEIRS.replace("globex", "acme")),
        "platform.yaml:6:58: shares its namespace with 'acme'; expected owns: [...] with functions of its own",
    ),
    "namespace shared under two ports that are one": (
        two_tenants(
            OURS.replace("faas", "web"),
            THEIRS.replace("faas", "other").replace("globex", "acme"),
            BACKENDS + "  web: {kind: openfaas, url: http://gw}\n  other: {kind: openfaas, url: 'http://gw.:80'}\n",
        ),
        [
            "platform.yaml:7:55: shares its namespace with 'globex'; expected owns: [...] with functions of its own",
            "platform.yaml:8:59: shares its namespace with 'acme'; expected owns: [...] with functions of its own",
        ],
    ),
    "namespace shared under two names of one platform": (
        two_tenants(
            OURS,
            THEIRS.replace("faas", "other").replace("globex", "acme"),
            BACKENDS + "  other: {kind: openfaas, url: 'http://GATEWAY:8080/'}\n",
        ),
        [
            "platform.yaml:6:56: shares its namespace with 'globex'; expected owns: [...] with functions of its own",
            "platform.yaml:7:59: shares its namespace with 'acme'; expected owns: [...] with functions of its own",
        ],
    ),
    "what is owned overlaps": (
        two_tenants(OURS + ", owns: ['a-*']", THEIRS.replace("globex", "acme") + ", owns: [b, a-x]"),
        "platform.yaml:6:74: meets a-* of the tenant 'acme' (platform.yaml:5); expected no overlap",
    ),
    "everything owned": (
        two_tenants(OURS + ", owns: [a]", THEIRS.replace("globex", "acme") + ", owns: ['*']"),
        "platform.yaml:5:69: meets * of the tenant 'globex' (platform.yaml:6); expected no overlap",
    ),
    "backend with path": (
        two_tenants(OURS, THEIRS, BACKENDS.replace("8080", "8080/function")),
        "platform.yaml:3:31: 'http://gateway:8080/function' has a path; expected scheme, host and port alone",
    ),
    "backend with user": (
        two_tenants(OURS, THEIRS, BACKENDS.replace("gateway:", "u:p@gateway:")),
        (
            "platform.yaml:3:31: the address names a user before its host; "
            "expected none, and credentials: NAME of a secret"
        ),
    ),
    "direct_url without function": (
        two_tenants(OURS, THEIRS, BACKENDS.replace("8080}", "8080, direct_url: 'http://{namespace}'}")),
        "platform.yaml:3:64: 'http://{namespace}' is no template; expected such as http://{function}.{namespace}:8080",
    ),
    "direct_url of all namespaces": (
        two_tenants(OURS, THEIRS, BACKENDS.replace("8080}", "8080, direct_url: 'http://{function}:8080'}")),
        [
            f"platform.yaml:{at}: its functions have the addresses of those of {other}; expected {{namespace}} in the "
            "backend's url, or owns: [...] with functions of its own"
            for at, other in (("5:56", "'globex'"), ("6:58", "'acme'"))
        ],
    ),
    "direct_url with more": (
        two_tenants(OURS, THEIRS, BACKENDS.replace("8080}", "8080, direct_url: 'http://{function}.{tenant}'}")),
        (
            "platform.yaml:3:64: 'http://{function}.{tenant}' is no template; "
            "expected such as http://{function}.{namespace}:8080"
        ),
    ),
    **{
        title: (
            two_tenants(
                OURS,
                THEIRS.replace("faas", "other"),
                f"version: 1\nbackends:\n  faas: {{{text}}}\n  other: {{kind: openfaas, url: http://elsewhere}}\n",
            ),
            f"platform.yaml:3:{expected}",
        )
        for title, (text, expected) in FLAWS_OF_BACKENDS.items()
    },
    **{
        f"namespace shared: {title}": (
            two_tenants(
                OURS,
                THEIRS.replace("faas", "other").replace("globex", "acme"),
                f"version: 1\nbackends:\n  faas: {{{ours}}}\n  other: {{{theirs}}}\n",
            ),
            [
                f"platform.yaml:{at}: shares its namespace with {other}; expected owns: [...] with functions of its own"
                for at, other in (("6:56", "'globex'"), ("7:59", "'acme'"))
            ],
        )
        for title, (ours, theirs) in ONE_PLATFORM.items()
    },
    **{
        f"everything reached through http: {kind}": (
            two_tenants(
                OURS,
                THEIRS.replace("faas", "other"),
                f"version: 1\nbackends:\n  faas: {{kind: {kind}, url: http://gw:8080}}\n"
                "  other: {kind: http, url: 'http://gw.:8080/'}\n",
            ),
            (
                "platform.yaml:7:41: other tenants reach the same service by this url: "
                "expected {function} in it, or another kind"
            ),
        )
        for kind in ("openfaas", "knative, domain: fn.example")
    },
    "private host that is none": (
        two_tenants(OURS + ", private_hosts: ['https://id']", THEIRS),
        "platform.yaml:5:78: 'https://id' is no host in the spelling of the wire; expected such as id.internal.example",
    ),
    "trusted peer that is none": (
        two_tenants(OURS, THEIRS) + "trusted_peers: [10.0.0.1/8]\n",
        (
            "platform.yaml:7:17: '10.0.0.1/8' is no network; expected such as 10.0.0.0/8 or 2001:db8::/32; "
            "did you mean 10.0.0.0/8?"
        ),
    ),
    "burst without rate": (
        two_tenants(OURS + ", ceilings: {burst: 7}", THEIRS),
        "platform.yaml:5:73: burst belongs to rate; expected rate beside it",
    ),
    "tenant without file": (
        two_tenants(OURS, THEIRS) + f"  initech: {{{THEIRS.replace('g.', 'i.').replace('globex', 'initech')}}}\n",
        "platform.yaml:7:3: the tenant 'initech' has no file; expected one that says tenant: initech",
    ),
}


@pytest.mark.parametrize("name", PLATFORM_MISTAKES)
def test_platform_mistake_has_its_line_and_column(name: str) -> None:
    """What keeps tenants apart is judged before any of their own files is believed."""
    platform, expected = PLATFORM_MISTAKES[name]
    assert mistakes_of(folder("", platform, globex="")) == ([expected] if isinstance(expected, str) else expected)


def test_file_of_no_tenant() -> None:
    """A tenant exists because the platform's operator says so, never because a file says so."""
    assert mistakes_of(folder(globex="")) == [
        "globex.yaml:2:9: the tenant 'globex' is unknown; expected one of acme (platform.yaml names the tenants)"
    ]


def test_second_file_of_a_tenant() -> None:
    """One tenant, one file: two could say two things."""
    files = folder() | {"zz.yaml": HEAD.encode()}
    assert mistakes_of(files) == ["zz.yaml:2:9: the tenant 'acme' has a file already (acme.yaml:2)"]


def test_issuer_of_two_tenants_needs_a_claim() -> None:
    """Where two tenants share issuer and audience, a claim must say what tenant a token is for."""
    platform = two_tenants(OURS, THEIRS)
    expected = "expected tenant_claim, which says what tenant a token is for, or another audience"
    shared = LOGIN.replace("audiences", "tenant_claim: org, audiences")
    assert mistakes_of(folder(LOGIN, platform, globex=shared)) == [
        f"acme.yaml:3:34: the issuer and the audience 'a' are another tenant's, too (globex.yaml:3): {expected}"
    ]
    assert mistakes_of(folder(shared, platform, globex=shared)) == []
    assert mistakes_of(folder(LOGIN, platform, globex=LOGIN.replace("[a]", "[b]"))) == []


def test_http_issuer_on_loopback_is_for_the_demo() -> None:
    """Plain http is let through where nobody else can listen, and only when asked for."""
    for host in ("127.0.0.1:8080", "localhost", "[::1]:8080", "id.localhost"):
        files = folder(LOGIN.replace("https://id.example", f"http://{host}"))
        assert len(mistakes_of(files)) == 1
        assert mistakes_of(files, allow_loopback_http=True) == []
    for host in ("127.0.0.1.example", "10.0.0.1", "localhost.example", "0.0.0.0"):
        files = folder(LOGIN.replace("https://id.example", f"http://{host}"))
        assert len(mistakes_of(files, allow_loopback_http=True)) == 1


@pytest.mark.parametrize(
    "use",
    [
        "functions: {FN: {}}",
        "routes: [{id: r, path: /a, function: FN}]",
        "roles: {a: {allow: [{functions: [FN], actions: [invoke]}]}}",
        "deny: [{id: d, functions: [FN], actions: [invoke]}]",
        "limits: [{id: l, per: tenant, rate: 1/s, functions: [FN]}]",
    ],
)
@pytest.mark.parametrize("name", ["other", "acm", "acme-"])
def test_nothing_reaches_outside_of_what_is_owned(use: str, name: str) -> None:
    """In a shared namespace no place of a tenant's file can name a function of another."""
    platform = PLATFORM.replace("namespace: acme}", "namespace: acme, owns: ['acme-*', tool]}")
    name = name if "routes" not in use else name.rstrip("-")
    wide = f"'{name}*'" if "routes" not in use and name != "acme-" else name.rstrip("-")
    (mistake,) = mistakes_of(folder(use.replace("FN", wide), platform))
    assert "acme-*, tool" in mistake
    for inside in ("acme-a", "tool", "'acme-*'", "'acme-x*'")[: 2 if "routes" in use else 4]:
        assert mistakes_of(folder(use.replace("FN", inside), platform)) == []


def test_star_ends_where_owning_ends() -> None:
    """``*`` of a tenant that owns a part of a namespace means that part, in functions, rules and limits."""
    text = (
        "functions: {'*': {access: public, i_mean_all: true}, acme-x: {}}\n"
        "deny: [{id: d, functions: ['*'], actions: [invoke]}]\n"
        "limits: [{id: l, per: tenant, rate: 1/s, functions: ['*']}]\n"
    )
    table = acme_of(text, PLATFORM.replace("namespace: acme}", "namespace: acme, owns: ['acme-*', tool]}"))
    assert function_spec(table.functions, "acme-y").is_public
    assert function_spec(table.functions, "tool").is_public
    assert not function_spec(table.functions, "acme-x").is_public
    assert not function_spec(table.functions, "other").is_public
    assert table.owns is not None
    assert inputs_of(text, table.owns).deny[0].functions == table.owns
    assert table.limits[0].functions == (Pattern("acme-", is_prefix=True), Pattern("tool", is_prefix=False))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(
            "roles: {" + ", ".join(f"r{i}: {{includes: [r{i + 1}]}}" for i in range(20_000)) + "}", id="chain"
        ),
        pytest.param(
            "roles: {"
            + ", ".join(f"r{i}: {{includes: [{', '.join(f'r{j}' for j in range(300))}]}}" for i in range(300))
            + "}",
            id="everything includes everything",
        ),
        pytest.param(
            "bindings: [" + ", ".join(f"{{id: b{i}, roles: [x{i}], groups: [g]}}" for i in range(5000)) + "]\n"
            "roles: {" + ", ".join(f"r{i}: {{}}" for i in range(5000)) + "}",
            id="many unknown names among many",
        ),
        pytest.param(
            "routes: ["
            + ", ".join(
                f"{{id: r{i}, path: /a, function: f, methods: [X{'-'.join('ABCDEFGHIJ'[int(d)] for d in str(i))}]}}"
                for i in range(5000)
            )
            + "]\nroles: {a: {includes: [a]}}",
            id="many routes of one path",
        ),
        pytest.param(
            "identity: ["
            + ", ".join(
                f"{{name: p{i}, issuer: https://id.example, audiences: [a], algorithms: [RS256]}}"
                for i in range(20_000)
            )
            + "]",
            id="many providers of one issuer",
        ),
        pytest.param(
            "identity: ["
            + ", ".join(
                f"{{name: p{i}, issuer: https://id.example/{i}, audiences: [a], algorithms: [RS256]}}"
                for i in range(8000)
            )
            + "]\nbindings: [{id: b, roles: [], subjects: ["
            + ", ".join(f'"p7999|{i}"' for i in range(50_000))
            + "]}]",
            id="many subjects of many providers",
        ),
    ],
)
def test_hostile_folder_is_judged_in_time(text: str) -> None:
    """A tenant's editor cannot keep the check busy: what grows, grows no faster than the file."""
    found: list[str] = []
    assert is_in_time(5.0, lambda: taken_by(lambda: found.extend(mistakes_of(folder(text + "\n")))))
    assert found


def letters(number: int) -> str:
    """A method of its own for each number below 10,000."""
    return "".join(chr(65 + int(digit)) for digit in f"{number:04}")


def listed(texts: Iterable[str]) -> str:
    return "[" + ", ".join(texts) + "]"


TOO_MUCH = {
    "functions times actions times methods": (
        "deny: [{id: d, functions: "
        + listed(f"f{i}" for i in range(200))
        + ', actions: ["*"], methods: '
        + listed(map(letters, range(200)))
        + "}]",
        "3:8: the rules up to here name more than 200000 functions times actions times methods",
    ),
    "roles times methods": (
        "roles: {m: {allow: [{functions: [f], actions: [invoke], methods: "
        + listed(map(letters, range(1000)))
        + "}]}, "
        + ", ".join(f"r{i}: {{allow: [{{functions: [f], actions: [invoke]}}]}}" for i in range(1000))
        + "}",
        "3:1: rules for any method times the methods that others name come to more than 200000",
    ),
    "roles": (
        "roles: {" + ", ".join(f"r{i}: {{includes: [r{i + 1}]}}" for i in range(60_000)) + ", r60000: {}}",
        "3:1: 60001 roles, which 0 subjects, groups and others hold, are too many together",
    ),
    "conditions of one function": (
        "deny: "
        + listed(f"{{id: d{i}, functions: [f*], actions: [invoke], when: path == '/{i}'}}" for i in range(2000)),
        "conditions of 6000 words and signs can meet in one request for 'f*'; expected at most 5000",
    ),
    "conditions of a function and its prefixes": (
        "roles: {r: {allow: "
        + listed(
            f"{{functions: [{'a*' if i % 2 else 'ab'}], actions: ['*'], when: path == '/{i}'}}" for i in range(2000)
        )
        + "}}",
        "conditions of 6000 words and signs can meet in one request for 'ab'; expected at most 5000",
    ),
    "a macro in each of many conditions": (
        "deny: "
        + listed(
            f"{{id: d{i}, functions: [f], actions: [invoke], when: 'claims.a.all(x, x == {i})'}}" for i in range(50)
        ),
        "can meet in one request for 'f'",
    ),
    "networks": (
        "deny: [{id: d, functions: [f], actions: [invoke], when: {source_ip: "
        + listed(f"10.0.{i // 256}.{i % 256}" for i in range(6000))
        + "}}]",
        "conditions of 6005 words",
    ),
    "limits": (
        "limits: " + listed(f"{{id: l{i}, per: ip, functions: [f{i}], rate: 1/s}}" for i in range(501)),
        "501 limits; expected at most 500",
    ),
    "limits of one function": (
        "limits: "
        + listed(f"{{id: l{i}, per: ip, rate: 1/s}}" for i in range(16))[:-1]
        + ", "
        + listed(f"{{id: m{i}, per: ip, functions: [f*], concurrent: 1}}" for i in range(17))[1:],
        "33 limits apply to 'f*' at once; expected at most 32",
    ),
    "functions of limits": (
        "limits: [{id: l, per: ip, rate: 1/s, functions: " + listed(f"f{i}" for i in range(2001)) + "}]",
        "more than 2000 functions in all limits together",
    ),
    "shapes of routes": (
        "routes: "
        + listed(
            f'{{id: r{i}, path: "/{"/".join(f"{{p{j}}}" if i >> j & 1 else "a" for j in range(8))}", function: f}}'
            for i in range(201)
        ),
        "places literals and parameters in yet another way; expected at most 200 ways",
    ),
    "methods of one path": (
        "routes: " + listed(f"{{id: r{i}, path: /a, function: f, methods: [{letters(i)}]}}" for i in range(65)),
        "more than 64 methods of one path",
    ),
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_no_tenant_asks_too_much_of_the_process_of_all(name: str) -> None:
    """What a rule multiplies, and what every request would have to look through, is bounded at load."""
    text, expected = TOO_MUCH[name]
    found: list[list[str]] = []
    assert is_in_time(5.0, lambda: taken_by(lambda: found.append(mistakes_of(folder(text + "\n")))))
    assert len(found[0]) == 1
    assert expected in found[0][0]


def test_what_a_tenant_may_ask_is_plenty() -> None:
    """Hundreds of limits, routes and conditions that do not meet in one request are nothing to refuse."""
    text = "limits: " + listed(f"{{id: l{i}, per: ip, functions: [f{i}], rate: 1/s}}" for i in range(400))
    text += "\ndeny: " + listed(
        f"{{id: d{i}, functions: [f{i}], actions: ['*'], when: 'claims.a.all(x, x == {i})'}}" for i in range(400)
    )
    text += "\nroutes: " + listed(f'{{id: r{i}, path: "/a{i}/{{b}}/c", function: f{i}}}' for i in range(3000))
    assert mistakes_of(folder(text + "\n")) == []


def test_no_tenant_has_the_platforms_secrets() -> None:
    """A tenant named as the folder of the platform's secrets could send them to a provider of its own."""
    files = {"platform.yaml": PLATFORM.replace("acme:", "platform:").encode()}
    files["platform_.yaml"] = b"version: 1\ntenant: platform\n"
    assert mistakes_of(files) == [
        "platform.yaml:5:3: the name 'platform' is Portero's own: the platform's secrets stand in a folder of that name"
    ]


def test_a_star_written_often_is_one() -> None:
    """``*`` times what a tenant owns, times as often as it is written, would be a file of millions."""
    owns = listed(f"f{i}" for i in range(300))
    platform = PLATFORM.replace("namespace: acme}", f"namespace: acme, owns: {owns}}}")
    text = "deny: [{id: d, functions: " + listed(['"*"'] * 20_000) + ", actions: [invoke]}]\n"
    assert len(inputs_of(text, acme_of("", platform).owns).deny[0].functions) == 300


def test_every_mistake_of_every_file_at_once() -> None:
    """Mistakes of form in one file do not hide what is wrong in the others."""
    platform = two_tenants(OURS, THEIRS).replace("faas, namespace: acme", "fass, namespace: acme")
    files = folder("roles: {a: {includes: [b]}}\nlimits: [{id: l, per: ip}]\n", platform, globex="rolse: {}\n")
    assert [mistake.split(" ")[0] for mistake in mistakes_of(files)] == [
        "acme.yaml:3:24:",
        "acme.yaml:4:10:",
        "globex.yaml:3:1:",
        "platform.yaml:5:39:",
    ]


WHO = "39: expected provider and subject, or service_account, or api_key; without a caller leave as out"


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("as: {provider: p, subject: s}, expect: allow", ["50: the provider 'p' is unknown; expected one of login"]),
        ("as: {service_account: ci}, expect: allow", ["57: the service account 'ci' is unknown; none is defined"]),
        ("as: {provider: login}, expect: allow", [WHO]),
        ("as: {groups: [a]}, expect: allow", [WHO]),
        (
            "as: {provider: login, subject: s, service_account: ci}, expect: allow",
            [WHO, "86: the service account 'ci' is unknown; none is defined"],
        ),
        ("as: {api_key: k}, expect: allow", ["49: the API key 'k' is unknown; none is defined"]),
        (
            "as: {service_account: ci, api_key: k}, expect: allow",
            [
                WHO,
                "57: the service account 'ci' is unknown; none is defined",
                "70: the API key 'k' is unknown; none is defined",
            ],
        ),
        ("expect: deny, reason: rate-limit", ["57: the reason 'rate-limit' is unknown; did you mean 'rate-limited'?"]),
        ("expect: allow, reason: x", ["50: an allow has no reason; expected one beside a refusal only"]),
    ],
)
def test_cases_say_who_asks_and_what_is_expected(case: str, expected: list[str]) -> None:
    """A test that could not fail, or not pass, is a mistake."""
    text = f"tenant: acme\ncases: [{{name: a, request: GET /, {case}}}]\n"
    found = mistakes_of(folder(LOGIN) | {"acme_test.yaml": text.encode()})
    assert found == [f"acme_test.yaml:2:{mistake}" for mistake in expected]


def test_test_file_of_no_tenant() -> None:
    """Tests of a tenant that does not exist would never run."""
    files = folder() | {"x_test.yaml": b"tenant: x\ncases: [{name: a, request: GET /, expect: allow}]\n"}
    assert mistakes_of(files) == ["x_test.yaml:1:9: the tenant 'x' is unknown; expected one of acme"]


def test_a_mistake_is_told_once() -> None:
    """A function that is its own fallback is not told to find one without a fallback, too."""
    text = "functions: {web: {cold_start: {overflow: fallback, fallback: web}}}\n"
    assert mistakes_of(folder(text)) == ["acme.yaml:3:62: a function cannot be its own fallback"]


# --- warnings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"roles: {{a: {{allow: [{{{RULE}}}]}}}}\n", "3:9: the role 'a' is bound to nobody"),
        (
            LOGIN + "roles: {a: {includes: []}}\nbindings: [{id: b, roles: [a], groups: [g]}]\n",
            "4:9: the role 'a' allows nothing",
        ),
        (
            f"roles: {{a: {{allow: [{{{RULE}}}]}}}}\nbindings: [{{id: b, roles: [a]}}]\n",
            "4:12: the binding 'b' names nobody",
        ),
        (
            "mode: {shadow: [identity]}\n",
            (
                "3:16: shadow: [identity] lets callers through who did not say who they are; use it for hours, not for "
                "days; without a wakes limit they wake nothing"
            ),
        ),
        (
            f"deny: [{{id: d, {RULE}, methods: [GET, POST]}}]\n",
            "3:60: HEAD is not denied, and most functions answer it as they answer GET; add it if it is meant",
        ),
        (
            "routes: [{id: r, path: /r, function: x, https_only: true}]\n",
            "3:53: /function/x reaches the same function without https; add direct: false to it",
        ),
        (
            "functions: {web: {cold_start: {max_held: 5, max_held_per_caller: 6}}}\n",
            "3:66: max_held is 5: a caller can never have 6",
        ),
        (
            "functions: {web: {cold_start: {max_held_bytes: 1KiB, max_held_bytes_per_caller: 1MiB}}}\n",
            "3:81: max_held_bytes is 1KiB: a caller can never have 1MiB",
        ),
        (
            "functions: {web: {async: {callbacks: [hooks.example, 10.0.0.1]}}}\n",
            "3:54: nothing is ever delivered to 10.0.0.1: it is no address that everybody can reach",
        ),
        (
            "functions: {web: {async: {callbacks: [localhost]}}}\n",
            "3:39: nothing is ever delivered to localhost: it is no address that everybody can reach",
        ),
    ],
)
def test_what_loads_and_is_hardly_meant_is_told(text: str, expected: str) -> None:
    """A warning names its place as a mistake does, and does not keep the policy from loading."""
    assert warnings_of(folder(text)) == [f"acme.yaml:{expected}"]


def test_included_role_of_a_bound_role_is_bound() -> None:
    """Roles that are there to be included are no mistake, at any depth."""
    text = (
        LOGIN + f"roles: {{a: {{includes: [b]}}, b: {{includes: [c]}}, c: {{allow: [{{{RULE}}}]}}}}\n"
        "bindings: [{id: b, roles: [a], groups: [g]}]\n"
    )
    assert warnings_of(folder(text)) == []


def test_platform_warnings() -> None:
    """A host taken out of another tenant's wildcard, and peers that are everybody, are told."""
    platform = two_tenants(OURS.replace("a.example", "'*.a.example'"), THEIRS.replace("g.example", "x.a.example"))
    assert warnings_of(folder("", platform + "trusted_peers: ['::/0']\n", globex="")) == [
        "platform.yaml:6:20: the host 'x.a.example' is taken out of *.a.example, which belongs to the tenant 'acme'",
        "platform.yaml:7:17: ::/0 lets everybody say what address and scheme a request comes from",
    ]


# --- what the tables hold -------------------------------------------------------------------------------------------


def test_examples_compile_without_a_warning() -> None:
    """The survey's files, which the demo runs on, are sound."""
    files = {path.name: path.read_bytes() for path in SURVEY.iterdir()}
    policies, warnings = compile_with_warnings(parse(files))
    assert warnings == []
    assert run_tests(policies, parse(files), now=0.0).mistakes == []
    assert sorted(policies.tenants) == ["acme", "globex"]
    assert policies.hosts["acme.localhost"] is policies.tenants["acme"]
    for name in ("survey-web", "survey-submit"):
        assert function_spec(policies.tenants["acme"].functions, name).is_public
    for name in ("survey-report", "survey-stream"):
        assert not function_spec(policies.tenants["acme"].functions, name).is_public


def test_examples_can_be_pointed_elsewhere_by_text() -> None:
    """Issuer and backend stand in one form each, so that a copy of the files can name others."""
    text = {path.name: path.read_text() for path in SURVEY.iterdir()}
    assert {name: body.count("issuer: https://id.example\n") for name, body in text.items() if "issuer" in body} == {
        "acme.yaml": 1,
        "globex.yaml": 1,
    }
    assert text["platform.yaml"].count("url: http://gateway.openfaas:8080\n") == 1
    moved = {
        name: body.replace("issuer: https://id.example", "issuer: http://127.0.0.1:9001")
        .replace("url: http://gateway.openfaas:8080", "url: http://127.0.0.1:9002")
        .encode()
        for name, body in text.items()
    }
    policies = compile_files(moved, allow_loopback_http=True)
    assert policies.backends["faas"].url == "http://127.0.0.1:9002"
    assert set(policies.tenants["acme"].providers_by_issuer) == {"http://127.0.0.1:9001"}


def test_platform_becomes_tables() -> None:
    """Hosts, wildcards, ceilings and backends stand where the hot path looks them up."""
    platform = BACKENDS.replace("8080}", "8080/, credentials: admin}") + (
        "tenants:\n  acme:\n    hosts: [a.example, '*.a.example']\n    backend: faas\n    namespace: ns\n"
        "    ceilings: {rate: 30/m, burst: 7, wakes: 1/h, held: 5, held_bytes: 1KiB}\ntrusted_peers: [10.0.0.0/8]\n"
    )
    policies = compile_files(folder("", platform))
    acme = policies.tenants["acme"]
    assert policies.hosts == {"a.example": acme}
    assert policies.wildcard_hosts == {".a.example": acme}
    assert policies.trusted_peers == ("10.0.0.0/8",)
    assert (policies.backends["faas"].url, policies.backends["faas"].credentials) == ("http://gateway:8080", "admin")
    assert (acme.namespace, acme.backend, acme.owns) == ("ns", "faas", None)
    rate, wakes = acme.ceilings.rate, acme.ceilings.wakes
    assert rate is not None
    assert (rate.rate_per_s, rate.burst, rate.quota, rate.window_s, rate.where) == (0.5, 7, 30, 60, "platform.yaml:9")
    assert wakes is not None
    assert (wakes.wakes_per_s, wakes.burst, wakes.quota, wakes.window_s) == (1 / 3600, 1, 1, 3600)
    assert (acme.ceilings.held, acme.ceilings.held_bytes) == (5, 1024)


def test_defaults_of_a_silent_tenant() -> None:
    """A tenant's file without anything: nothing public, nobody known, the platform's usual ceilings."""
    acme = acme_of("")
    assert not acme.is_disabled
    assert acme.shadow == frozenset()
    assert (acme.providers, acme.service_accounts, acme.limits) == ((), (), ())
    assert acme.ceilings == Ceilings()
    assert not function_spec(acme.functions, "x").is_public
    assert inputs_of("") == ([], [], [])


@pytest.mark.parametrize(
    ("mode", "is_disabled", "shadow"),
    [("enforce", False, set()), ("disabled", True, set()), ("{shadow: [limits, policy]}", False, {"limits", "policy"})],
)
def test_mode(mode: str, is_disabled: bool, shadow: set[str]) -> None:
    """Enforced, switched off, or watched only."""
    acme = acme_of(f"mode: {mode}\n")
    assert (acme.is_disabled, set(acme.shadow)) == (is_disabled, shadow)


def test_provider_and_account_become_specs() -> None:
    """What may vouch for callers stands in the table as written, with what the platform adds."""
    text = (
        "identity:\n  - {name: p, issuer: 'https://id.example/', audiences: [a, b], algorithms: [EdDSA], "
        "tenant_claim: org, claims: {groups: r.g, email: m, name: n}, email_domains: [acme.example], "
        "jwks_uri: 'https://id.example/keys?x=1', max_token_lifetime: 1h, "
        "login: {client_id: c, client_secret: s, scopes: [openid, email]}}\n"
        "service_accounts: [{name: ci, public_keys: [new.pem, old.pem], legacy_no_audience: true, groups: [g]}]\n"
    ).replace("?x=1", "")
    platform = PLATFORM.replace("namespace: acme}", "namespace: acme, private_hosts: [id.example]}")
    acme = acme_of(text, platform)
    (provider,) = acme.providers
    assert acme.providers_by_issuer == {"https://id.example/": provider}
    assert (set(provider.audiences), set(provider.algorithms)) == ({"a", "b"}, {"EdDSA"})
    assert (provider.tenant_claim, provider.groups_claim) == ("org", "r.g")
    assert (provider.email_claim, provider.name_claim, set(provider.email_domains)) == ("m", "n", {"acme.example"})
    assert (provider.jwks_uri, provider.max_token_lifetime_s) == ("https://id.example/keys", 3600.0)
    assert provider.allowed_private_hosts == {"id.example"}
    assert provider.login == LoginSpec(ClientSpec("c", "client_secret_basic", "s"), ("openid", "email"), "p")
    assert provider.where == "acme.yaml:4"
    (account,) = acme.service_accounts
    assert account.public_keys == ("new.pem", "old.pem")
    assert (set(account.audiences), set(account.groups)) == (set(), {"g"})
    assert account.allows_missing_audience


def test_function_becomes_a_spec() -> None:
    """Every key of a function arrives; what is left out has the documented default."""
    text = (
        "functions:\n  a: {access: public, concurrency: 3, cold_start: {max_wait: 500ms, max_held: 7, overflow: page}, "
        "timeouts: {connect: 1s, first_byte: 2s, idle: 3m, total: 1h}, max_body: 0B, direct_url: true, "
        "encoded_slash: allow, forward_credentials: true}\n  b-*: {max_body: unbounded}\n  '*': {}\n"
    )
    template = "http://{function}.{namespace}:8080"
    acme = acme_of(text, PLATFORM.replace("8080}", f"8080, direct_url: '{template}'}}"))
    spec = function_spec(acme.functions, "a")
    assert (spec.is_public, spec.concurrency, spec.max_body_bytes, spec.is_direct) == (True, 3, 0, True)
    assert spec.cold_start == ColdStart(0.5, 7, "page")
    assert spec.timeouts == Timeouts(1.0, 2.0, 180.0, 3600.0)
    assert (spec.allows_encoded_slash, spec.forwards_credentials, spec.direct_url) == (True, True, template)
    assert function_spec(acme.functions, "b-x").max_body_bytes is None
    default = function_spec(acme.functions, "c")
    assert (default.max_body_bytes, default.cold_start, default.timeouts) == (10 * 1024 * 1024, ColdStart(), Timeouts())
    assert (default.is_public, default.direct_url, default.allows_encoded_slash) == (False, None, False)


def test_longest_prefix_wins() -> None:
    """An exact name beats the longest prefix beats the star, whatever the order in the file."""
    text = "functions: {'*': {concurrency: 1}, 'a*': {concurrency: 2}, 'ab*': {concurrency: 3}, ab: {concurrency: 4}}\n"
    table = acme_of(text).functions
    assert [function_spec(table, name).concurrency for name in ("x", "a", "ab", "abc", "ac")] == [1, 2, 4, 3, 2]


def test_route_becomes_a_spec() -> None:
    """A path is taken apart once, at load."""
    text = (
        "routes:\n  - {id: r, path: '/a%20b/{c}/*', methods: [GET], function: f, to: '/x/{c}/', https_only: true, "
        "enabled: false, cors: {origins: ['https://app.example:8443']}}\n"
    )
    ((_, (shape,)),) = acme_of(text).routes.open_ended
    ((route,),) = shape.routes.values()
    assert route.parts == (RoutePart("a b", is_parameter=False), RoutePart("c", is_parameter=True))
    assert route.to == (RoutePart("x", is_parameter=False), RoutePart("c", is_parameter=True))
    assert (route.takes_rest, route.has_trailing_slash, route.to_has_trailing_slash) == (True, False, True)
    assert (set(route.methods or ()), route.function, route.id, route.where) == ({"GET"}, "f", "r", "acme.yaml:4")
    assert (route.is_https_only, route.is_enabled, set(route.cors_origins)) == (
        True,
        False,
        {"https://app.example:8443"},
    )


def test_same_path_for_other_methods_is_another_route() -> None:
    """Routes that share a path and no method stand beside each other."""
    text = "routes: [{id: r, path: /a, methods: [GET], function: f}, {id: s, path: /a, methods: [PUT], function: g}]\n"
    assert mistakes_of(folder(text)) == []


def test_limits_become_specs() -> None:
    """Each kind of limit has its numbers; the window is the one that the operator wrote."""
    text = (
        "limits:\n  - {id: a, per: subject, rate: 30/m, burst: 5, functions: [x, 'y-*'], on_store_failure: closed}\n"
        "  - {id: b, per: function, concurrent: 9}\n  - {id: c, per: tenant, wakes: 12/h}\n"
        "  - {id: d, per: ip, rate: 8/s}\n"
    )
    rate, concurrent, wakes, default = acme_of(text).limits
    assert (rate.rate_per_s, rate.burst, rate.quota, rate.window_s) == (0.5, 5, 30, 60)
    assert (rate.concurrent, rate.wakes_per_s, rate.on_store_failure, rate.where) == (
        None,
        None,
        "closed",
        "acme.yaml:4",
    )
    assert rate.functions == (Pattern("x", is_prefix=False), Pattern("y-", is_prefix=True))
    assert (concurrent.concurrent, concurrent.rate_per_s, concurrent.functions) == (9, None, None)
    assert (wakes.wakes_per_s, wakes.burst, wakes.quota, wakes.window_s) == (12 / 3600, 12, 12, 3600)
    assert (default.burst, default.on_store_failure) == (8, "local")


def inputs_of(acme: str, owns: tuple[Pattern, ...] | None = None) -> RuleInputs:
    findings = Findings()
    inputs = rule_inputs(parse(folder(acme)).tenants[0], Scope(owns), findings)
    assert findings.mistakes == []
    return inputs


def test_rules_know_where_they_stand() -> None:
    """A decision can name the rule's file and line; an allow rule is named by its role and its place there."""
    text = (
        LOGIN + f"roles:\n  a:\n    allow:\n      - {{{RULE}}}\n      - {{functions: [y], actions: ['*']}}\n"
        "bindings:\n  - {id: b, roles: [a], groups: [g], subjects: ['login|ana'], emails: []}\n"
        f"deny:\n  - {{id: d, {RULE}, methods: [PUT]}}\n"
    )
    ((role,), (binding,), (deny,)) = inputs_of(text)
    assert [grant.ref for grant in role.allow] == [RuleRef("a/1", "acme.yaml:7"), RuleRef("a/2", "acme.yaml:8")]
    assert [grant.actions for grant in role.allow] == [frozenset({"invoke"}), frozenset({"*"})]
    assert (deny.ref, deny.methods) == (RuleRef("d", "acme.yaml:12"), frozenset({"PUT"}))
    assert (binding.ref, binding.groups, binding.subjects) == (RuleRef("b", "acme.yaml:10"), ("g",), ("login|ana",))


def test_addresses_of_bindings_are_in_small_letters() -> None:
    """An e-mail address is compared as tokens are read: in lower case."""
    text = (
        LOGIN.replace("claims", "email_domains: [acme.example], claims")
        + "roles: {a: {includes: []}}\nbindings: [{id: b, roles: [a], emails: [Ana@Acme.example]}]\n"
    )
    assert inputs_of(text).bindings[0].emails == ("ana@acme.example",)


def test_conditions_are_compiled_with_their_rule() -> None:
    """Short forms and CEL reach the rule; one text that many rules share is compiled once."""
    text = "deny:\n" + "".join(
        f"  - {{id: d{i}, functions: [x], actions: [invoke], when: 'claims.a == 1', unless: {{groups: [g]}}}}\n"
        for i in range(3)
    )
    conditions = [rule.condition for rule in inputs_of(text).deny]
    assert conditions[0] is not None
    assert conditions.count(conditions[0]) == 3


def test_revision_comes_with_the_set() -> None:
    """The set carries the hash of what it was made of; rules are counted."""
    documents = parse(folder(f"roles: {{a: {{allow: [{{{RULE}}}, {{{RULE}}}]}}}}\ndeny: [{{id: d, {RULE}}}]\n"))
    policies = compile_documents(documents)
    assert policies.revision == documents.revision
    assert policies.rule_count == 3


def test_order_of_files_does_not_matter() -> None:
    """The same files in another order make the same set."""
    files = folder(LOGIN)
    assert compile_files(files) == compile_files(dict(reversed(files.items())))


ROUTES = st.lists(
    st.tuples(
        st.lists(st.sampled_from(["a", "b", "{x}", "{y}"]), min_size=1, max_size=2, unique=True),
        st.sampled_from(["", "/", "/*"]),
        st.sampled_from([None, ["GET"], ["PUT"], ["GET", "PUT"]]),
    ),
    max_size=6,
)


@given(ROUTES)
def test_ambiguous_routes_are_those_that_overlap(routes: list[tuple[list[str], str, list[str] | None]]) -> None:
    """A pair is refused exactly when some request would take both with equal right."""
    document = [
        {"id": f"r{i}", "path": "/" + "/".join(parts) + end, "function": "f"}
        | ({"methods": methods} if methods else {})
        for i, (parts, end, methods) in enumerate(routes)
    ]
    findings = Findings()
    source = parse(folder(f"routes: {json.dumps(document)}\n")).tenants[0]
    specs = compile_routes(source, Scope(None), findings)
    refused = {i for i, spec in enumerate(specs) if any(routes_overlap(other, spec) for other in specs[:i])}
    assert {mistake.message.partition(" as ")[0] for mistake in findings.mistakes} <= {"takes the same requests"}
    assert len(findings.mistakes) == len(refused)


# --- scope ----------------------------------------------------------------------------------------------------------

PATTERNS = st.builds(
    lambda text, star: text + "*" * star, st.text(alphabet="ab", min_size=1, max_size=3), st.booleans()
) | st.just("*")
NAMES = ["a", "b", "aa", "ab", "ba", "bb", "aaa", "aab", "abb", "aaaa", "abab", "bbbb"]


@given(st.lists(PATTERNS, min_size=1, max_size=4), st.lists(PATTERNS, min_size=1, max_size=4))
def test_narrowed_patterns_match_nothing_outside(owns: list[str], wanted: list[str]) -> None:
    """Whatever a tenant writes, what remains matches only functions that it owns, and none fewer than it may."""
    scope = Scope(tuple(map(pattern, owns)))
    narrowed = scope.narrowed(wanted)
    outside = set(scope.outside(wanted))
    for name in NAMES:
        is_own = any(own.matches(name) for own in scope.owns or ())
        is_wanted = any(pattern(text).matches(name) for i, text in enumerate(wanted) if i not in outside)
        assert any(one.matches(name) for one in narrowed) == (is_own and is_wanted)


@given(st.lists(st.tuples(PATTERNS, st.sampled_from(["acme", "globex", "initech"])), max_size=8))
def test_overlaps_are_found_exactly(claims: list[tuple[str, str]]) -> None:
    """An overlap is reported when, and only when, some name is matched by patterns of two tenants."""
    found = list(
        overlaps(Claim(text.rstrip("*"), text.endswith("*"), tenant, i) for i, (text, tenant) in enumerate(claims))
    )
    one_by_one = [
        (a, b)
        for i, a in enumerate(claims)
        for b in claims[:i]
        if a[1] != b[1] and (is_within(pattern(a[0]), pattern(b[0])) or is_within(pattern(b[0]), pattern(a[0])))
    ]
    assert bool(found) == bool(one_by_one)
    assert all(one.tenant != other.tenant for one, other in found)


# --- speed ----------------------------------------------------------------------------------------------------------


def big_folder(rules: int) -> dict[str, bytes]:
    """One tenant with ``rules`` rules and bindings as operators write them, a tenth of them with a condition."""
    lines = [LOGIN, "roles:\n"]
    for role in range(10):
        lines.append(f"  role{role}:\n    allow:\n")
        lines += [
            f'      - {{functions: [fn-{role}-{i}, "group{i}-*"], actions: [invoke, describe], methods: [GET, POST]}}\n'
            for i in range(rules * 9 // 100)
        ]
    lines.append("bindings:\n")
    lines += [f"  - {{id: b{i}, roles: [role{i % 10}], groups: [team-{i}]}}\n" for i in range(rules // 10)]
    lines.append("deny:\n")
    lines += [
        f'  - {{id: d{i}, functions: ["prod{i}-*"], actions: [delete], unless: {{groups: [sre-{i % 50}]}}}}\n'
        for i in range(rules // 10)
    ]
    return folder("".join(lines))


def test_ten_thousand_rules_compile_in_time(tmp_path: Path) -> None:
    """A folder of 10,000 rules is read, judged and compiled within 4 s, the interpreter's start included."""
    for name, content in big_folder(10_000).items():
        (tmp_path / name).write_bytes(content)
    program = (
        "import pathlib, sys; from policies.compiler import compile_files; "
        "files = {path.name: path.read_bytes() for path in pathlib.Path(sys.argv[1]).iterdir()}; "
        "print(compile_files(files).rule_count)"
    )

    def compiled_s() -> float:
        """Processor time: what else a machine is doing is not this folder's fault."""
        began = resource.getrusage(resource.RUSAGE_CHILDREN)
        answer = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True, timeout=50
        )
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert int(answer.stdout) == 10_000
        return ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime

    assert is_in_time(4.0, compiled_s)


def test_a_tag_of_another_tenant_is_told() -> None:
    """In a shared namespace of Knative a function's tag has a name that may be another tenant's."""
    backends = "version: 1\nbackends:\n  faas: {kind: knative, url: http://gw, domain: fn.example}\n"
    platform = two_tenants(OURS + ", owns: ['a-*']", THEIRS.replace("globex", "acme") + ", owns: ['b-*']", backends)
    tells = "a tag X of another tenant's function F is reached as X-F; with cluster on the backend it is not"
    assert warnings_of(folder("", platform, globex="")) == [
        f"platform.yaml:5:68: {tells}",
        f"platform.yaml:6:70: {tells}",
    ]
    known = platform.replace("fn.example", "fn.example, cluster: in-cluster")
    assert warnings_of(folder("", known, globex="")) == []


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("message: true", "3:17: message has no meaning for kind: openfaas; expected riff, or no message"),
        (
            "cold_start: {probe: /a//b}",
            "3:37: '/a//b' is not a path such as /healthz (no query, escape or dot segment), or off",
        ),
        ("cold_start: {no_wake: [{paths: [/é]}]}", "3:49: '/é' is never how a path is judged; write '/%C3%A9'"),
        (
            "cold_start: {no_wake: [{paths: ['/a/../b*']}]}",
            "3:49: '/a/../b*' can never match: the path holds an empty segment or a dot segment",
        ),
    ],
)
def test_what_of_a_function_could_have_no_effect(function: str, expected: str) -> None:
    """A key that does nothing on this platform, and a path that nothing is asked or judged by, does not load."""
    assert mistakes_of(folder(f"functions: {{x: {{{function}}}}}\n")) == [f"acme.yaml:{expected}"]


def test_functions_of_riff_are_not_probed() -> None:
    """Its gateway is asked; a probe of the function would be a message for it."""
    platform = PLATFORM.replace("openfaas", "riff").replace("namespace: acme", "namespace: default")
    assert mistakes_of(folder("functions: {x: {message: true, cold_start: {probe: off}}}\n", platform)) == []
    assert mistakes_of(folder("functions: {x: {cold_start: {probe: /up}}}\n", platform)) == [
        "acme.yaml:3:30: functions of riff 0.0.x are not probed: each request is work to do; expected off, or no probe"
    ]
    entry = platform.replace("8080}", "8080, probe: off}")
    assert mistakes_of(folder("", entry)) == [
        "platform.yaml:3:48: probe has no meaning for kind: riff; expected openfaas or knative or http"
    ]


@pytest.mark.parametrize("path", ["/", "/*", "/a/*", "/%C3%A9", "/a;b", "/a%2Fb", "/a*"])
def test_a_path_that_can_match_loads(path: str) -> None:
    """In the one spelling of canonical paths, whole or the beginning of one."""
    assert mistakes_of(folder(f"functions: {{x: {{cold_start: {{no_wake: [{{paths: ['{path}']}}]}}}}}}\n")) == []
