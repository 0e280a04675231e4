"""
What Kong's runloop does around the plugins of one request, and its error pages.

``prepare`` before the access phase, ``leave`` after it, ``drop_hops`` before the header filters. Knows no sockets.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from tests.fakes.kong_nginx import NginxHead
from tests.fakes.kong_request import SERVER, Answer, Fields, KongRequest
from tests.fakes.kong_router import Match, escaped

_MESSAGES: Final = {
    400: "Bad request",
    404: "Not found",
    405: "Method not allowed",
    408: "Request timeout",
    413: "Payload too large",
    414: "URI too long",
    417: "Expectation failed",
    494: "Request header or cookie too large",
    500: "An unexpected error occurred",
    502: "An invalid response was received from the upstream server",
    503: "The upstream server is currently unavailable",
    504: "The upstream server is timing out",
}


def host_field(head: NginxHead) -> bytes | None:
    """The Host field, as sent."""
    return next((value for name, value in head.fields if name.lower() == b"host"), None)


def balancer_of(service: Mapping[str, Any]) -> dict[str, Any]:
    """``balancer_data`` before any plugin: the service's own."""
    host = str(service.get("host", ""))
    kind = "ipv6" if ":" in host else "ipv4" if host.replace(".", "").isdigit() else "name"
    timeouts = {name: service.get(name, 60_000) for name in ("connect_timeout", "read_timeout")}
    send = service.get("write_timeout", 60_000)
    return {"type": kind, "host": host.encode(), "port": service.get("port", 80), "send_timeout": send, **timeouts}


def prepare(request: KongRequest, match: Match) -> None:
    """``access.before``: what Kong tells the upstream, before any plugin."""
    variables, head = request.variables, request.head
    variables["upstream_scheme"] = str(match.route.service.get("protocol", "http")).encode()
    variables["upstream_uri"] = escaped(match.upstream_uri)
    if match.route.document.get("preserve_host"):
        variables["upstream_host"] = host_field(head) or b""
    request.cached = request.fields[:100]
    is_websocket = (request.header(b"upgrade") or b"").lower() == b"websocket"
    variables["upstream_connection"] = b"keep-alive, Upgrade" if is_websocket else b"keep-alive"
    variables["upstream_upgrade"] = b"websocket" if is_websocket else b""
    said = request.variable("http_x_forwarded_for")
    variables["upstream_x_forwarded_for"] = b", ".join(filter(None, (said, request.peer[0].encode())))
    variables["upstream_x_forwarded_proto"] = request.scheme
    variables["upstream_x_forwarded_host"] = head.host
    variables["upstream_x_forwarded_port"] = str(request.port).encode()
    variables["upstream_x_forwarded_path"] = head.uri.partition(b"?")[0]
    variables["upstream_x_forwarded_prefix"] = match.prefix if match.prefix not in {None, b"/"} else b""
    own = b"%d.%d " % (1, 0 if head.version == 1000 else 1) + SERVER
    variables["upstream_via"] = b", ".join(filter(None, (request.variable("http_via"), own)))


def leave(request: KongRequest) -> None:
    """``access.after``: the query, the Host, and what belongs to one hop only."""
    variables, uri = request.variables, request.head.uri
    if uri.endswith(b"?") or request.args:
        variables["upstream_uri"] += b"?" + (request.args or b"")
    if not variables["upstream_host"]:
        host, port = request.balancer["host"], int(request.balancer["port"])
        is_default = port == (443 if variables["upstream_scheme"] == b"https" else 80)
        variables["upstream_host"] = host if is_default else host + b":%d" % port
    read = request.cached if request.cached is not None else request.fields[:100]
    connection, te = (_first(read, name) for name in (b"connection", b"te"))
    if connection not in {None, b"keep-alive", b"close", b"upgrade"}:
        for name in (connection or b"").lower().split(b","):
            if name.strip() != b"upgrade" or variables["upstream_connection"] == b"keep-alive":
                request.set_header(name.strip(), None)
    if b"trailers" in [part.strip() for part in (te or b"").split(b",")]:
        variables["upstream_te"] = b"trailers"
    for name in (b"proxy", b"proxy-connection"):
        request.set_header(name, None)


def _first(fields: Fields, name: bytes) -> bytes | None:
    return next((value for key, value in fields if key.lower() == name), None)


def drop_hops(request: KongRequest) -> None:
    """``header_filter.before``: what of the upstream's answer belongs to one hop only."""
    connection = request.variable("upstream_http_connection") or b""
    for name in connection.lower().split(b","):
        if name.strip() not in {b"", b"close", b"upgrade", b"keep-alive"}:
            request.set_answer_header(name.strip(), None)
    upgrade = request.variable("upstream_http_upgrade")
    if upgrade is not None and upgrade.lower() != request.variables["upstream_upgrade"].lower():
        request.set_answer_header(b"Upgrade", None)
    if not request.variables["upstream_te"]:
        request.set_answer_header(b"Trailer", None)


def error_answer(status: int, head: NginxHead | None) -> Answer:
    """Kong's error page; nginx's own for statuses that Kong has none for."""
    text = _MESSAGES.get(status)
    accept = b",".join(value for name, value in head.fields if name.lower() == b"accept") if head is not None else b""
    if text is None:
        body, kind = f"<html><body><h1>{status}</h1></body></html>\r\n".encode(), b"text/html"
    elif b"json" in accept:
        body, kind = json.dumps({"message": text}).encode(), b"application/json; charset=utf-8"
    else:
        body, kind = text.encode() + b"\n", b"text/plain; charset=utf-8"
    status = 400 if status == 494 else status
    fields = [(b"Content-Type", kind), (b"Content-Length", b"%d" % len(body))]
    return Answer(status, fields, body, source="error")
