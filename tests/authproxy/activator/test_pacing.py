"""Release: never more at once than a replica takes, and soon after it is there."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from statistics import quantiles

import pytest

from policies.coldstart import STARTING_CONCURRENCY
from policies.principal import Principal
from policies.tables import Ceilings
from tests.authproxy.activator.front import REQUEST, Front, front, let_in
from tests.authproxy.activator.scripted import Platform, Waiting
from tests.fakes.jumping_loop import in_jumping_time
from tests.fakes.places import place, tenant
from tests.fakes.steady_loop import SteadyLoop

LOOP = SteadyLoop
"""That of what is measured over sockets: what others on the machine cost is no lateness of ours."""


@pytest.mark.parametrize("concurrency", [1, 3, None], ids=["one", "three", "not said"])
@in_jumping_time
async def test_a_burst_at_a_sleeping_function_is_paced(concurrency: int | None) -> None:
    """
    Five thousand wait, one replica gets ready: never more than its concurrency is in flight, or ten in the first ten
    seconds where the policy does not say (the case of knative/serving#9888); as many more for each further replica.
    """
    made = Waiting(Platform(start_s=1.0))
    wide = tenant(ceilings=Ceilings(held=5000))
    at = place(concurrency=concurrency, max_held=5000, max_wait_s=120.0, of=wide)
    running, most = 0, {1: 0, 2: 0}

    async def work() -> None:
        nonlocal running
        running += 1
        most[made.platform.ready] = max(most[made.platform.ready], running)
        await asyncio.sleep(0.02)
        running -= 1

    callers = [Principal("login", str(n)) for n in range(50)]
    tasks = [asyncio.create_task(made.serve(at, work, callers[n % 50])) for n in range(5000)]
    await asyncio.sleep(4.0)
    made.platform.ready = 2
    await asyncio.sleep(1.5)  # noticed within a second
    most[2] = running
    for answer in await asyncio.gather(*tasks):
        let_in(answer)
    limit = STARTING_CONCURRENCY if concurrency is None else concurrency
    assert most[1] == limit
    assert most[2] <= 2 * limit
    assert running == 0
    assert len(made.platform.woken) == 1
    await made.activator.close()


class Stamped(dict[str, int]):
    """Remembers when a function got ready."""

    def __init__(self) -> None:
        super().__init__()
        self.ready_at: dict[str, float] = {}

    def __setitem__(self, key: str, replicas: int) -> None:
        if replicas:
            self.ready_at[key] = asyncio.get_running_loop().time()
        super().__setitem__(key, replicas)


async def _wake_once(made: Front, stamped: Stamped, name: str) -> float:
    """Seconds from a function's being ready to the release of who waits for it."""
    at = place(name)
    let_in(await made.activator.hold(at, Principal("login", name), REQUEST))
    return asyncio.get_running_loop().time() - stamped.ready_at[f"{name}.acme"]


@pytest.mark.alone
async def test_a_release_follows_readiness_at_once() -> None:
    """Polled each 50 ms and probed after that: 40 ms later at the median, 75 ms at the 99th percentile."""
    late_s: list[float] = []
    async with front(prober=None) as made:
        stamped = made.faas.awake = Stamped()
        for turn in range(20):
            names = [f"f-{turn}-{n}" for n in range(6)]
            for n, name in enumerate(names):
                made.faas.add(name, "acme", replicas=0, start_s=0.12 + 0.0083 * n + 0.00317 * turn)
            late_s += await asyncio.gather(*(_wake_once(made, stamped, name) for name in names))
    cuts = quantiles(late_s, n=100)
    assert cuts[49] <= 0.040, late_s
    assert cuts[98] <= 0.075, late_s


@pytest.mark.parametrize("lag_s", [0.001, 0.02, 0.08], ids=["quick", "slow", "slower than the pause"])
@in_jumping_time
async def test_polls_are_counted_from_asking_to_asking(lag_s: float) -> None:
    """However long the answers take: a slow platform does not delay the release beyond its own slowness."""
    made = Waiting(Platform(start_s=2.0))
    made.platform.lag_s = lag_s
    let_in(await made.hold(place()))
    asked = made.platform.asked
    pauses_s = [later - earlier for earlier, later in pairwise(asked[2:])]
    assert pauses_s == pytest.approx([max(0.05, lag_s)] * len(pauses_s), abs=0.0011)
    await made.activator.close()
