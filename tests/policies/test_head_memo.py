"""A connection's memo of its last head changes no reading of the next."""

from __future__ import annotations

from random import Random
from typing import Final

import pytest

from policies.peers import TrustedPeers
from policies.request import AccessRequest, Head, HeadMemo, read_head

_TRUSTED: Final = (TrustedPeers(()), TrustedPeers(("10.0.0.0/8",)))
_TARGETS: Final = (b"/a", b"/b?x=1", b"/a/../b", b"http://a.test/a", b"http://b.test/a", b"/%2f", b"//x", b"*", b"/c#")
_FIELDS: Final = (
    (b"Host", b"a.test"),
    (b"Authorization", b"Bearer x"),
    (b"Cookie", b"a=b"),
    (b"X-Forwarded-For", b"1.2.3.4"),
    (b"X-Forwarded-Proto", b"https"),
    (b"Content-Length", b"5"),
    (b"Transfer-Encoding", b"chunked"),
    (b"Connection", b"close"),
    (b"Upgrade", b"websocket"),
    (b"Expect", b"100-continue"),
    (b"Origin", b"https://a.test"),
    (b"X-Dispatch-Org", b"acme"),
    (b"X_Forwarded_For", b"6.6.6.6"),
    (b"Idempotency-Key", b"k"),
)


@pytest.mark.parametrize("seed", range(20))
def test_a_memo_changes_nothing(seed: int) -> None:
    """Whatever differs between two heads, or between the peers that are trusted: fields, target, version, TLS."""
    chance = Random(seed)  # the seed names the case
    usual = [((b"Host", b"a.test"), *chance.sample(_FIELDS, chance.randrange(3))) for _ in range(3)]
    memo = HeadMemo()
    accepted = 0
    for _ in range(500):
        head = Head(
            chance.choice(("GET", "GET", "POST", "HEAD", "OPTIONS")),
            chance.choice(_TARGETS),
            chance.choice(usual),
            chance.choice(((1, 1), (1, 1), (1, 0))),
            chance.choice(("10.0.0.1", "10.0.0.1", "9.9.9.9")),
            chance.choice(("http", "http", "https")),
            chance.choice((None, None, "a.test", "b.test")),
        )
        trusted = chance.choice(_TRUSTED)
        read = read_head(head, trusted, memo)
        assert read == read_head(head, trusted)
        accepted += isinstance(read, AccessRequest)
    assert accepted or seed
