"""Modules of this folder say which event loop their tests run on."""

from __future__ import annotations

from tests.fakes.steady_loop import pytest_asyncio_loop_factories

__all__ = ["pytest_asyncio_loop_factories"]
