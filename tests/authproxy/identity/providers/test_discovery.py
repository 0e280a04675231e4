"""What a provider says of itself: which members count, and how often it is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from authproxy.identity.providers.discovery import Discovery
from authproxy.identity.providers.http import ProviderHttp
from policies.errors import ProviderUnavailable
from tests.fakes.evil_provider import EvilProvider
from tests.fakes.identity import Clock, a_provider
from tests.fakes.login_provider import LoginProvider, a_login


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def provider() -> AsyncIterator[LoginProvider]:
    async with LoginProvider() as running:
        yield running


@pytest.fixture
async def http() -> AsyncIterator[ProviderHttp]:
    made = ProviderHttp(allow_loopback_http=True, timeout_s=0.3)
    yield made
    await made.close()


@pytest.fixture
async def discovery(http: ProviderHttp, clock: Clock) -> AsyncIterator[Discovery]:
    made = Discovery(http, clock=clock)
    yield made
    await made.close()


async def test_endpoints_on_the_issuers_site_are_used(discovery: Discovery, provider: LoginProvider) -> None:
    """Only the members that are needed, and none that is not there."""
    metadata = await discovery.of("acme", a_login(provider))
    assert metadata.endpoints == provider.endpoints()
    assert not metadata.misplaced
    assert not metadata.requires_pushed_requests
    assert not metadata.names_issuer_in_response


@pytest.mark.parametrize(
    "address",
    [
        "http://localhost:1/token",
        "https://127.0.0.1/token",
        "http://10.0.0.1/token",
        "https://evil.example/token",
        "ftp://127.0.0.1/token",
        "http://127.0.0.1@evil.example/token",
        "http://u:p@127.0.0.1/token",
        "http://127.0.0.1/token#x",
        "http://127.0.0.1/to ken",
        "http://127.0.0.1/\r\nX: y",
        "javascript:alert(1)",
        "//evil.example/token",
        "/token",
        "http://[::1",
        "",
        "http://127.0.0.1/" + "x" * 2048,
    ],
)
async def test_an_endpoint_elsewhere_is_not_used(
    address: str, discovery: Discovery, provider: LoginProvider, caplog: pytest.LogCaptureFixture
) -> None:
    """R43: codes and secrets are sent there. The text says what to do and quotes nothing of the document."""
    provider.metadata = {"token_endpoint": address}
    metadata = await discovery.of("acme", a_login(provider))
    assert metadata.misplaced == {"token_endpoint"}
    with pytest.raises(ProviderUnavailable, match="write it under endpoints"):
        metadata.endpoint("token_endpoint")
    assert "userinfo_endpoint" in metadata.endpoints, "the others stay of use"
    assert "evil" not in caplog.text


async def test_the_policys_own_addresses_come_first(discovery: Discovery, provider: LoginProvider) -> None:
    """They may be on another site, and what they name is not asked for."""
    address = "https://oauth.other.example/token"
    spec = a_login(provider, endpoints={"token_endpoint": address})
    assert await discovery.endpoint("acme", spec, "token_endpoint") == address
    assert provider.requests["discovery"] == 0
    assert (await discovery.of("acme", spec)).endpoint("token_endpoint") == address


@pytest.mark.parametrize(
    "members",
    [
        *({"issuer": "SLASH"}, {"issuer": None}, {"issuer": 7}, {"token_endpoint": 7}, {"token_endpoint": ["x"]}),
        *({"token_endpoint": {}}, {"require_pushed_authorization_requests": "false"}),
        *({"authorization_response_iss_parameter_supported": 1}, {"end_session_endpoint": False}),
    ],
    ids=str,
)
async def test_a_document_that_no_honest_provider_gives_is_refused(
    members: dict[str, Any], discovery: Discovery, provider: LoginProvider
) -> None:
    """Issuer byte for byte (Discovery section 4.3); types as they must be: a text "false" must not weaken a check."""
    provider.metadata = {name: provider.issuer + "/" if value == "SLASH" else value for name, value in members.items()}
    with pytest.raises(ProviderUnavailable):
        await discovery.of("acme", a_login(provider))


@pytest.mark.parametrize("lie", ["discovery-redirect", "discovery-duplicate", "discovery-other-issuer"])
async def test_a_document_that_is_a_lie_is_refused(lie: str, discovery: Discovery) -> None:
    """A5: nothing is followed, nothing ambiguous is read."""
    async with EvilProvider() as evil:
        evil.lie, evil.elsewhere = lie, evil.issuer.replace("127.0.0.1", "localhost")
        with pytest.raises(ProviderUnavailable):
            await discovery.of("acme", a_provider(evil.issuer))
        assert evil.requests["other"] == 0


async def test_it_is_asked_once_an_hour_and_once_for_all_who_wait(
    discovery: Discovery, provider: LoginProvider, clock: Clock
) -> None:
    """Single flight; another tenant asks for itself."""
    spec = a_login(provider)
    await asyncio.gather(*(discovery.of("acme", spec) for _ in range(20)))
    await discovery.of("acme", replace(spec))
    assert provider.requests["discovery"] == 1
    clock.pass_s(3601)
    await discovery.of("acme", spec)
    await discovery.of("globex", spec)
    assert provider.requests["discovery"] == 3


async def test_one_who_leaves_does_not_end_the_fetch_for_the_others(
    discovery: Discovery, provider: LoginProvider
) -> None:
    """A browser that closes its connection cancels its own request only."""
    spec = a_login(provider)
    first = asyncio.create_task(discovery.of("acme", spec))
    await asyncio.sleep(0)
    second = asyncio.create_task(discovery.of("acme", spec))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).endpoints
    assert provider.requests["discovery"] == 1


async def test_a_failure_is_not_asked_about_again_at_once(
    discovery: Discovery, provider: LoginProvider, clock: Clock
) -> None:
    """Ten seconds, so that a provider in trouble is not hammered by every browser."""
    provider.is_down = True
    for _ in range(5):
        with pytest.raises(ProviderUnavailable, match="503"):
            await discovery.of("acme", a_login(provider))
    assert provider.requests["discovery"] == 1
    provider.is_down = False
    clock.pass_s(10)
    assert (await discovery.of("acme", a_login(provider))).endpoints


async def test_what_was_good_is_used_for_a_day_while_the_provider_is_down(
    discovery: Discovery, provider: LoginProvider, clock: Clock
) -> None:
    """And not a second longer."""
    await discovery.of("acme", a_login(provider))
    provider.is_down = True
    clock.pass_s(24 * 3600)
    assert (await discovery.of("acme", a_login(provider))).endpoints
    clock.pass_s(11)
    with pytest.raises(ProviderUnavailable):
        await discovery.of("acme", a_login(provider))


async def test_closing_ends_what_is_under_way(http: ProviderHttp, clock: Clock, provider: LoginProvider) -> None:
    """Nobody is left waiting."""
    discovery = Discovery(http, clock=clock)
    waiting = asyncio.create_task(discovery.of("acme", a_login(provider)))
    await asyncio.sleep(0)
    await discovery.close()
    with pytest.raises(ProviderUnavailable):
        await waiting


async def test_a_mistyped_issuer_is_set_right_by_the_log(discovery: Discovery, provider: LoginProvider) -> None:
    """A final slash is what operators get wrong; what else a stranger says is not repeated."""
    provider.metadata = {"issuer": provider.issuer + "/"}
    with pytest.raises(ProviderUnavailable, match=rf"must be '{provider.issuer}/', byte for byte"):
        await discovery.of("acme", a_provider(provider.issuer))
    provider.metadata = {"issuer": "https://canary.example"}
    with pytest.raises(ProviderUnavailable, match=r"^discovery names another issuer$"):
        await discovery.of("globex", a_provider(provider.issuer))
