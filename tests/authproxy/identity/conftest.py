"""Tests of this folder run on a loop that does not see the machine stand still, where a module does not say another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest

from tests.fakes.steady_loop import SteadyLoop, loop_of


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return loop_of(item, SteadyLoop)
