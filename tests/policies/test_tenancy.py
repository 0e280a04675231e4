"""Question 1: T1 to T9 of tenancy as far as the core alone decides them, routes, and what a browser asks before."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import tenancy
from policies.decision import Answer, Deny, Page, Reason
from policies.request import canonical_target
from policies.routes import build_route_table, function_path, match_routes, parse_route_path
from policies.tables import Pattern, Place, PolicySet, RoutePart
from policies.target import Target, encode_path
from policies.tenancy import build_function_table, cors_fields, function_spec, is_function_name, resolve, tenant_of
from tests.fakes.tenancy import a_function, a_policy_set, a_request, a_route, a_tenant
from tests.policies.reference import routes_overlap

APP = "https://app.acme.example"
ACME = a_tenant(
    routes=[
        a_route("/reports/{country}", "survey-report", to="/by-country/{country}", methods=["GET"], cors_origins=[APP]),
        a_route("/reports/latest", "survey-latest"),
        a_route("/old/*", "attic", is_enabled=False),
        a_route("/old/but/alive", "alive"),
        a_route("/files/*", "files", to="/store/*"),
        a_route("/files/raw/*", "raw"),
        a_route("/safe", "vault", is_https_only=True),
        a_route("/slash/{name}", "slashy", to="/x/{name}/y"),
        a_route("/form", "form-post", methods=["POST"]),
        a_route("/form", "form-get", methods=["GET"]),
    ],
    functions=[
        a_function("hidden", is_direct=False),
        a_function("slashy", allows_encoded_slash=True),
        a_function("survey-*", is_public=True),
    ],
)
GLOBEX = a_tenant("globex")
OFF = a_tenant("initech", is_disabled=True)


def world() -> PolicySet:
    """Three tenants, one of them switched off, one with a wildcard; a fresh memo."""
    return a_policy_set(ACME, GLOBEX, OFF, wildcards={".acme.example": ACME, ".eu.acme.example": GLOBEX})


def place_of(target: bytes, *fields: tuple[bytes, bytes], **changes: Any) -> Place:
    found = resolve(a_request(target, *fields, **changes), world())
    assert isinstance(found, Place), found
    return found


def reason_of(target: bytes, *fields: tuple[bytes, bytes], **changes: Any) -> Reason:
    found = resolve(a_request(target, *fields, **changes), world())
    assert isinstance(found, Deny), found
    return found.reason


class TestTenant:
    @pytest.mark.parametrize(
        ("host", "tenant"),
        [
            ("acme.localhost", "acme"),
            ("globex.localhost", "globex"),
            ("a.acme.example", "acme"),
            ("a.b.acme.example", "acme"),
            ("x.eu.acme.example", "globex"),
            ("eu.acme.example", "acme"),
            ("acme.example", None),
            ("evil-acme.example", None),
            ("acme.example.evil.com", None),
            ("localhost", None),
            ("[::1]", None),
        ],
    )
    def test_t2_a_host_has_at_most_one_tenant(self, host: str, tenant: str | None) -> None:
        """Exact, then the longest suffix at a label's border (AP-R28), one label or more."""
        found = tenant_of(host, world())
        assert (found and found.name) == tenant

    def test_t2_an_unknown_host_is_one_constant_404(self) -> None:
        """The same value for every such host, whatever else the request says."""
        policies = world()
        first = resolve(a_request(b"/function/f", host=b"nobody.example"), policies)
        second = resolve(a_request(b"/a%2fb", (b"X-Dispatch-Org", b"acme"), host=b"else.example"), policies)
        assert first is second
        assert isinstance(first, Deny)
        assert (first.reason, first.tenant) == (Reason.TENANT_UNKNOWN, None)

    @pytest.mark.parametrize("name", [b"X-Dispatch-Org", b"x-portero-tenant"])
    def test_t6_a_hint_confirms_or_refuses(self, name: bytes) -> None:
        """It never chooses."""
        assert place_of(b"/function/f", (name, b"acme")).tenant is ACME
        for hint in (b"globex", b"ACME", b"", b"acme,globex", b"acme|globex", b"nobody"):
            assert reason_of(b"/function/f", (name, hint)) is Reason.TENANT_CONFLICT
        assert reason_of(b"/function/f", (name, b"acme"), (name, b"globex")) is Reason.TENANT_CONFLICT

    def test_t10_a_disabled_tenant_is_403_at_once(self) -> None:
        """Whatever the path."""
        for target in (b"/", b"/function/f", b"/.portero/whoami"):
            assert reason_of(target, host=b"initech.localhost") is Reason.TENANT_DISABLED

    def test_t7_what_one_tenant_was_asked_is_not_another_s_answer(self) -> None:
        """The memo stands per tenant: the same path, two tenants, two places."""
        policies = world()
        for _ in range(2):
            for tenant, host in ((ACME, b"acme.localhost"), (GLOBEX, b"globex.localhost")):
                found = resolve(a_request(b"/function/f", host=host), policies)
                assert isinstance(found, Place)
                assert found.tenant is tenant

    @given(
        st.sampled_from([b"/function/f", b"/function/f.acme", b"/reports/es", b"/function/a.b", b"/files/x", b"/x"]),
        st.sampled_from(["GET", "POST"]),
    )
    def test_t9_swapping_the_host_never_keeps_the_tenant(self, target: bytes, method: str) -> None:
        """Metamorphic: for every request, another host gives another tenant's place or a refusal."""
        policies = world()
        for host, tenant in ((b"acme.localhost", ACME), (b"globex.localhost", GLOBEX), (b"x.acme.example", ACME)):
            found = resolve(a_request(target, method=method, host=host), policies)
            assert not isinstance(found, Place) or found.tenant is tenant
        assert not isinstance(resolve(a_request(target, host=b"nobody.example"), policies), Place)


class TestFunction:
    @pytest.mark.parametrize(
        ("target", "function", "path"),
        [
            (b"/function/f", "f", "/"),
            (b"/function/f/", "f", "/"),
            (b"/function/f.acme", "f", "/"),
            (b"/function/f.acme/a/b/", "f", "/a/b/"),
            (b"/function/a.b.acme/x", "a.b", "/x"),
            (b"/function/f/%61%3fb", "f", "/a%3Fb"),
            (b"/function/F_1-x/y", "F_1-x", "/y"),
            (b"/%66unction/f", "f", "/"),
        ],
    )
    def test_a_function_is_reached_by_its_name(self, target: bytes, function: str, path: str) -> None:
        """As OpenFaaS has it; the path that is judged is the function's own."""
        place = place_of(target)
        assert (place.function, place.path, place.route) == (function, path, None)
        assert encode_path(place.segments, has_trailing_slash=place.has_trailing_slash) == path

    @pytest.mark.parametrize(
        "target",
        [
            b"/function/f.globex",
            b"/function/f.acme.globex",
            b"/function/f.ACME",
            b"/function/f.",
            b"/function/.acme",
            b"/function/..acme",
            b"/function/...acme",
            b"/function/a..b.acme",
            b"/function/f%20x",
            b"/function/f%3fx",
            b"/function/f%0bx".replace(b"%0b", b"%2a"),
            b"/function/%c3%bc",
            b"/function/" + b"f" * 129,
            b"/function",
            b"/function/",
            b"/Function/f",
            b"/",
            b"/nothing",
        ],
    )
    def test_t8_what_names_no_function_of_this_tenant_is_404(self, target: bytes) -> None:
        """What follows the last dot is the namespace, and it must be the tenant's own."""
        assert reason_of(target) is Reason.ROUTE_UNKNOWN

    def test_owns_bounds_every_way_in(self) -> None:
        """A shared namespace: ``*`` never reaches outside ``owns``, by name or by route."""
        tenant = a_tenant(
            owns=(Pattern("acme-", is_prefix=True),), routes=[a_route("/r", "other-f"), a_route("/s", "acme-f")]
        )
        policies = a_policy_set(tenant)
        for target, is_found in (
            (b"/function/acme-f", True),
            (b"/function/other-f", False),
            (b"/r", False),
            (b"/s", True),
        ):
            assert isinstance(resolve(a_request(target), policies), Place) is is_found

    def test_direct_false_leaves_the_routes(self) -> None:
        """404, as if nothing stood there."""
        assert reason_of(b"/function/hidden") is Reason.ROUTE_UNKNOWN
        assert reason_of(b"/function/hidden.acme/x") is Reason.ROUTE_UNKNOWN

    @pytest.mark.parametrize("target", [b"/.portero/x", b"/%2Eportero/x", b"/async-function", b"/.portero"])
    def test_reserved_paths_are_404(self, target: bytes) -> None:
        """Also beside a route that takes everything."""
        policies = a_policy_set(a_tenant(routes=[a_route("/*", "site")]))
        found = resolve(a_request(target), policies)
        assert isinstance(found, Deny)
        assert found.reason is Reason.ROUTE_UNKNOWN

    def test_an_encoded_slash_is_for_functions_that_say_so(self) -> None:
        """400 for every other function and for what stands nowhere (CVE-2021-29492)."""
        place = place_of(b"/function/slashy/a%2fb/c")
        assert (place.segments, place.path) == (("a/b", "c"), "/a%2Fb/c")
        assert place_of(b"/slash/a%2Fb").path == "/x/a%2Fb/y"
        for target in (
            b"/function/f/a%2fb",
            b"/nothing%2fhere",
            b"/function/a%2fb",
            b"/function%2fslashy",
            b"/files/a%2Fb",
        ):
            assert reason_of(target) is Reason.BAD_REQUEST

    def test_exact_beats_the_longest_prefix_beats_star(self) -> None:
        """And a name that no pattern has is not public."""
        star, short, long, exact = (
            a_function(text, concurrency=i) for i, text in enumerate(["*", "a*", "a-b*", "a-bc"])
        )
        table = build_function_table([star, short, exact, long])
        named = {name: function_spec(table, name) for name in ("a-bc", "a-bd", "a", "z")}
        assert named == {"a-bc": exact, "a-bd": long, "a": short, "z": star}
        assert not function_spec(build_function_table([]), "f").is_public

    def test_the_memo_of_names_is_bounded(self) -> None:
        """Whoever sends names chooses them."""
        table = build_function_table([a_function("*")])
        for i in range(tenancy._SPECS_A_TENANT + 100):
            function_spec(table, f"f{i}")
        assert len(table.memo) <= tenancy._SPECS_A_TENANT

    @given(st.text(max_size=12))
    def test_a_function_name_is_safe_in_a_path(self, text: str) -> None:
        """Whatever passes the grammar stands in a path as it is, and is no dot segment."""
        if is_function_name(text):
            read = canonical_target(f"/{text}".encode())
            assert isinstance(read, Target)
            assert (read.path, read.segments) == (f"/{text}", (text,))

    @pytest.mark.parametrize("name", ["F", "Secret", "a_b", "pod-0.f.acme"])
    def test_a_name_that_becomes_a_host_is_spelt_in_one_way(self, name: str) -> None:
        """A resolver takes ``SECRET`` for ``secret``, a rule on ``secret`` does not: with ``direct_url`` it is 404."""
        direct = a_function("*", direct_url="http://{function}.{namespace}:8080")
        tenant = a_tenant("acme", functions=[direct])
        policies = a_policy_set(tenant)
        found = resolve(a_request(f"/function/{name}".encode()), policies)
        assert isinstance(found, Deny)
        assert found.reason is Reason.ROUTE_UNKNOWN
        assert isinstance(resolve(a_request(b"/function/secret-1"), policies), Place)


class TestRoute:
    @pytest.mark.parametrize(
        ("target", "function", "path"),
        [
            (b"/reports/es", "survey-report", "/by-country/es"),
            (b"/reports/e%20s%3fx", "survey-report", "/by-country/e%20s%3Fx"),
            (b"/reports/latest", "survey-latest", "/reports/latest"),
            (b"/files", "files", "/store"),
            (b"/files/", "files", "/store/"),
            (b"/files/a/b", "files", "/store/a/b"),
            (b"/files/a/", "files", "/store/a/"),
            (b"/files/raw/a", "raw", "/files/raw/a"),
            (b"/old/but/alive", "alive", "/old/but/alive"),
        ],
    )
    def test_the_most_specific_path_wins(self, target: bytes, function: str, path: str) -> None:
        """Literals before parameters before ``/*``; ``to`` is filled with decoded segments, encoded anew (AP-R32)."""
        place = place_of(target)
        assert (place.function, place.path) == (function, path)
        assert place.route is not None

    def test_a_disabled_route_is_404_and_no_other_takes_its_place(self) -> None:
        """Neither a shorter one nor one with a parameter."""
        routes = [a_route("/a/b", "f", is_enabled=False), a_route("/a/{x}", "g"), a_route("/*", "h")]
        policies = a_policy_set(a_tenant(routes=routes))
        found = resolve(a_request(b"/a/b"), policies)
        assert isinstance(found, Deny)
        assert found.reason is Reason.ROUTE_UNKNOWN
        assert reason_of(b"/old/x/y") is Reason.ROUTE_UNKNOWN

    def test_a_trailing_slash_is_judged(self) -> None:
        """``/reports/es/`` is another path than ``/reports/es``."""
        assert reason_of(b"/reports/es/") is Reason.ROUTE_UNKNOWN

    def test_405_says_what_is_allowed(self) -> None:
        """RFC 9110 section 15.5.6; HEAD where there is GET; no other route is tried."""
        found = resolve(a_request(b"/reports/es", method="DELETE"), world())
        assert isinstance(found, Deny)
        assert (found.reason, found.allowed_methods) == (Reason.METHOD_NOT_ALLOWED, ("GET", "HEAD"))
        both = resolve(a_request(b"/form", method="PUT"), world())
        assert isinstance(both, Deny)
        assert both.allowed_methods == ("GET", "HEAD", "POST")

    def test_routes_of_one_path_differ_in_their_methods(self) -> None:
        """HEAD goes where GET goes, and policy judges it as HEAD."""
        assert place_of(b"/form", method="POST").function == "form-post"
        assert place_of(b"/form", method="GET").function == "form-get"
        assert place_of(b"/form", method="HEAD").function == "form-get"

    def test_https_only_is_426_on_http(self) -> None:
        """Also from the memo: a place seen over https is not one over http."""
        policies = world()
        assert isinstance(resolve(a_request(b"/safe", scheme="https"), policies), Place)
        found = resolve(a_request(b"/safe"), policies)
        assert isinstance(found, Deny)
        assert found.reason is Reason.HTTPS_REQUIRED

    def test_a_catch_all_leaves_functions_and_reserved_paths_alone(self) -> None:
        """``/function/<name>`` works beside ``/*`` and ``/{x}/{y}``; a route that says ``/function`` is meant so."""
        routes = [a_route("/*", "site"), a_route("/{x}/{y}", "two"), a_route("/function/special", "special")]
        policies = a_policy_set(a_tenant(routes=routes))
        for target, function in (
            (b"/", "site"),
            (b"/function", "site"),
            (b"/a/b", "two"),
            (b"/function/f", "f"),
            (b"/function/f/x", "f"),
            (b"/function/special", "special"),
        ):
            found = resolve(a_request(target), policies)
            assert isinstance(found, Place)
            assert found.function == function

    def test_a_changed_policy_set_starts_without_places(self) -> None:
        """A place of the old set would carry the old rules on."""
        policies = world()
        resolve(a_request(b"/function/f"), policies)
        changed = replace(policies, hosts={"acme.localhost": GLOBEX})
        found = resolve(a_request(b"/function/f"), changed)
        assert isinstance(found, Place)
        assert found.tenant is GLOBEX
        assert policies.places is not changed.places

    def test_places_are_remembered_and_bounded(self) -> None:
        """The second time the same object; a scan does not grow the memo; long paths are not kept."""
        policies = world()
        assert resolve(a_request(b"/function/f"), policies) is resolve(a_request(b"/function/f?q"), policies)
        for i in range(tenancy._PLACES_A_TENANT + 100):
            resolve(a_request(b"/function/f/%d" % i), policies)
        assert len(policies.places["acme"]) <= tenancy._PLACES_A_TENANT
        resolve(a_request(b"/function/f/" + b"x" * 300), policies)
        assert all(len(path) <= tenancy._MEMO_PATH_CHARS for _, path in policies.places["acme"])


class TestRoutePaths:
    @pytest.mark.parametrize(
        ("text", "parts", "has_trailing_slash", "takes_rest"),
        [
            ("/", (), False, False),
            ("/*", (), False, True),
            ("/a", (("a", False),), False, False),
            ("/a/", (("a", False),), True, False),
            ("/a/{b}", (("a", False), ("b", True)), False, False),
            ("/a/*", (("a", False),), False, True),
            ("/caf%C3%A9", (("café", False),), False, False),
            ("/café", (("café", False),), False, False),
        ],
    )
    def test_a_path_is_read(
        self, text: str, parts: tuple[tuple[str, bool], ...], has_trailing_slash: bool, takes_rest: bool
    ) -> None:
        """Literals decoded, parameters by name."""
        assert parse_route_path(text) == (tuple(RoutePart(*part) for part in parts), has_trailing_slash, takes_rest)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "a",
            "//",
            "/a//b",
            "/a//",
            "/a//*",
            "/../a",
            "/a/.",
            "/a\\b",
            "/a%2fb",
            "/a%zz",
            "/a?b",
            "/a#b",
            "/a*",
            "/*/a",
            "/{}",
            "/{A}",
            "/{a}b",
            "/a{b}",
            "/{a}/{a}",
            "/\0",
            "/\ud800",
            "/" + "a" * 2000,
        ],
    )
    def test_what_is_no_path_says_why(self, text: str) -> None:
        """ValueError with a sentence, for ``file:line:column``."""
        with pytest.raises(ValueError, match=r"\w+ \w+"):
            parse_route_path(text)

    @given(st.text(alphabet="/{}*a.%2f?#é", max_size=12))
    def test_any_text_is_a_path_or_a_value_error(self, text: str) -> None:
        """What is read is written again as itself."""
        try:
            parts, has_trailing_slash, takes_rest = parse_route_path(text)
        except ValueError:
            return
        written = "".join("/" + ("{" + part.text + "}" if part.is_parameter else part.text) for part in parts)
        written += "/*" if takes_rest else "/" if has_trailing_slash or not parts else ""
        if "%" not in text:
            assert written == text

    @pytest.mark.parametrize(
        ("a", "b", "do_overlap"),
        [
            (("/a/{x}", None), ("/a/{y}", None), True),
            (("/a/{x}", ["GET"]), ("/a/{y}", ["GET", "POST"]), True),
            (("/a/{x}", ["GET"]), ("/a/{y}", None), True),
            (("/a/{x}", ["GET"]), ("/a/{y}", ["POST"]), False),
            (("/a/{x}", ["GET"]), ("/a/{y}", ["HEAD"]), False),
            (("/a/{x}", None), ("/a/b", None), False),
            (("/a/{x}", None), ("/{y}/b", None), False),
            (("/a", None), ("/a/", None), False),
            (("/a", None), ("/a/*", None), False),
            (("/a/*", None), ("/a/*", None), True),
        ],
    )
    def test_overlap_is_symmetric(self, a: tuple[str, Any], b: tuple[str, Any], do_overlap: bool) -> None:
        """Two routes with equal right to one request are a mistake of the file."""
        first, second = a_route(a[0], methods=a[1]), a_route(b[0], methods=b[1])
        assert routes_overlap(first, second) is routes_overlap(second, first) is do_overlap

    @given(
        st.lists(st.lists(st.sampled_from(["a", "b", "{x}", "{y}"]), min_size=1, max_size=3, unique=True), max_size=6),
        st.lists(st.booleans(), min_size=6, max_size=6),
        st.lists(st.sampled_from(["a", "b", "c"]), max_size=4),
    )
    def test_the_table_equals_a_walk_over_all_routes(
        self, paths: list[list[str]], rests: list[bool], segments: list[str]
    ) -> None:
        """Naive reference: of all routes that take the path, the most specific one."""
        routes = [
            a_route("/" + "/".join(path) + ("/*" if rest else "")) for path, rest in zip(paths, rests, strict=False)
        ]
        target = Target(encode_path(segments, has_trailing_slash=False), tuple(segments), False, None)

        def takes(parts: tuple[RoutePart, ...], takes_rest: bool) -> bool:
            is_long_enough = len(segments) >= len(parts) if takes_rest else len(segments) == len(parts)
            return is_long_enough and all(
                part.is_parameter or part.text == segment for part, segment in zip(parts, segments, strict=False)
            )

        takers = [route for route in routes if takes(route.parts, route.takes_rest)]
        best = min(
            ((r.takes_rest, -len(r.parts) if r.takes_rest else 0, *specificity(r.parts)) for r in takers), default=None
        )
        found = match_routes(build_route_table(routes), target)
        assert bool(found) == (best is not None)
        for route in found:
            rank = (route.takes_rest, -len(route.parts) if route.takes_rest else 0, *specificity(route.parts))
            assert rank == best

    @given(st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=4))
    def test_a_value_stays_one_segment(self, values: list[str]) -> None:
        """AP-R32: whatever a caller puts into parameters and rest, ``to`` keeps its own segments around it."""
        target = Target("/", ("a", *values), False, None)
        segments, _ = function_path(a_route("/a/{x}/*", to="/front/{x}/back/*"), target)
        assert segments == ("front", values[0], "back", *values[1:])


def specificity(parts: tuple[RoutePart, ...]) -> tuple[int, tuple[int, ...]]:
    literal_at = tuple(i for i, part in enumerate(parts) if not part.is_parameter)
    return -len(literal_at), literal_at


class TestCors:
    def ask(
        self, target: bytes, method: str = "GET", origin: str = APP, **changes: Any
    ) -> Place | Deny | Answer | Page:
        fields = (
            (b"Origin", origin.encode()),
            (b"Access-Control-Request-Method", method.encode()),
            (b"Access-Control-Request-Headers", b"authorization"),
        )
        return resolve(a_request(target, *fields, method="OPTIONS", **changes), world())

    def test_a_preflight_of_a_listed_origin_is_answered(self) -> None:
        """204 without a credential, without question 2, reaching nobody."""
        answer = self.ask(b"/reports/es")
        assert isinstance(answer, Answer)
        fields = dict(answer.fields)
        assert (answer.status, answer.tenant) == (204, "acme")
        assert fields["Access-Control-Allow-Origin"] == APP
        assert fields["Access-Control-Allow-Methods"] == "GET, HEAD"
        assert fields["Access-Control-Allow-Headers"] == "authorization"
        assert "Origin" in fields["Vary"]

    @pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://app.acme.example", APP + ".evil.com"])
    def test_an_origin_that_is_not_listed_is_refused(self, origin: str) -> None:
        """Compared whole; 403 and no Access-Control field."""
        answer = self.ask(b"/reports/es", origin=origin)
        assert isinstance(answer, Deny)
        assert answer.reason is Reason.ORIGIN_REFUSED

    def test_a_preflight_for_a_method_not_served_is_405(self) -> None:
        """Then the browser does not send the request."""
        answer = self.ask(b"/reports/es", method="DELETE")
        assert isinstance(answer, Deny)
        assert answer.reason is Reason.METHOD_NOT_ALLOWED

    def test_where_no_origins_are_listed_options_is_a_method_like_others(self) -> None:
        """The function answers for itself, if policy lets OPTIONS through."""
        assert isinstance(self.ask(b"/function/f"), Place)
        assert isinstance(self.ask(b"/reports/latest"), Place)
        answer = self.ask(b"/form")
        assert isinstance(answer, Deny)
        assert answer.reason is Reason.METHOD_NOT_ALLOWED

    def test_a_preflight_does_not_pass_other_refusals(self) -> None:
        """Unknown host, disabled tenant, disabled route, https."""
        assert isinstance(self.ask(b"/reports/es", host=b"nobody.example"), Deny)
        off = self.ask(b"/reports/es", host=b"initech.localhost")
        assert isinstance(off, Deny)
        routes = [
            a_route("/off", cors_origins=[APP], is_enabled=False),
            a_route("/s", cors_origins=[APP], is_https_only=True),
            a_route("/any", cors_origins=[APP]),
        ]
        policies = a_policy_set(a_tenant(routes=routes))
        fields = ((b"Origin", APP.encode()), (b"Access-Control-Request-Method", b"GET"))
        for target, reason in ((b"/off", Reason.ROUTE_UNKNOWN), (b"/s", Reason.HTTPS_REQUIRED)):
            found = resolve(a_request(target, *fields, method="OPTIONS"), policies)
            assert isinstance(found, Deny)
            assert found.reason is reason
        hostile = (fields[0], (b"Access-Control-Request-Method", b"GET, PUT"))
        found = resolve(a_request(b"/any", *hostile, method="OPTIONS"), policies)
        assert isinstance(found, Deny)
        assert found.reason is Reason.BAD_REQUEST

    def test_the_answer_of_a_route_names_a_listed_origin(self) -> None:
        """And says to caches that it depends on the origin, listed or not."""
        for origin, is_listed in ((APP, True), ("https://evil.example", False)):
            request = a_request(b"/reports/es", (b"Origin", origin.encode()))
            place = place_of(b"/reports/es")
            fields = dict(cors_fields(request, place))
            assert fields["Vary"] == "Origin"
            assert fields.get("Access-Control-Allow-Origin") == (origin if is_listed else None)
        assert cors_fields(a_request(b"/function/f"), place_of(b"/function/f")) == ()
