"""How the request tests ask: a head is refused, with which reason."""

from __future__ import annotations

from typing import Any

from policies.decision import Deny, Reason
from policies.peers import TrustedPeers
from policies.request import Head, read_head
from tests.fakes.tenancy import NOBODY, a_head

BEHIND_PROXY = TrustedPeers(["10.0.0.0/8", "fd00::/8"])


def refused(head: Head, trusted: TrustedPeers = NOBODY) -> Deny:
    """The refusal of ``head``; a request is a failure."""
    answer = read_head(head, trusted)
    assert isinstance(answer, Deny), answer
    return answer


def reason(*fields: tuple[bytes, bytes], **changes: Any) -> Reason:
    return refused(a_head(changes.pop("target", b"/"), *fields, **changes)).reason
