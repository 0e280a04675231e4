"""How OpenFaaS is told a judged path: whatever way its gateway reads, the function sees that path or nothing leaves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authproxy.backends.openfaas import OpenFaasBackend
from authproxy.upstream.departure import Address, Destination
from policies.decision import Deny, Reason
from policies.errors import SettingsError
from policies.request import AccessRequest, Head, TrustedPeers, read_head
from policies.tables import BackendSpec
from policies.target import canonical_target
from tests.fakes.gopath import GoAway, Seen, read_target
from tests.fakes.places import place, tenant

GATEWAY = "http://gateway.openfaas:8080"


def backend(url: str = GATEWAY) -> OpenFaasBackend:
    return OpenFaasBackend(BackendSpec("faas", "openfaas", url, None))


def request(accept: bytes | None = b"*/*") -> AccessRequest:
    fields = [(b"Host", b"acme.localhost")] + ([(b"Accept", accept)] if accept is not None else [])
    read = read_head(Head("GET", b"/", fields, (1, 1), "127.0.0.1", "http"), TrustedPeers(()))
    assert isinstance(read, AccessRequest)
    return read


SEGMENT = st.text(
    st.one_of(
        st.sampled_from("%?#/.;:+&=@!'()*[]|^\"{}~ \\é\u20ac\U0001f600aA0-_"),
        st.characters(blacklist_categories=("Cs", "Cc")),
    ),
    min_size=1,
    max_size=8,
)


def judged(segments: list[str], *, slash: bool) -> tuple[str, ...] | None:
    """The segments as policy sees them, or None when such a request is refused before."""
    wire = "".join("/" + "".join(f"%{byte:02X}" for byte in segment.encode()) for segment in segments)
    target = canonical_target((wire + "/" * slash or "/").encode())
    return None if isinstance(target, Deny) else target.segments


@given(
    st.lists(SEGMENT, max_size=4), st.booleans(), st.sampled_from([b"*/*", b"text/event-stream", b"Text/Event-Stream"])
)
def test_what_the_function_sees_is_what_was_judged(segments: list[str], slash: bool, accept: bytes) -> None:
    """For any path that may be judged, through either way the gateway has: the same path arrives, or nothing leaves."""
    seen_by_policy = judged(segments, slash=slash and bool(segments))
    if seen_by_policy is None:
        return
    at = place("survey-report", seen_by_policy, has_trailing_slash=slash and bool(segments))
    where = backend().destination(at, "q=1%3F", request(accept))
    if isinstance(where, Deny):
        assert where.reason is Reason.BAD_REQUEST
        assert any(character in segment for segment in seen_by_policy for character in "/%?#")
        return
    seen = read_target(where.target, accept=accept)
    assert isinstance(seen, Seen)
    assert seen.name == "survey-report.acme"
    expected = "/" + "/".join(seen_by_policy) + "/" * (slash and bool(segments))
    assert seen.path.decode() == expected
    assert seen.query == b"q=1%3F"


@given(st.lists(SEGMENT, max_size=4))
def test_without_the_head_only_what_both_ways_read_alike_leaves(segments: list[str]) -> None:
    """A caller of ``destination`` who does not hand over the request is safe, not lucky."""
    seen_by_policy = judged(segments, slash=False)
    if seen_by_policy is None:
        return
    where = backend().destination(place("f", seen_by_policy), None)
    if isinstance(where, Deny):
        return
    for accept in (b"", b"text/event-stream"):
        seen = read_target(where.target, accept=accept)
        assert isinstance(seen, Seen)
        assert seen.path.decode() == "/" + "/".join(seen_by_policy)
        assert seen.query is None


@pytest.mark.parametrize(
    ("segment", "target"),
    [
        pytest.param("a b", b"/a%20b", id="space"),
        pytest.param("é", b"/%C3%A9", id="utf-8"),
        pytest.param("a;b=c,d", b"/a;b=c,d", id="sub-delims"),
        pytest.param("what?", b"/what%253F", id="question mark"),
        pytest.param("100%", b"/100%2525", id="percent"),
        pytest.param("c#", b"/c%2523", id="hash"),
        pytest.param("%2e%2e", b"/%25252e%25252e", id="an escaped dot segment, as text"),
    ],
)
def test_one_encoding_where_that_is_plain_and_two_where_not(segment: str, target: bytes) -> None:
    """The usual path stays readable in the platform's logs."""
    where = backend().destination(place("f", (segment,)), None, request())
    assert isinstance(where, Destination)
    assert where.target == b"/function/f.acme" + target


def test_a_gateway_really_would_read_a_single_encoding_as_a_query() -> None:
    """The danger this is for, so that the tests above are known to be able to fail."""
    seen = read_target(b"/function/f.acme/what%3Fadmin=1")
    assert isinstance(seen, Seen)
    assert (seen.path, seen.query) == (b"/what", b"admin=1")
    with pytest.raises(GoAway):
        read_target(b"/function/f.acme/a/%252e%252e/b")


def test_a_memo_does_not_carry_a_path_from_one_head_to_another() -> None:
    """Paths that depend on the head are written each time."""
    made, at = backend(), place("f", ("100%",))
    assert isinstance(made.destination(at, None, request()), Destination)
    assert isinstance(made.destination(at, None, request(b"text/event-stream")), Deny)
    assert isinstance(made.destination(at, None), Deny)


def test_the_memo_is_bounded() -> None:
    """A caller who makes up paths does not choose our memory."""
    made = backend()
    for n in range(10_000):
        made.destination(place("f", (str(n),)), None)
    made.destination(place("f", ("x" * 5000,)), None)
    assert len(made._memo) <= 4096
    assert all(len(key[1]) <= 256 for key in made._memo)


def test_a_direct_address_is_told_the_path_as_it_is() -> None:
    """A function's own server decodes once, so that even a slash inside of a segment is kept."""
    direct = "http://{function}.{namespace}:8080"
    where = backend().destination(place("f", ("a/b", "100%"), direct_url=direct), "x=1")
    assert where == Destination(Address("f.acme", 8080), b"/a%2Fb/100%25?x=1", b"f.acme:8080")


@pytest.mark.parametrize(
    ("function", "namespace", "direct"),
    [
        ("a/b", "acme", None),
        ("f?x", "acme", None),
        ("..", "acme", None),
        ("", "acme", None),
        ("f", "acme/../globex", None),
        ("f", "a.globex", None),
        ("evil.example", "acme", "http://{function}.{namespace}:8080"),
        ("f@evil", "acme", "http://{function}.{namespace}:8080"),
        ("f\r\nX: y", "acme", None),
    ],
)
def test_a_name_that_would_lead_elsewhere_is_no_function(function: str, namespace: str, direct: str | None) -> None:
    """Whatever a name was let through by, it does not leave this function's own address."""
    at = place(function, of=tenant("acme", namespace=namespace), direct_url=direct)
    assert backend().destination(at, None) == Deny(Reason.FUNCTION_UNKNOWN)


@pytest.mark.parametrize(
    ("url", "address", "host"),
    [
        ("http://gateway.openfaas:8080/", Address("gateway.openfaas", 8080), b"gateway.openfaas:8080"),
        ("https://faas.example", Address("faas.example", 443, is_tls=True), b"faas.example"),
        ("http://[::1]:8080", Address("::1", 8080), b"[::1]:8080"),
    ],
)
def test_the_gateway_has_an_address_and_a_host(url: str, address: Address, host: bytes) -> None:
    """Default ports are filled in for the pool and left out of the Host field."""
    where = backend(url).destination(place("f"), None)
    assert isinstance(where, Destination)
    assert (where.address, where.host, where.target) == (address, host, b"/function/f.acme/")


@pytest.mark.parametrize("url", ["gateway:8080", "ftp://gateway", "http://", "http://gateway:99999"])
def test_what_is_no_address_is_refused_at_the_start(url: str) -> None:
    """Not at the first request."""
    with pytest.raises(SettingsError):
        backend(url)
