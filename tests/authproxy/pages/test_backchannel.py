"""``/.portero/backchannel-logout``: what a provider's word ends, once."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from authproxy.identity.shared.state_memory import MemoryState
from policies.decision import Reason
from policies.errors import ProviderUnavailable, StoreUnavailable
from policies.id_token import LogoutNotice
from tests.fakes.pages import FORM, PagesWorld, Reply, form_body

ISSUER = "https://id.example"


def a_world(**notice: Any) -> PagesWorld:
    world = PagesWorld()
    said = {"sub": "ana", "sid": None, "jti": "j-1", "expires_at": world.clock() + 120, **notice}
    world.client.notices["good"] = LogoutNotice("login", ISSUER, **said)
    return world


async def tell(world: PagesWorld, token: str = "good", host: str = "acme.localhost") -> Reply:
    return await world.ask(
        "/.portero/backchannel-logout", FORM, host=host, body=form_body(logout_token=token), method="POST"
    )


def error_of(reply: Reply) -> str:
    return str(json.loads(reply.body)["error"])


@pytest.mark.parametrize(
    ("notice", "kind", "who"),
    [
        pytest.param({"sub": "ana", "sid": None}, "subject", "ana", id="sub-ends-all-sessions"),
        pytest.param({"sub": None, "sid": "s-1"}, "sid", "s-1", id="sid-ends-one"),
        pytest.param({"sub": "ana", "sid": "s-1"}, "sid", "s-1", id="both-end-the-one-of-sid"),
    ],
)
async def test_a_notice_ends_what_it_names(notice: dict[str, str | None], kind: str, who: str) -> None:
    """Back-Channel Logout 1.0 section 2.4: only without sid are all sessions of the subject meant."""
    world = a_world(**notice)
    reply = await tell(world)
    assert (reply.status, reply.body, reply.field("Cache-Control")) == (200, b"", "no-store")
    ((told, tenant, issuer, named, at, until),) = world.revocations.told
    assert (told, tenant, issuer, named, at) == (kind, "acme", ISSUER, who, world.clock())
    assert until - at >= 24 * 3600
    assert reply.subject == ("login|ana" if notice["sub"] else None)
    assert world.metrics.logouts_total.counts == {("acme", "back-channel"): 1}


async def test_a_mark_outlives_what_it_ends() -> None:
    """Sessions and tokens of that issuer that are longest-lived have expired by then."""
    world = PagesWorld()
    (provider,) = world.tenants[0].providers
    tenant = replace(world.tenants[0], providers=(replace(provider, max_token_lifetime_s=9e5),))
    world = PagesWorld((tenant,))
    world.client.notices["good"] = LogoutNotice("login", ISSUER, "ana", None, "j", world.clock() + 60)
    await tell(world)
    assert world.revocations.told[0][-1] >= world.clock() + 9e5


async def test_a_notice_works_once() -> None:
    """A token that was kept by somebody ends nothing that has begun since."""
    world = a_world()
    await tell(world)
    again = await tell(world)
    assert (again.status, error_of(again), again.reason) == (400, "invalid_request", Reason.CREDENTIAL_INVALID)
    assert len(world.revocations.told) == 1


async def test_a_notice_is_one_tenants() -> None:
    """The same token may be good for two tenants of one provider: each acts on it once."""
    world = a_world()
    assert (await tell(world)).status == 200
    assert (await tell(world, host="globex.localhost")).status == 200
    assert [told[1] for told in world.revocations.told] == ["acme", "globex"]


async def test_a_logout_that_could_not_be_told_may_be_sent_again() -> None:
    """503 the first time; the provider's second try is no replay. When it was done, it is."""
    world = a_world()
    world.revocations.failure = StoreUnavailable("canary")
    reply = await tell(world)
    assert (reply.status, reply.reason) == (503, Reason.SESSION_STORE_UNAVAILABLE)
    world.revocations.failure = None
    assert (await tell(world)).status == 200
    assert (await tell(world)).status == 400


async def test_a_store_that_is_down_ends_nothing() -> None:
    """AP-R26: whether the token was used cannot be known."""
    world = a_world()

    class Down(MemoryState):
        async def add(self, key: str, value: bytes, ttl_s: float) -> bool:
            raise StoreUnavailable("canary")

    world.pages._parts = replace(world.pages._parts, state=Down())
    reply = await tell(world)
    assert (reply.status, reply.reason) == (503, Reason.SESSION_STORE_UNAVAILABLE)
    assert not world.revocations.told
    assert "canary" not in reply.text


async def test_a_token_that_is_not_good_ends_nothing() -> None:
    """400 as section 2.8 has it, and no word of the token."""
    world = a_world()
    reply = await tell(world, "canary")
    assert (reply.status, error_of(reply)) == (400, "invalid_request")
    assert reply.field("Cache-Control") == "no-store"
    assert not world.revocations.told
    assert "canary" not in reply.text


async def test_keys_that_cannot_be_had_are_no_verdict() -> None:
    """503: the provider may send it again."""
    world = a_world()
    world.client.failure = ProviderUnavailable("canary")
    assert (await tell(world)).status == 503


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        pytest.param((FORM,), b"", id="empty"),
        pytest.param((FORM,), b"logout_token=", id="empty-token"),
        pytest.param((FORM,), b"logout_token=good&logout_token=good", id="twice"),
        pytest.param((), b"logout_token=good", id="no-type"),
        pytest.param(((b"Content-Type", b"application/json"),), b'{"logout_token":"good"}', id="json"),
    ],
)
async def test_what_is_no_such_form_ends_nothing(fields: tuple[tuple[bytes, bytes], ...], body: bytes) -> None:
    """Section 2.5: one parameter of a form."""
    world = a_world()
    reply = await world.ask("/.portero/backchannel-logout", *fields, body=body, method="POST")
    assert (reply.status, error_of(reply), reply.reason) == (400, "invalid_request", Reason.BAD_REQUEST)
    assert not world.revocations.told


async def test_a_token_in_the_query_is_not_looked_at() -> None:
    """It would stand in logs on the way."""
    world = a_world()
    reply = await world.ask("/.portero/backchannel-logout?logout_token=good", FORM, method="POST")
    assert (reply.status, world.revocations.told) == (400, [])
