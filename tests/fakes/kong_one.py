"""One request as Kong has it before any plugin, for tests of what works on it."""

from __future__ import annotations

from collections.abc import Sequence

from tests.fakes.kong_nginx import NginxHead
from tests.fakes.kong_request import KongRequest
from tests.fakes.kong_router import Route
from tests.fakes.kong_rpc import Trace
from tests.fakes.kong_runloop import balancer_of


def a_request(fields: Sequence[tuple[bytes, bytes]] = ((b"Host", b"a.test"), (b"X", b"1"))) -> KongRequest:
    """``GET /a?b`` on a route ``r`` that leads to the dead address."""
    head = NginxHead(b"GET /a?b HTTP/1.1", b"GET", b"/a?b", 1001, b"a.test", tuple(fields), None, False, True)
    return KongRequest(head, Route({"name": "r"}, {}), Trace(), balancer_of({"host": "127.0.0.1", "port": 1}))
