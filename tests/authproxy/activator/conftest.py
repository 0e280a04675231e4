"""Which event loop a module's tests run on: its ``LOOP``, else the usual one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    module: Any = item.getparent(pytest.Module)
    return {"loop": getattr(module.obj, "LOOP", asyncio.new_event_loop)}
