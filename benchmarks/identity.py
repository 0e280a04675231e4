"""
What it costs to know a caller: a token or a session seen before, and a sealed session that is opened anew.

256 callers with tokens and cookies of their own, as a provider such as Keycloak makes them: a dozen claims, six groups,
a refresh token, and an ID token of 1 KiB, signed with RSA. "Large" sessions have 80 groups with long names, which are
deflated. All variants are measured in turns, one pass over all callers each; the median of the passes counts.

    python benchmarks/identity.py            prints the figures
    python benchmarks/identity.py --check    and exits 1 when a target is missed
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import secrets
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from authproxy.identity.providers.http import Document, ProviderHttp
from authproxy.identity.secrets import Secrets
from authproxy.identity.sessions.session import Tokens
from authproxy.identity.tokens.bearer import BearerIdentity
from policies.principal import Principal
from policies.request import AccessRequest
from policies.tables import TenantTable
from tests.fakes.identity import a_provider, a_request, a_tenant
from tests.fakes.provider import AUDIENCE, Key, compact
from tests.fakes.sessions import ISSUER, Jar, World

CALLERS: Final = 256
TOKEN: Final = "verifying a token that was seen before"
OPEN: Final = "opening a sealed session"
OPEN_LARGE: Final = "opening a large sealed session"
SEEN: Final = "a session seen before"
SEEN_LARGE: Final = "a large session seen before"
TARGETS: Final = {TOKEN: 3.0, SEEN: 5.0, OPEN: 30.0}
"""Microseconds."""


class Variant(NamedTuple):
    name: str
    prepare: Callable[[], None]
    """Before each pass, not measured."""
    ask: Callable[[TenantTable, AccessRequest, float], object]
    requests: list[AccessRequest]


class _KeysAtHand(ProviderHttp):
    """A provider that is asked for its keys once, at the beginning."""

    def __init__(self, key: Key) -> None:
        super().__init__()
        self._key = key

    async def get(self, url: str, allowed_private_hosts: frozenset[str], *, bearer: str | None = None) -> Document:
        del url, allowed_private_hosts, bearer
        return Document({"keys": [self._key.jwk()]}, "max-age=3600")


def claims_of(number: int, now: float, groups: int) -> dict[str, Any]:
    """As Keycloak writes them."""
    return {
        "iss": ISSUER,
        "sub": f"{secrets.token_hex(4)}-2f1c-4d0e-9a51-{number:012}",
        "aud": AUDIENCE,
        "exp": int(now) + 900,
        "iat": int(now),
        "auth_time": int(now),
        "jti": secrets.token_hex(16),
        "nonce": secrets.token_urlsafe(16),
        "azp": AUDIENCE,
        "sid": secrets.token_hex(16),
        "email": f"person-{number}@acme.example",
        "email_verified": True,
        "name": f"Person Number {number}",
        "groups": [f"team-{n}-of-the-organisation" for n in range(groups)],
    }


async def build(callers: int) -> tuple[TenantTable, float, list[Variant]]:
    """The variants, everything that they look at being warm."""
    key = Key("k1", "RSA")
    tenant = a_tenant("acme", a_provider(ISSUER, jwks_uri=f"{ISSUER}/keys"))
    world = World()
    now = world.now
    bearer = BearerIdentity(_KeysAtHand(key), Secrets(None), clock=world.clock)
    header = {"typ": "JWT", "alg": "RS256", "kid": "k1"}
    tokens: list[AccessRequest] = []
    small: list[AccessRequest] = []
    large: list[AccessRequest] = []
    for number in range(callers):
        for groups, into in ((6, small), (80, large)):
            claims = claims_of(number, now, groups)
            token = compact(header, claims, key)
            jar = Jar()
            login = Tokens(
                ISSUER, claims["sub"], claims["sid"], claims, token, None, secrets.token_urlsafe(48), now + 900, now
            )
            _, values = await world.sessions.begin(tenant, tenant.providers[0], login, jar.request(), now)
            jar.take(values)
            into.append(a_request(cookie=b"theme=dark; " + jar.field))
            if into is small:
                request = a_request(token)
                tokens.append(request)
                await bearer.identify(tenant, request, now)
    forget = world.sessions.revoke_all

    def know(requests: list[AccessRequest]) -> Callable[[], None]:
        def each() -> None:
            for request in requests:
                world.sessions.identify_now(tenant, request, now)

        return each

    return (
        tenant,
        now,
        [
            Variant(TOKEN, lambda: None, bearer.known_now, tokens),
            Variant(SEEN, know(small), world.sessions.known_now, small),
            Variant(OPEN, forget, world.sessions.identify_now, small),
            Variant(SEEN_LARGE, know(large), world.sessions.known_now, large),
            Variant(OPEN_LARGE, forget, world.sessions.identify_now, large),
        ],
    )


def measure(callers: int = CALLERS, passes: int = 60) -> dict[str, float]:
    """Name of the variant -> microseconds. Raises: RuntimeError when a caller is not who was expected."""
    tenant, now, variants = asyncio.run(build(callers))
    clock = time.perf_counter_ns
    times: dict[str, list[float]] = {variant.name: [] for variant in variants}
    gc.collect()
    gc.freeze()
    for turn in range(passes + 1):
        for variant in variants:
            variant.prepare()
            ask = variant.ask
            began = clock()
            answers = [ask(tenant, request, now) for request in variant.requests]
            took = clock() - began
            if not all(isinstance(who, Principal) and not who.is_anonymous for who in answers):
                raise RuntimeError(f"{variant.name}: a caller was not known")
            if turn:  # the first turn warms
                times[variant.name].append(took / len(answers) / 1e3)
    gc.unfreeze()
    return {name: statistics.median(taken) for name, taken in times.items()}


def main(arguments: Sequence[str]) -> int:
    options = argparse.ArgumentParser(description="What it costs to know a caller.")
    options.add_argument("--check", action="store_true", help="exit with status 1 when a target is missed")
    options.add_argument("--passes", type=int, default=60, help="passes over all callers [60]")
    chosen = options.parse_args(arguments)
    figures = measure(passes=chosen.passes)
    print("microseconds, median")
    missed = []
    for name, took in figures.items():
        target = TARGETS.get(name)
        print(f"{name:40}{took:8.2f}{'' if target is None else f'   (at most {target:g})'}")
        if target is not None and took > target:
            missed.append(f"{name}: {took:.2f} us > {target:g}")
    print(json.dumps({"missed": missed}))
    return 1 if chosen.check and missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
