"""Which limits apply to a request, and who is counted together."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.gcra import MAX_AHEAD_US
from policies.limits import MEMO_ENTRIES, address_block, checks_for, concurrency_for, failure_check, wake_check
from policies.principal import Principal, anonymous
from policies.request import AccessRequest, Target
from policies.tables import Ceilings, LimitSpec, Pattern, TenantTable
from tests.fakes.callers import an_asked_provider
from tests.fakes.places import place, tenant

ANA = Principal("login", "ana")
BOB = Principal("login", "bob")


def limit(
    id_: str,
    per: Literal["tenant", "subject", "function", "ip", "identity-failure"] = "tenant",
    *,
    rate: float | None = None,
    concurrent: int | None = None,
    wakes: float | None = None,
    functions: tuple[Pattern, ...] | None = None,
    burst: int = 5,
) -> LimitSpec:
    if rate is None and concurrent is None and wakes is None:
        rate = 10.0
    return LimitSpec(id_, per, functions, rate, burst, 1, 10, concurrent, wakes, "local", f"acme.yaml:{len(id_)}")


def request(client_ip: str = "192.0.2.1") -> AccessRequest:
    return AccessRequest(
        method="GET",
        host="acme.localhost",
        target=Target("/", (), has_trailing_slash=True, query=None),
        scheme="http",
        client_ip=client_ip,
        authorization=None,
        cookie=None,
        hints=(),
        origin=None,
        fetch_site=None,
        accepts_html=False,
        content_length=None,
        is_chunked=False,
        is_websocket=False,
        expects_continue=False,
        keeps_alive=True,
        preflight_method=None,
        traceparent=None,
        forward_block=b"",
    )


def keys(of: TenantTable, principal: Principal = ANA, ip: str = "192.0.2.1", function: str = "f") -> list[str]:
    return [check.key for check in checks_for(place(function, of=of), principal, request(ip))]


def key(spec: LimitSpec, principal: Principal = ANA, ip: str = "192.0.2.1", function: str = "f", **of: Any) -> str:
    (only,) = keys(tenant(limits=(spec,), **of), principal, ip, function)
    return only


def test_a_tenant_without_limits_spends_nothing() -> None:
    """No limit, no check."""
    assert checks_for(place(of=tenant()), ANA, request()) == ()


def test_each_kind_counts_its_own() -> None:
    """Per tenant, subject, function and address: who shares a count and who does not."""
    assert key(limit("a", "tenant"), ANA, function="f") == key(limit("a", "tenant"), BOB, function="g")
    assert key(limit("a", "subject"), ANA, function="f") == key(limit("a", "subject"), ANA, "192.0.2.9", "g")
    assert key(limit("a", "subject"), ANA) != key(limit("a", "subject"), BOB)
    assert key(limit("a", "function"), ANA) == key(limit("a", "function"), BOB)
    assert key(limit("a", "function"), function="f") != key(limit("a", "function"), function="g")
    assert key(limit("a", "ip"), ANA) == key(limit("a", "ip"), BOB)
    assert key(limit("a", "ip"), ip="192.0.2.1") != key(limit("a", "ip"), ip="192.0.2.2")


def test_the_key_carries_the_tenant_as_hash_tag() -> None:
    """All keys of a tenant, those of addresses too, are of one slot of a Redis Cluster, and no other tenant's."""
    one = key(limit("per-caller", "subject"))
    assert one == "{acme}:rl:per-caller@100000x5:login|ana"
    assert key(limit("a", "ip")).startswith("{acme}:rl:a@")
    (other,) = keys(tenant("globex", limits=(limit("per-caller", "subject"),)))
    assert other.startswith("{globex}:")


def test_a_changed_limit_starts_anew() -> None:
    """State written under another rate or burst is not judged by the new numbers."""
    assert key(limit("a", rate=10.0)) != key(limit("a", rate=20.0))
    assert key(limit("a", burst=5)) != key(limit("a", burst=6))


def test_the_ceiling_comes_first_and_apart() -> None:
    """The platform's ceiling is counted apart from a tenant's limit of the same name and numbers."""
    same = limit("rate")
    table = tenant(limits=(same,), ceilings=Ceilings(rate=limit("rate")))
    ceiling, own = keys(table)
    assert ceiling != own
    assert "platform/rate" in ceiling


def test_limits_stand_in_the_order_written() -> None:
    """The order of the file is the order of the answer."""
    checks = checks_for(place(of=tenant(limits=(limit("b"), limit("a")))), ANA, request())
    assert [check.id for check in checks] == ["b", "a"]
    assert checks[0].ref.where == "acme.yaml:1"


@pytest.mark.parametrize(
    ("pattern", "applies"),
    [
        (Pattern("survey-", is_prefix=True), True),
        (Pattern("survey-report", is_prefix=False), True),
        (Pattern("survey", is_prefix=False), False),
        (Pattern("geo-", is_prefix=True), False),
        (Pattern("", is_prefix=True), True),
    ],
    ids=["prefix", "exact", "not-exact", "other-prefix", "star"],
)
def test_functions_narrow_a_limit(pattern: Pattern, applies: bool) -> None:
    """A limit applies to the functions its patterns name."""
    table = tenant(limits=(limit("a", functions=(Pattern("nothing", is_prefix=False), pattern)),))
    assert bool(keys(table, function="survey-report")) == applies


def test_an_anonymous_subject_is_its_address() -> None:
    """``per: subject`` of a public function counts addresses, and never together with a named subject."""
    spec = limit("a", "subject")
    assert key(spec, anonymous(), "192.0.2.1") != key(spec, anonymous(), "192.0.2.2")
    assert key(spec, anonymous(), "192.0.2.1") != key(spec, Principal("login", "192.0.2.1"), "192.0.2.1")


@pytest.mark.parametrize(
    ("provider", "sub"),
    [("login", "a|b"), ("login|a", "b"), ("login", "a%7Cb"), ("login", "a:b"), ("login", "+"), ("login", "all")],
)
def test_subjects_are_never_confused(provider: str, sub: str) -> None:
    """A caller chooses ``sub``: no separator in it makes it another subject, limit or tenant."""
    others = [("login", "a"), ("log", "in|a"), ("login", "a|b"), ("login|a", "b"), ("login", "a%7Cb"), ("login", "a:b")]
    spec = limit("a", "subject")
    mine = key(spec, Principal(provider, sub))
    for other in others:
        assert (key(spec, Principal(*other)) == mine) == (other == (provider, sub))


@given(sub=st.text(max_size=300))
def test_any_subject_makes_a_bounded_key(sub: str) -> None:
    """Whatever a provider puts into ``sub``: a short printable key with one hash tag and no further separator."""
    made = key(limit("a", "subject"), Principal("login", sub))
    assert made.isascii()
    assert made.isprintable()
    assert len(made) < 160
    assert made.count("{") == made.count("}") == 1
    assert made.count(":") == 3


def test_a_long_subject_is_hashed() -> None:
    """100 KiB of subject weigh as much as any, and differ where they differ."""
    spec = limit("a", "subject")
    one, other = (key(spec, Principal("login", "x" * 100_000 + end)) for end in "12")
    assert one != other
    assert len(one) < 80


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("2001:DB8::1", "2001:db8:0:0:0::1", True),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("192.0.2.1", "192.0.2.2", False),
        ("fe80::1%eth0", "fe80::1", True),
        ("", "unix:", False),
    ],
)
def test_an_address_is_a_subscriber(one: str, other: str, is_same: bool) -> None:
    """IPv6 is counted by /64, IPv4 by address, mapped IPv4 as IPv4; what is no address counts as it stands."""
    assert (address_block(one) == address_block(other)) == is_same


@given(text=st.text(max_size=300))
def test_any_peer_has_a_block(text: str) -> None:
    """A peer that is no address raises nothing and makes no key part of its own."""
    block = address_block(text)
    assert block.isascii()
    assert ":" not in block
    assert len(block) <= 100


def test_rates_are_rounded_down() -> None:
    """R1: the interval is rounded up, so a third of a microsecond never admits more than the rate."""
    (check,) = checks_for(place(of=tenant(limits=(limit("a", rate=3.0, burst=2),))), ANA, request())
    assert check.emission_us == 333_334
    assert check.tolerance_us == 666_668
    (exact,) = checks_for(place(of=tenant(limits=(limit("a", rate=100 / 60),))), ANA, request())
    assert exact.emission_us == 600_000


@pytest.mark.parametrize("rate", [1e-300, 1e-9, 1e9, 1e300])
@pytest.mark.parametrize("burst", [1, 10**9])
def test_absurd_rates_stay_numbers(rate: float, burst: int) -> None:
    """An interval is between a microsecond and ten years, and so is what a burst may run ahead."""
    (check,) = checks_for(place(of=tenant(limits=(limit("a", rate=rate, burst=burst),))), ANA, request())
    assert 1 <= check.emission_us <= check.tolerance_us <= MAX_AHEAD_US


def test_concurrent_limits_are_not_rates() -> None:
    """``concurrent`` is taken while the request is at the function and spends nothing."""
    table = tenant(limits=(limit("parallel", "function", concurrent=100), limit("a")))
    where = place("f", of=table)
    (parallel,) = concurrency_for(where, ANA, request())
    assert (parallel.id, parallel.maximum, parallel.ref.id) == ("parallel", 100, "parallel")
    assert parallel.key == "{acme}:rl:parallel:f"
    assert [check.id for check in checks_for(where, ANA, request())] == ["a"]


def test_wakes_are_taken_by_the_wake() -> None:
    """A request spends no wakes; a wake spends the platform's and the tenant's, and nobody's in particular."""
    table = tenant(
        limits=(limit("w", wakes=0.5), limit("each", "function", wakes=1.0), limit("a")),
        ceilings=Ceilings(wakes=limit("wakes", wakes=1.0)),
    )
    where = place("f", of=table)
    assert [check.id for check in checks_for(where, ANA, request())] == ["a"]
    assert [check.id for check in wake_check(where)] == ["wakes", "w", "each"]
    other = wake_check(place("g", of=table))
    assert [a.key == b.key for a, b in zip(wake_check(where), other, strict=True)] == [True, True, False]
    assert wake_check(where)[1].emission_us == 2_000_000


def test_guessing_is_counted_by_address_alone() -> None:
    """The limit of failures is not spent by requests, only by failures of an address or a /64."""
    table = tenant(limits=(limit("guessing", "identity-failure", rate=20.0),))
    assert keys(table) == []
    one, same, other = (failure_check(table, ip) for ip in ("2001:db8::1", "2001:db8::2", "192.0.2.1"))
    assert one is not None
    assert one == same
    assert one != other
    assert failure_check(tenant(), "192.0.2.1") is None


def test_guesses_that_cost_a_provider_are_always_limited() -> None:
    """Where opaque tokens are asked about, by the tenant's own limit or a built-in one that no file can name."""
    table = tenant(providers=(an_asked_provider(),))
    built_in = failure_check(table, "192.0.2.1")
    assert built_in is not None
    assert (built_in.quota, built_in.ref.where) == (10, "built in")
    named = limit(built_in.id, "identity-failure", rate=10.0, burst=40)
    own = failure_check(tenant(providers=(an_asked_provider(),), limits=(named,)), "192.0.2.1")
    assert own is not None
    assert (own.ref.where, own.key == built_in.key) == (named.where, False)


def test_the_same_limit_twice_is_one() -> None:
    """Keys of one request are distinct, whatever an operator wrote twice."""
    assert len(keys(tenant(limits=(limit("a"), limit("a"))))) == 1


def test_the_usual_request_is_one_probe() -> None:
    """The same caller's checks are the same tuple, not made anew."""
    table = tenant(limits=(limit("a", "subject"),))
    first = checks_for(place(of=table), ANA, request())
    assert checks_for(place(of=table), Principal("login", "ana"), request()) is first


def test_the_memo_is_bounded_and_the_tenants_own() -> None:
    """Callers choose its keys: it stays small, and another tenant's is another."""
    table, other = tenant(limits=(limit("a", "ip"),)), tenant("globex", limits=(limit("a", "ip"),))
    keys(other)
    for n in range(MEMO_ENTRIES + 10):
        keys(table, ip=f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}")
    assert len(table.limit_checks) <= MEMO_ENTRIES
    assert len(other.limit_checks) == 1
