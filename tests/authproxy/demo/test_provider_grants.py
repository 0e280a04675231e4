"""What the demo's provider remembers, by a clock of the test's own: how long a code and a login are good."""

from __future__ import annotations

import pytest
from authlib.oauth2.rfc6749 import InvalidGrantError
from authlib.oauth2.rfc7636 import create_s256_code_challenge

from authproxy.demo.people import PEOPLE
from authproxy.demo.provider_grants import CODE_S, MAX_KEPT, SESSION_S, AuthorizationRequest, Grants

VERIFIER = "v" * 43
URI = "http://acme.localhost:8088/.portero/callback"
REQUEST = AuthorizationRequest(URI, "state", "nonce", str(create_s256_code_challenge(VERIFIER)), "openid")


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("after_s", "is_good"), [(CODE_S - 1, True), (CODE_S, False)])
def test_a_code_is_good_for_a_minute(after_s: float, is_good: bool) -> None:
    """RFC 6749 section 4.1.2 allows ten minutes; a browser takes seconds."""
    clock = Clock()
    grants = Grants(clock)
    code = grants.give_code(grants.log_in(PEOPLE[0]), REQUEST)
    clock.now += after_s
    if is_good:
        assert grants.redeem(code, URI, VERIFIER)[0].session.person is PEOPLE[0]
    else:
        with pytest.raises(InvalidGrantError):
            grants.redeem(code, URI, VERIFIER)


def test_refresh_ends_with_the_login() -> None:
    """However often it was refreshed, and with a code that was not redeemed in time too."""
    clock = Clock()
    grants = Grants(clock)
    session = grants.log_in(PEOPLE[0])
    _, token = grants.redeem(grants.give_code(session, REQUEST), URI, VERIFIER)
    clock.now += SESSION_S - 1
    _, token = grants.refresh(token)
    code = grants.give_code(session, REQUEST)
    clock.now += 1
    assert grants.session(session.id) is None
    with pytest.raises(InvalidGrantError):
        grants.refresh(token)
    with pytest.raises(InvalidGrantError):
        grants.redeem(code, URI, VERIFIER)


@pytest.mark.parametrize("verifier", ["", "v" * 42, "v" * 129, "é" * 43, "V" * 43])
def test_another_verifier_is_refused(verifier: str) -> None:
    """RFC 7636 section 4.1 bounds it; what is no ASCII is no verifier and no exception either."""
    grants = Grants()
    code = grants.give_code(grants.log_in(PEOPLE[0]), REQUEST)
    with pytest.raises(InvalidGrantError):
        grants.redeem(code, URI, verifier)


def test_what_is_kept_is_bounded() -> None:
    """The oldest login makes room; the newest stays."""
    grants = Grants()
    first = grants.log_in(PEOPLE[0])
    for _ in range(MAX_KEPT):
        last = grants.log_in(PEOPLE[1])
    assert grants.session(first.id) is None
    assert grants.session(last.id) is last
    assert len(grants.sessions_of(PEOPLE[1].sub)) == MAX_KEPT
