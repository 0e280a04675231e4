"""
What a plugin is to the server that runs it: a generator that yields what it wants of Kong and is sent the result.

Handlers are written once and run on both servers: on ours (``server.py``) beside the gate on one event loop, and on
the stock ``kong-pdk`` server (``stock.py``), where a thread or greenlet makes the calls. So a handler does no I/O by
itself, never blocks, and ends where it returns: nothing can run after ``Exit``. It refuses to know sockets, threads
and ``kong_pdk``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Generator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from gateway_plugins.front import Front


class Call(NamedTuple):
    """
    One call of Kong's plugin development kit; its result is sent back: bytes, str, int, float, bool, None, list or
    dict. Strings from Kong are bytes, never decoded: nothing says that they are UTF-8.
    """

    method: str
    """With its full name: ``kong.ctx.shared.get``."""
    args: tuple[Any, ...] = ()


class Wait(NamedTuple):
    """Something of the gate's event loop; its result is sent back, its exception thrown into the generator."""

    awaitable: Awaitable[Any]


class Exit(NamedTuple):
    """The generator's return value when Kong is to answer by itself: ``kong.response.exit``."""

    status: int
    fields: Mapping[str, str | list[str]]
    """A field that stands several times has a list."""
    body: bytes


Handler = Generator[Call | Wait, Any, Exit | None]
"""One event. None: it is over, and Kong goes on."""


class Plugin(Protocol):
    """One configured plugin: made once a Kong worker and entity (``plugin.StartInstance``)."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """``config``: as ``Schema`` allows it, with defaults, null fields absent; keys of Kong's own begin with ``__``.

        Raises: ValueError when it cannot be understood: then Kong refuses each request that would run it.
        """

    def answer(self, front: Front) -> Handler:
        """What ``access`` does with one request."""

    def access(self, kong: Any) -> None:
        """The same, for the stock server, which looks for a method of this name."""
