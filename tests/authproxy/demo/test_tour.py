"""The tour itself: it ends at the first promise that is not kept, and shows requests as one would type them."""

from __future__ import annotations

import asyncio
import io
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDict, CIMultiDictProxy
from rich.console import Console

from authproxy.demo.tour import Answer, Step, Walk, take_tour
from authproxy.demo.tour_steps import STEPS

TOKEN = "eyJ.secret.token"
"""What must not be shown."""


@pytest.fixture
def demo() -> Any:
    """As much of a demo as is asked for before the first step."""
    return SimpleNamespace(
        public_url="http://127.0.0.1:1",
        provider=SimpleNamespace(issue_token=lambda *_: TOKEN),
        files=SimpleNamespace(account_token=lambda *_: TOKEN, hosts={"acme": "acme.localhost"}),
    )


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), highlight=False, soft_wrap=True)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


async def kept(walk: Walk) -> None:
    walk.promise(True, "nothing", "nothing")


async def broken(walk: Walk) -> None:
    walk.promise(False, "429 queue-full", "200")


async def unreachable(walk: Walk) -> None:
    await walk.ask("/", is_shown=False)


async def silent(_walk: Walk) -> None:
    await asyncio.sleep(60)


async def babble(_walk: Walk) -> None:
    Answer(200, CIMultiDictProxy(CIMultiDict()), b"<html>", 0.1).json()


@pytest.mark.parametrize(
    ("walk", "timeout_s", "text"),
    [
        pytest.param(broken, 20, "expected 429 queue-full, got 200", id="another answer"),
        pytest.param(unreachable, 20, "Cannot connect to host 127.0.0.1:1", id="no answer"),
        pytest.param(silent, 0.1, "no end within 0 s", id="no end"),
        pytest.param(babble, 20, "expected JSON, got b'<html>'", id="another kind of answer"),
    ],
)
async def test_a_promise_that_is_not_kept_ends_the_tour(
    demo: Any, console: Console, walk: Any, timeout_s: float, text: str
) -> None:
    """It says what was expected and what came; what would follow is not walked."""
    steps = (Step("first", kept), Step("second", walk, timeout_s=timeout_s), Step("third", kept))
    assert not await take_tour(demo, console, steps)
    shown = printed(console)
    assert f"NOT AS PROMISED: {text}" in shown
    assert shown.count("as promised\n") == 1
    assert "third" not in shown


async def test_kept_promises_are_a_tour(demo: Any, console: Console) -> None:
    """True only when all were."""
    assert await take_tour(demo, console, (Step("first", kept), Step("second", kept)))


async def test_requests_are_shown_as_one_types_them(demo: Any, console: Console) -> None:
    """HEAD as ``-I``, further fields as ``-H``, a token by its name and never as what it is."""
    async with aiohttp.ClientSession() as session:
        walk = Walk(demo, console, session)
        walk.show_request("/", host="acme.localhost", method="HEAD")
        walk.show_request("/x", host="acme.localhost", caller="ANA", more={"Prefer": "respond-async"})
    head, other = printed(console).splitlines()
    assert head.strip() == "$ curl -I -H 'Host: acme.localhost' http://127.0.0.1:1/"
    assert "-H 'Prefer: respond-async' -H \"Authorization: Bearer $ANA\" http://127.0.0.1:1/x" in other
    assert TOKEN not in other


def test_the_waiting_room_is_on_the_tour() -> None:
    """A cold start, who wakes nothing, an overflow, and an answer fetched later."""
    titles = " ".join(step.title for step in STEPS)
    for part in ("A cold start", "wakes nothing", "An overflow", "Answered later"):
        assert part in titles
