"""A connection's memo of its last head changes no reading of the next."""

from __future__ import annotations

from random import Random
from typing import Final

import pytest

from policies.peers import TrustedPeers
from policies.request import AccessRequest, Head, HeadMemo, ShownProof, read_head

_TRUSTED: Final = (
    TrustedPeers(()),
    TrustedPeers(("10.0.0.0/8",)),
    TrustedPeers(("10.0.0.0/8",), believes_certificates=True),
)
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
    (b"DPoP", b"a.b.c"),
    (b"Client-Cert", b":MAMCAQU=:"),
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
            chance.choice((None, None, b"1" * 32, b"2" * 32)),
        )
        trusted = chance.choice(_TRUSTED)
        read = read_head(head, trusted, memo)
        assert read == read_head(head, trusted)
        accepted += isinstance(read, AccessRequest)
    assert accepted or seed


def test_equal_proofs_of_two_requests_are_two_proofs() -> None:
    """Equal bytes on one connection are a proof that is shown a second time; the same request asked twice is not."""
    memo = HeadMemo()
    head = Head("GET", b"/", ((b"Host", b"a.test"), (b"DPoP", b"a.b.c")), (1, 1), "9.9.9.9", "https")
    read = [read_head(head, _TRUSTED[0], memo) for _ in range(2)]
    proofs = [request.dpop for request in read if isinstance(request, AccessRequest)]
    assert proofs == [b"a.b.c", b"a.b.c"]
    assert proofs[0] is not proofs[1]
    assert isinstance(proofs[0], ShownProof)
    proofs[0].accepted_for = ("acme", b"digest")
    assert isinstance(proofs[1], ShownProof)
    assert proofs[1].accepted_for is None
