"""The tour's steps at functions that sleep: who is held, who wakes nothing, who finds no room, who fetches it later."""

from __future__ import annotations

import asyncio
import math
import re
import time
from html import unescape
from typing import Final

from authproxy.demo.tour import Answer, Walk
from authproxy.demo.tour_browser import Page, TourBrowser

SLEEPERS: Final = 20
CROWD: Final = 30
"""Ten more than may wait for acme's form."""
MAX_HELD: Final = 20
"""What acme's policy says of its form."""
PATIENCE_S: Final = 10.0
"""For an answer that is fetched later; a cold start takes 1 to 3 s."""
_COMES_BACK: Final = re.compile(r'<meta http-equiv="refresh" content="(\d+)">')
_TEXTS: Final = re.compile(r"<(?:h1|p)>([^<]+)")
_RESULT: Final = "X-Portero-Result"


async def cold_start(walk: Walk) -> None:
    await _sleep(walk, "survey-report")
    walk.note(f"replicas: 0; now {SLEEPERS} requests at once, one of them ana's")
    wakes = await _wakes(walk)
    others = [walk.ask("/reports", caller="CI", is_shown=False) for _ in range(SLEEPERS - 1)]
    answer, *rest = await asyncio.gather(walk.ask("/reports/es", caller="ANA"), *others)
    walk.promise_answer(answer, 200)
    for other in rest:
        walk.promise_answer(other, 200)
    woken = await _wakes(walk) - wakes
    held_s = max(answer.duration_s, *(other.duration_s for other in rest))
    walk.note(f"held for {held_s:.2f} s at most; all {SLEEPERS} answered, {woken:.0f} wake call")
    walk.promise(answer.duration_s >= 0.5, "a request that was held", f"an answer after {answer.duration_s:.2f} s")
    walk.promise(woken == 1, "one wake call", f"{woken:.0f}")
    _promise_announced(walk, answer)


async def not_worth_waking(walk: Walk) -> None:
    await _sleep(walk, "survey-web")
    wakes = await _wakes(walk)
    walk.promise_answer(await walk.ask("/", method="HEAD"), 204)
    robot = await walk.ask("/", more={"User-Agent": "Googlebot/2.1"})
    walk.promise_answer(robot, 503, "function-asleep")
    walk.promise(robot.fields.get("Retry-After", "").isdigit(), "a Retry-After", dict(robot.fields))
    woken = await _wakes(walk) - wakes
    walk.promise(woken == 0, "no wake call", f"{woken:.0f}")
    walk.note("neither woke it; a person does")
    person = await walk.ask("/")
    walk.promise_answer(person, 200)
    _promise_announced(walk, person)
    walk.cold_start_s = person.duration_s


async def overflow(walk: Walk) -> None:
    await _sleep(walk, "survey-web")
    wakes = await _wakes(walk)
    walk.note(f"{CROWD} requests at once from one address, of which {MAX_HELD} may wait")
    crowd = [asyncio.create_task(walk.ask("/", is_shown=False)) for _ in range(CROWD)]
    try:
        for answer in await _first(crowd, CROWD - MAX_HELD):
            _promise_turned_away(walk, answer)
        walk.note(f"{CROWD - MAX_HELD} of them are told at once that there is no room, and so is one more:")
        await _woken(walk, wakes)
        _promise_turned_away(walk, await walk.ask("/"))
        walk.note(f"Retry-After: what is left of a usual cold start; the last one took {walk.cold_start_s:.1f} s")
        await _others_in_a_crowd(walk)
        answered = sum(answer.status == 200 for answer in await asyncio.gather(*crowd))
        walk.note(f"of the crowd, {answered} got the form, {CROWD - answered} were turned away")
        walk.promise(answered == MAX_HELD - 1, f"the form for {MAX_HELD - 1}", answered)
    finally:
        for task in crowd:
            task.cancel()


async def _others_in_a_crowd(walk: Walk) -> None:
    """A browser, that of nobody known, gets a page that comes back by itself; ana is let wait all the same."""
    browser, origin = TourBrowser(walk.session, walk.demo.public_url), walk.demo.origin("acme") + "/"
    walk.note(f"a browser opens {origin}", style="cyan")
    page = await browser.go(origin)
    seen_at, comes_back_s = time.monotonic(), _promise_page(walk, page)
    walk.promise(comes_back_s <= math.ceil(walk.cold_start_s), f"{walk.cold_start_s:.1f} s or so", comes_back_s)
    walk.note("ana is somebody else: the newest of the crowd makes room for her", style="cyan")
    hers = await walk.ask("/", caller="ANA")
    walk.promise_answer(hers, 200)
    _promise_announced(walk, hers)
    while True:  # once as a rule: half of all cold starts take longer than the page thinks
        await asyncio.sleep(max(0.0, seen_at + comes_back_s - time.monotonic()))
        walk.note(f"after {comes_back_s} s the page comes back", style="cyan")
        page = await browser.go(origin)
        if page.status == 200:
            break
        seen_at, comes_back_s = time.monotonic(), _promise_page(walk, page)
    walk.note(f"HTTP {page.status}", style="bold")
    walk.promise("<form" in page.body, "the form", page.body[:80])


def _promise_page(walk: Walk, page: Page) -> int:
    """429 for a browser: in how many seconds its page comes back."""
    shown = _COMES_BACK.search(page.body)
    told = f"{page.status} {page.reason}"
    walk.promise(told == "429 queue-full" and shown is not None, "429 queue-full, a page that comes back", told)
    walk.note(f"HTTP {told}", style="bold")
    walk.note(" / ".join(unescape(text) for text in _TEXTS.findall(page.body)))
    return int(shown[1]) if shown is not None else 0


async def answered_later(walk: Walk) -> None:
    await _sleep(walk, "survey-report")
    accepted = await walk.ask("/reports/es", caller="ANA", more={"Prefer": "respond-async"})
    walk.promise_answer(accepted, 202)
    place = accepted.fields.get("Location", "")
    walk.promise(place.startswith("/.portero/result/"), "a Location below /.portero/result/", place or "none")
    walk.promise(accepted.duration_s < 0.5, "an answer at once", f"one after {accepted.duration_s:.2f} s")
    _promise_state(walk, await walk.ask(place, caller="ANA"), 202, "pending")
    walk.note("dan may read every report, but this answer is not his")
    walk.promise_answer(await walk.ask(place, caller="DAN"), 404, "result-unknown")
    walk.note("ana looks again until the function has answered")
    deadline = time.monotonic() + PATIENCE_S
    while (answer := await walk.ask(place, caller="ANA", is_shown=False)).fields.get(_RESULT) == "pending":
        walk.promise(time.monotonic() < deadline, f"the answer within {PATIENCE_S:.0f} s", "none")
        await asyncio.sleep(0.05)
    walk.show_request(place, host=walk.demo.files.hosts["acme"], caller="ANA")
    walk.show_answer(answer)
    _promise_state(walk, answer, 200, "done")
    walk.promise(answer.json().get("asked_by") == "login|ana", "asked_by login|ana", answer.body)
    walk.promise_answer(await walk.ask(place, caller="DAN", is_shown=False), 404, "result-unknown")


async def _sleep(walk: Walk, function: str) -> None:
    walk.note(f"$ portero demo sleep {function} --tenant acme", style="cyan")
    await walk.demo.platform.sleep(function, "acme")
    left = len(walk.demo.platform.functions["acme", function].ready)
    walk.promise(not left, "no replica", left)


async def _wakes(walk: Walk) -> float:
    return await walk.metric("portero_wakes_total", tenant="acme")


async def _woken(walk: Walk, before: float) -> None:
    while True:  # the step's own timeout bounds it
        if await _wakes(walk) > before:
            return
        await asyncio.sleep(0.01)


async def _first(tasks: list[asyncio.Task[Answer]], count: int) -> list[Answer]:
    """The answers that come first; the others go on."""
    coming = asyncio.as_completed(tasks)
    return [await answer for answer, _ in zip(coming, range(count), strict=False)]


def _promise_announced(walk: Walk, answer: Answer) -> None:
    """The answer says that it was held for a cold start, and for how long."""
    told = answer.fields.get("X-Portero-Cold-Start"), answer.fields.get("Server-Timing", "")
    walk.promise(told[0] == "true" and told[1].startswith("hold;dur="), "what it was held for", told)


def _promise_turned_away(walk: Walk, answer: Answer) -> None:
    """429 with the time that the last cold start took, as whole seconds, or less."""
    walk.promise_answer(answer, 429, "queue-full")
    after, most = answer.fields.get("Retry-After", ""), math.ceil(walk.cold_start_s)
    walk.promise(after.isdigit() and 1 <= int(after) <= most, f"Retry-After: {most} at most", after or "none")


def _promise_state(walk: Walk, answer: Answer, status: int, state: str) -> None:
    walk.promise_answer(answer, status)
    walk.promise(answer.fields.get(_RESULT) == state, f"{_RESULT}: {state}", answer.fields.get(_RESULT))
