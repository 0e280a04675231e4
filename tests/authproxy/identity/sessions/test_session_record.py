"""A session as bytes: the same session again, small, and nothing that is not one."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from authproxy.identity.sessions import lifetime, session_record
from authproxy.identity.sessions.seal import decode_session, encode_session
from authproxy.identity.sessions.session import Session
from policies.claims import person
from policies.principal import Principal
from policies.tables import ProviderSpec
from tests.fakes.identity import a_provider
from tests.fakes.provider import b64
from tests.fakes.sessions import some_tokens

PROVIDER = a_provider(email_domains=frozenset(("acme.example",)), groups_claim="realm.roles", tenant_claim="org")
_leaves = st.none() | st.booleans() | st.integers(-(10**39), 10**39) | st.floats(allow_nan=False) | st.text(max_size=20)
_json = st.recursive(
    _leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)


def session_of(claims: dict[str, Any] | None = None, provider: ProviderSpec = PROVIDER, **changes: Any) -> Session:
    return replace(lifetime.begun("acme", provider, some_tokens(1000.0, claims), 1000.0), **changes)


def facts(answer: object) -> object:
    """What of a principal is judged by anybody."""
    if not isinstance(answer, Principal):
        return answer
    return {
        name: getattr(answer, name)
        for name in ("subject", "groups", "has_unknown_groups", "email", "name", "issuer", "sid", "issued_at", "claims")
    }


@given(
    st.dictionaries(st.text(max_size=10), _json, max_size=5),
    st.fixed_dictionaries(
        {},
        optional={
            "org": _json,
            "realm": st.fixed_dictionaries({"roles": st.lists(st.text(max_size=8), max_size=5) | _json}),
            "email": st.text(max_size=20) | st.just("Ana@acme.example"),
            "email_verified": st.booleans(),
            "name": _json,
            "sid": _json,
            "iat": _json,
        },
    ),
)
def test_a_session_comes_back_as_it_was(extra: dict[str, Any], claims: dict[str, Any]) -> None:
    """Whatever JSON the claims are: the same session, so the same person."""
    session = session_of({"org": "acme", **extra, **claims})
    again = decode_session(encode_session(session), "acme")
    assert again == session
    assert again is not None
    one, other = (person(dict(kept.claims), PROVIDER, "acme", 5.0) for kept in (session, again))
    assert facts(one) == facts(other)


@given(st.dictionaries(st.sampled_from(("nonce", "jti", "at_hash", "c_hash", "groups", "org", "x")), _json))
def test_what_is_left_out_names_nobody(extra: dict[str, Any]) -> None:
    """The person is the same without the members that are dropped, also where a provider keeps groups under them."""
    for groups_claim in ("groups", "nonce", "jti.x"):
        provider = a_provider(groups_claim=groups_claim)
        tokens = some_tokens(1000.0, extra)
        whole = facts(person(dict(tokens.claims), provider, "acme", 5.0))
        kept = facts(person(dict(session_of(extra, provider).claims), provider, "acme", 5.0))
        for found in (whole, kept):
            if isinstance(found, dict):
                found.pop("claims")
        assert whole == kept


def test_a_session_of_another_tenant_is_none() -> None:
    """Even if it could be opened there."""
    assert decode_session(encode_session(session_of()), "globex") is None


@pytest.mark.parametrize(
    "token",
    [None, "", "opaque", "a.b", "a.b.c.d", "YQ.YQ.YQ", "YR.YQ.YQ", "YQ==.YQ.YQ", "\u00e9.YQ.YQ", "YQ.YQ.", ".."],
)
def test_an_id_token_comes_back_to_the_letter(token: str | None) -> None:
    """A JWT is kept shorter; what is none is kept as it is."""
    session = session_of(id_token=token)
    assert decode_session(encode_session(session), "acme") == session


def test_claims_that_stand_twice_cost_once() -> None:
    """Two hundred groups, in the claims and in the ID token."""
    claims = {"groups": [f"CN=team-{n},OU=groups,DC=acme,DC=example" for n in range(200)]}
    token = f"{b64(b'{}')}.{b64(json.dumps(claims).encode())}.{b64(bytes(64))}"
    session = session_of(claims, id_token=token)
    data = encode_session(session)
    assert len(data) < 3000
    assert decode_session(data, "acme") == session


@given(st.dictionaries(st.text(max_size=6), _json, max_size=5), st.data())
def test_claims_of_the_id_token_come_back_as_they_were(members: dict[str, Any], data: st.DataObject) -> None:
    """They are read out of it again: the same values, types and all, whichever were dropped or are others."""
    token = f"{b64(b'{}')}.{b64(json.dumps(members).encode())}.{b64(bytes(64))}"
    read = json.loads(json.dumps(members))
    kept = {name: value for name, value in read.items() if data.draw(st.booleans())}
    for name in kept:
        if data.draw(st.integers(0, 9)) == 0:
            kept[name] = data.draw(_json)
    session = replace(session_of(), claims=kept, id_token=token)
    again = decode_session(encode_session(session), "acme")
    assert again == session
    assert again is not None
    assert json.dumps(again.claims, sort_keys=True) == json.dumps(kept, sort_keys=True)


@pytest.mark.parametrize(
    ("kept", "written"), [({"a": 1}, {"a": True}), ({"a": 1}, {"a": 1.0}), ({"a": 0}, {"a": -0.0})]
)
def test_values_that_only_look_alike_are_kept_apart(kept: dict[str, Any], written: dict[str, Any]) -> None:
    """``1 == True`` to Python, and not to a policy."""
    token = f"{b64(b'{}')}.{b64(json.dumps(written).encode())}.{b64(bytes(64))}"
    again = decode_session(encode_session(replace(session_of(), claims=kept, id_token=token)), "acme")
    assert again is not None
    assert repr(again.claims) == repr(kept)


def test_the_length_of_what_is_deflated_tells_nothing_of_secrets() -> None:
    """A refresh token that repeats a claim is no shorter for it (CRIME)."""
    claims = {"padding": ["abcdefgh" * 8] * 40}
    guessed = encode_session(session_of(claims, refresh_token="abcdefgh" * 8, secret=b"s" * 32))
    other = encode_session(session_of(claims, refresh_token="q7Zk2mXw" * 8, secret=b"s" * 32))
    assert len(guessed) == len(other)


def test_a_bomb_is_not_inflated() -> None:
    """A hundred mebibytes of zeros in a hundred kilobytes."""
    record = msgspec.msgpack.decode(encode_session(session_of()))
    record[13:15] = [True, zlib.compress(bytes(100 * 1024 * 1024), 9)]
    assert decode_session(msgspec.msgpack.encode(record), "acme") is None


@pytest.mark.parametrize(
    "claims",
    [{"x": "\ud800"}, {"x": 10**70}, {"x": object()}, {"x": "y" * session_record.MAX_BYTES}],
    ids=["lone surrogate", "70 digits", "object", "too long"],
)
def test_what_is_not_json_is_not_written(claims: dict[str, Any]) -> None:
    """One kind of error, that quotes nothing."""
    with pytest.raises(ValueError, match=r"^the claims "):
        encode_session(session_of(claims))


def test_nesting_without_end_is_not_written() -> None:
    """Deeper than Python goes."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ValueError, match=r"^the claims "):
        encode_session(session_of({"x": deep}))


@given(st.binary(max_size=300))
def test_no_bytes_raise(data: bytes) -> None:
    """They have been authenticated; all the same."""
    assert decode_session(data, "acme") is None


def test_another_form_is_none() -> None:
    """A later Portero's session is none here."""
    record = msgspec.msgpack.decode(encode_session(session_of()))
    for at, value in ((0, 2), (4, "one"), (3, "text"), (13, 7), (14, b"\xc1")):
        changed = [*record]
        changed[at] = value
        assert decode_session(msgspec.msgpack.encode(changed), "acme") is None
    assert decode_session(msgspec.msgpack.encode(record[:-1]), "acme") is None
