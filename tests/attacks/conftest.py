"""Attacks over the wire run on both event loops; one besieged world serves all rows of a module."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final

import pytest
import pytest_asyncio
import uvloop

from tests.fakes.siege import Siege, besieged

_Loops = Mapping[str, Callable[[], asyncio.AbstractEventLoop]]
_ONE: Final[_Loops] = {"asyncio": asyncio.SelectorEventLoop}
_BOTH: Final[_Loops] = {**_ONE, "uvloop": uvloop.new_event_loop}
_ON_BOTH_LOOPS: Final = frozenset({"test_paths", "test_smuggling", "test_smuggled_bodies"})
"""Where the bytes of the client and the way a transport hands them over matter most."""


def pytest_asyncio_loop_factories(item: pytest.Item) -> _Loops:
    return _BOTH if item.path.stem in _ON_BOTH_LOOPS else _ONE


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def siege() -> AsyncIterator[Siege]:
    async with besieged() as running:
        yield running
