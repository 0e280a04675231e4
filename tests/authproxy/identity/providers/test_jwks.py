"""When a provider is asked for its keys, and how seldom."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from authproxy.identity.providers.http import ProviderHttp
from authproxy.identity.providers.jwks import HARD_TTL_S, NEGATIVE_MAX, JwksCache, _soft_ttl_s
from authproxy.identity.providers.keys import MISSING, Missing, Unavailable
from tests.fakes.evil_provider import EvilProvider
from tests.fakes.identity import Clock, CountingMetric, a_provider
from tests.fakes.provider import FakeProvider, Key

K1, K2, K3 = Key("k1"), Key("k2", "EC", 2), Key("k3", "RSA", 3)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with FakeProvider(K1) as running:
        yield running


@pytest.fixture
async def http() -> AsyncIterator[ProviderHttp]:
    made = ProviderHttp(allow_loopback_http=True, timeout_s=2)
    yield made
    await made.close()


@pytest.fixture
async def cache(provider: FakeProvider, http: ProviderHttp, clock: Clock) -> AsyncIterator[JwksCache]:
    made = JwksCache("acme", a_provider(provider.issuer), http, clock=clock)
    yield made
    await made.close()


async def settle(cache: JwksCache) -> None:
    """Let the fetch that is under way end."""
    if cache._task is not None:
        await asyncio.wait((cache._task,))


async def has(cache: JwksCache, kid: str | None, clock: Clock, alg: str = "ES256") -> bool:
    return isinstance(await cache.key(kid, alg, clock.now), tuple)


async def test_keys_are_fetched_once_however_many_ask(cache: JwksCache, provider: FakeProvider, clock: Clock) -> None:
    """Single flight: a hundred first requests make one fetch, and one who leaves does not end it for the others."""
    waiting = [asyncio.create_task(cache.key("k1", "ES256", clock.now)) for _ in range(100)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    found = await asyncio.gather(*waiting[1:])
    assert all(isinstance(keys, tuple) and keys[0].kid == "k1" for keys in found)
    assert provider.requests == {"discovery": 1, "jwks": 1}


async def test_keys_at_hand_need_no_wait(cache: JwksCache, clock: Clock) -> None:
    """None means "wait", and only before the first fetch."""
    assert cache.key_now("k1", "ES256", clock.now) is None
    assert await has(cache, "k1", clock)
    assert isinstance(cache.key_now("k1", "ES256", clock.now), tuple)


async def test_an_algorithm_that_does_not_fit_the_key_is_no_key(
    cache: JwksCache, provider: FakeProvider, clock: Clock
) -> None:
    """R45: alg must fit kty and curve and the JWK's own alg; asking again would not help."""
    provider.keys = [K1, K3]
    assert await has(cache, "k3", clock, "RS256")
    for kid, alg in (
        ("k1", "RS256"),
        ("k1", "ES384"),
        ("k1", "EdDSA"),
        ("k3", "PS256"),
        ("k3", "ES256"),
        ("k1", "HS256"),
    ):
        assert cache.key_now(kid, alg, clock.now) is MISSING
    assert provider.requests["jwks"] == 1


async def test_without_kid_the_one_key_that_fits_is_meant(
    cache: JwksCache, provider: FakeProvider, clock: Clock
) -> None:
    """OpenID Connect Core section 10.1: with several there is no guessing."""
    provider.keys = [K1, K3]
    assert await has(cache, None, clock)
    provider.keys = [K1, K2]
    clock.pass_s(301)
    cache.current(clock.now)
    await settle(cache)
    assert cache.key_now(None, "ES256", clock.now) is MISSING


async def test_a_new_key_works_within_ten_seconds(cache: JwksCache, provider: FakeProvider, clock: Clock) -> None:
    """Rotation forward: an unknown kid asks again, but never sooner than ten seconds after the last attempt."""
    assert await has(cache, "k1", clock)
    provider.keys = [K1, K2]
    clock.pass_s(9)
    assert cache.key_now("k2", "ES256", clock.now) == Missing(retry_after_s=1.0)
    clock.pass_s(1)
    assert cache.key_now("k2", "ES256", clock.now) is None
    assert await has(cache, "k2", clock)
    assert provider.requests["jwks"] == 2


async def test_a_removed_key_dies_within_the_soft_lifetime(
    cache: JwksCache, provider: FakeProvider, clock: Clock
) -> None:
    """Rotation backward: the refresh runs behind, and the request that starts it is not kept waiting."""
    assert await has(cache, "k1", clock)
    provider.keys = [K2]
    clock.pass_s(300)
    assert isinstance(cache.key_now("k1", "ES256", clock.now), tuple)
    assert provider.requests["jwks"] == 1
    clock.pass_s(1)
    assert isinstance(cache.key_now("k1", "ES256", clock.now), tuple)
    await settle(cache)
    assert isinstance(cache.key_now("k1", "ES256", clock.now), Missing)
    assert isinstance(cache.key_now("k2", "ES256", clock.now), tuple)


async def test_after_a_long_silence_the_provider_is_asked_first(
    cache: JwksCache, provider: FakeProvider, clock: Clock
) -> None:
    """A key removed while nobody called is not believed once more."""
    assert await has(cache, "k1", clock)
    provider.keys = [K2]
    clock.pass_s(3600)
    assert cache.current(clock.now) is None
    assert not await has(cache, "k1", clock)
    assert await has(cache, "k2", clock)


@pytest.mark.parametrize(
    ("cache_control", "soft_s"),
    [
        *(("", 300), ("max-age=600", 600), ("public, max-age=120", 120), ("max-age=1", 60), ("max-age=999999", 900)),
        *(("no-store", 60), ("no-cache, max-age=600", 60), ("max-age=x", 300), ("max-age=-5", 300)),
        *(('max-age="600"', 600), ("max-age=" + "9" * 400, 300), ("MAX-AGE=600", 600), ("max-age=\u0663\u0663", 300)),
    ],
    ids=repr,
)
def test_cache_control_is_bounded(cache_control: str, soft_s: int) -> None:
    """RFC 9111 section 5.2.2.1, between one and fifteen minutes, whatever stands there."""
    assert _soft_ttl_s(cache_control) == soft_s


async def test_cache_control_moves_the_soft_lifetime(cache: JwksCache, provider: FakeProvider, clock: Clock) -> None:
    """Not a second earlier."""
    provider.cache_control = "max-age=600"
    assert await has(cache, "k1", clock)
    clock.pass_s(600)
    cache.current(clock.now)
    assert cache._task is None
    clock.pass_s(1)
    cache.current(clock.now)
    assert cache._task is not None
    await settle(cache)


async def test_what_was_good_stays_in_use_for_a_day(cache: JwksCache, provider: FakeProvider, clock: Clock) -> None:
    """R36: a provider that is down takes nobody's keys away until the hard lifetime is over; then there are none."""
    assert await has(cache, "k1", clock)
    provider.is_down = True
    started = clock.now
    while clock.now - started < HARD_TTL_S:
        assert await has(cache, "k1", clock)
        clock.pass_s(1800)
    clock.pass_s(1)
    assert cache.current(clock.now) is None
    answer = await cache.key("k1", "ES256", clock.now)
    assert isinstance(answer, Unavailable)
    assert 1 <= answer.retry_after_s <= 10
    provider.is_down = False
    clock.pass_s(10)
    assert await has(cache, "k1", clock)


async def test_a_provider_that_is_down_delays_nobody_twice(
    cache: JwksCache, provider: FakeProvider, clock: Clock
) -> None:
    """After one failed refresh the last good keys are used at once, and the provider is asked behind."""
    assert await has(cache, "k1", clock)
    provider.is_down = True
    clock.pass_s(3600)
    assert cache.key_now("k1", "ES256", clock.now) is None
    assert await has(cache, "k1", clock)
    clock.pass_s(60)
    assert isinstance(cache.key_now("k1", "ES256", clock.now), tuple)
    await settle(cache)


async def test_failures_are_throttled_too(cache: JwksCache, provider: FakeProvider, clock: Clock) -> None:
    """A provider that is down is not asked more often than one that is up."""
    provider.is_down = True
    for _ in range(100):
        assert isinstance(await cache.key("k1", "ES256", clock.now), Unavailable)
        clock.pass_s(0.3)
    assert provider.requests["discovery"] == 3


async def test_a_flood_of_unknown_kids_is_one_fetch_in_ten_seconds(
    cache: JwksCache, provider: FakeProvider, clock: Clock
) -> None:
    """CVE-2026-48524 of PyJWKClient: made-up kids must not drive fetches, one after another or all at once."""
    assert await has(cache, "k1", clock)
    clock.pass_s(10)
    found = await asyncio.gather(*(cache.key(f"a{number}", "ES256", clock.now) for number in range(500)))
    assert all(isinstance(answer, Missing) for answer in found)
    assert provider.requests["jwks"] == 2
    started = clock.now
    number = 0
    while clock.now - started < 95:
        assert not await has(cache, f"b{number}", clock)
        number += 1
        clock.pass_s(0.25)
    assert provider.requests["jwks"] <= 2 + 10
    assert len(cache._unknown) <= NEGATIVE_MAX


async def test_the_memory_of_unknown_kids_is_bounded(cache: JwksCache, clock: Clock) -> None:
    """A thousand and a half at once leave a thousand."""
    await asyncio.gather(*(cache.key(f"k-{number}", "ES256", clock.now) for number in range(1500)))
    assert len(cache._unknown) == NEGATIVE_MAX


async def test_a_kid_found_missing_is_not_asked_for_again_within_a_minute(
    cache: JwksCache, provider: FakeProvider, clock: Clock
) -> None:
    """Negative cache: but as soon as any fetch brings the key, it counts."""
    assert not await has(cache, "k2", clock)
    clock.pass_s(20)
    assert cache.key_now("k2", "ES256", clock.now) is MISSING
    provider.keys = [K1, K2]
    assert not await has(cache, "k-other", clock)
    assert await has(cache, "k2", clock)
    assert provider.requests["jwks"] == 2


async def test_a_flood_does_not_keep_a_new_key_out(cache: JwksCache, provider: FakeProvider, clock: Clock) -> None:
    """The fetch that an attacker's kid set off brings the honest key as well."""
    assert await has(cache, "k1", clock)
    provider.keys = [K1, K2]
    clock.pass_s(10)
    await cache.key("attacker", "ES256", clock.now)
    assert isinstance(cache.key_now("k2", "ES256", clock.now), tuple)


async def test_an_equal_set_stays_the_same_object(cache: JwksCache, provider: FakeProvider, clock: Clock) -> None:
    """So that cached tokens keep their cheap re-check over a refresh."""
    assert await has(cache, "k1", clock)
    before = cache.current(clock.now)
    clock.pass_s(301)
    cache.current(clock.now)
    await settle(cache)
    assert provider.requests["jwks"] == 2
    assert cache.current(clock.now) is before


async def test_a_clock_that_jumps_back_does_not_make_keys_immortal(
    cache: JwksCache, provider: FakeProvider, clock: Clock
) -> None:
    """Keys that seem to come from the future are fetched anew."""
    assert await has(cache, "k1", clock)
    provider.keys = [K2]
    clock.pass_s(-7200)
    cache.current(clock.now)
    await settle(cache)
    assert await has(cache, "k2", clock)


async def test_an_address_in_the_policy_needs_no_discovery(
    provider: FakeProvider, http: ProviderHttp, clock: Clock
) -> None:
    """``jwks_uri`` is the operator's word."""
    cache = JwksCache("acme", a_provider("https://unreachable.invalid", jwks_uri=provider.jwks_uri), http, clock=clock)
    assert await has(cache, "k1", clock)
    assert provider.requests == {"jwks": 1}
    await cache.close()


async def test_fetches_are_counted_by_outcome(provider: FakeProvider, http: ProviderHttp, clock: Clock) -> None:
    """Operators see which provider of which tenant fails, and how."""
    metric = CountingMetric()
    cache = JwksCache("acme", a_provider(provider.issuer), http, clock=clock, fetches=metric)
    await cache.key("k1", "ES256", clock.now)
    provider.is_down = True
    clock.pass_s(10)
    await cache.key("k9", "ES256", clock.now)
    provider.is_down, provider.keys = False, []
    clock.pass_s(10)
    await cache.key("k9", "ES256", clock.now)
    assert metric.counts == {("acme", "login", outcome): 1 for outcome in ("ok", "unreachable", "refused")}
    await cache.close()


async def test_closing_ends_a_fetch_that_hangs(http: ProviderHttp, clock: Clock) -> None:
    """And whoever waits for it gets an answer."""
    async with EvilProvider() as provider:
        provider.lie = "hang"
        cache = JwksCache("acme", a_provider(provider.issuer), http, clock=clock)
        waiting = asyncio.create_task(cache.key("k1", "ES256", clock.now))
        await asyncio.sleep(0.05)
        await cache.close()
        assert isinstance(await waiting, Unavailable)
