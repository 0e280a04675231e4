"""Sealing: what opens is what was sealed here, for this tenant, purpose and name; anything else is None."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authproxy.identity.sessions.seal import (
    Sealer,
    SessionKeys,
    from_text,
    open_under,
    seal_under,
    sealed_chars,
    to_text,
)

OLD, NEW = (b"old.", secrets.token_bytes(32)), (b"new.", secrets.token_bytes(32))


def sealer(current: tuple[bytes, bytes] = NEW, accepted: Mapping[bytes, bytes] | None = None) -> Sealer:
    keys = SessionKeys(current, dict([current]) if accepted is None else accepted)
    return Sealer(lambda: keys)


@given(st.binary(max_size=3000))
def test_what_was_sealed_opens(plain: bytes) -> None:
    """The same bytes come back, from text that is as long as was said."""
    text = sealer().seal("acme", "session", "n", plain)
    assert len(text) == sealed_chars(len(plain))
    assert sealer().open("acme", "session", "n", text) == sealer().open("acme", "session", "n", text.encode()) == plain


def test_nothing_is_sealed_twice_alike() -> None:
    """A nonce of its own each time."""
    one = sealer()
    assert len({one.seal("acme", "p", "n", b"x") for _ in range(1000)}) == 1000


@pytest.mark.parametrize(
    "place",
    [("globex", "session", "n"), ("acme", "login", "n"), ("acme", "session", "m"), ("acmes", "ession", "n")],
    ids=["tenant", "purpose", "name", "letters moved"],
)
def test_it_opens_in_its_own_place_only(place: tuple[str, str, str]) -> None:
    """AP-R46: tenant, purpose and name are part of what is sealed."""
    assert sealer().open(*place, sealer().seal("acme", "session", "n", b"x")) is None


def test_an_older_key_opens_for_as_long_as_it_is_accepted() -> None:
    """Keys change without logging anybody out, and an old key that was removed opens nothing."""
    text = sealer(OLD).seal("acme", "p", "n", b"x")
    assert sealer(NEW, dict([OLD, NEW])).open("acme", "p", "n", text) == b"x"
    assert sealer(NEW, dict([OLD])).open("acme", "p", "n", sealer(NEW).seal("acme", "p", "n", b"y")) == b"y"
    assert sealer(NEW).open("acme", "p", "n", text) is None


def test_other_keys_of_the_same_id_are_noticed() -> None:
    """What was derived is forgotten when the keys are another object."""
    keys = [SessionKeys(OLD, {})]
    one = Sealer(lambda: keys[0])
    text = one.seal("acme", "p", "n", b"x")
    keys[0] = SessionKeys((OLD[0], NEW[1]), {})
    assert one.open("acme", "p", "n", text) is None
    assert one.open("acme", "p", "n", one.seal("acme", "p", "n", b"y")) == b"y"


def test_every_changed_bit_is_noticed() -> None:
    """Version, key id, nonce, ciphertext and tag."""
    data = bytearray(from_text(sealer().seal("acme", "p", "n", b"some text")) or b"")
    for at in range(len(data)):
        for bit in range(8):
            data[at] ^= 1 << bit
            assert sealer().open("acme", "p", "n", to_text(bytes(data))) is None
            data[at] ^= 1 << bit
    assert sealer().open("acme", "p", "n", to_text(bytes(data))) == b"some text"


@given(st.text(max_size=200) | st.binary(max_size=200))
def test_anything_else_is_nothing(text: str | bytes) -> None:
    """Never raises, whatever it is given."""
    assert sealer().open("acme", "p", "n", text) is None


@given(st.binary(max_size=64))
def test_one_text_for_the_same_bytes(data: bytes) -> None:
    """No second spelling is read: neither padding, nor the other alphabet, nor bits that nobody looks at."""
    text = to_text(data)
    assert from_text(text) == data
    for other in (text + "=", text + "==", text + "\n", " " + text, text + "A", text + "!"):
        assert from_text(other) != data
    if text:
        for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_+/":
            assert letter == text[-1] or from_text(text[:-1] + letter) != data


def test_a_text_beyond_all_measure_is_not_read() -> None:
    assert from_text("A" * (64 * 1024 + 4)) is None


def test_derived_keys_are_not_kept_without_bound() -> None:
    """As many tenants as there may be."""
    one = sealer()
    for number in range(5000):
        one.seal(f"t{number}", "p", "n", b"")
    assert len(one._memo) <= 4096


@given(st.binary(max_size=500))
def test_what_is_sealed_under_a_secret_opens_under_it_alone(plain: bytes) -> None:
    """Other secret, purpose or tenant: nothing."""
    secret = secrets.token_bytes(32)
    data = seal_under(secret, "ticket", "acme", plain)
    assert open_under(secret, "ticket", "acme", data) == plain
    assert open_under(secrets.token_bytes(32), "ticket", "acme", data) is None
    assert open_under(secret, "renewed", "acme", data) is None
    assert open_under(secret, "ticket", "globex", data) is None
    assert open_under(secret, "ticket", "acme", data[:-1]) is None


@given(st.binary(max_size=100))
def test_anything_else_opens_under_no_secret(data: bytes) -> None:
    """Never raises."""
    assert open_under(b"s" * 32, "ticket", "acme", data) is None
