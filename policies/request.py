"""
What is judged: the facts of one request, in one canonical form, computed once.

An edge fills in a ``Head`` with what stood on the wire and believes none of it. ``read_head`` turns it into an
``AccessRequest`` or refuses. From then on nothing looks at the wire again: what is judged here is what is forwarded.

The grammars stand beside: ``host`` (names of hosts), ``target`` (paths), ``header_fields`` (names of fields),
``framing`` (what the fields say about body, connection and caller), ``peers`` (who may speak for a client). This
module refuses to know sockets, listeners and policies.

Source: RFC 9110 sections 4 and 5, RFC 9112 section 3, RFC 3986 section 6.2.2; rules AP-R3, R6, R16, R29, R30,
R33-R35, R38-R41, R56 in docs/threats.md.

Longer than other modules: the facts judged, and the one pass that makes them, are read together.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Final, NamedTuple

from policies.decision import Deny, Reason
from policies.framing import PLAIN, PLAIN_1_0, ShownProof, is_visible, read_facts
from policies.header_fields import (
    AUTHORIZATION,
    BAD,
    CALLBACK_URL,
    COOKIE,
    FIRST_PASSED,
    FIRST_READ,
    FORBIDDEN_BYTES,
    HOST,
    JOINED_BY,
    REQUEST_KINDS,
    TENANT_HINT,
    TRACEPARENT,
    field_lines,
)
from policies.host import canonical_host
from policies.peers import TrustedPeers
from policies.target import Target, canonical_target

__all__ = [
    "ALL_METHODS",
    "AccessRequest",
    "Head",
    "HeadMemo",
    "ShownProof",
    "Target",
    "TrustedPeers",
    "canonical_host",
    "canonical_target",
    "read_head",
]

MAX_FIELDS: Final = 128
"""Fields of one head (aiohttp: 128, nginx: by bytes, Go: by bytes)."""
MAX_FIELDS_BYTES: Final = 32 * 1024
"""Of all fields together, each with its name, ``: `` and CRLF (nginx: 4 x 8 KiB, Go: 1 MiB, node: 16 KiB)."""
ALL_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""What ``Allow`` says where no route says otherwise. Other upper-case methods pass too, but TRACE and CONNECT."""

_USUAL_METHODS: Final = frozenset(ALL_METHODS)
_METHOD_CHARS: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ-")
_MAX_METHOD_CHARS: Final = 32
_HOST_MEMO_ENTRIES: Final = 2048

_BAD_VERSION: Final = Deny(Reason.BAD_REQUEST, "the HTTP version is neither 1.0 nor 1.1")
_BAD_METHOD: Final = Deny(Reason.BAD_REQUEST, "the method is not a word of upper-case letters")
_METHOD_REFUSED: Final = Deny(
    Reason.METHOD_NOT_ALLOWED, "TRACE and CONNECT are not served", allowed_methods=ALL_METHODS
)
TOO_MANY_FIELDS: Final = Deny(Reason.HEAD_TOO_LARGE, f"the request has more than {MAX_FIELDS} fields", part="fields")
_TOO_LARGE: Final = Deny(
    Reason.HEAD_TOO_LARGE, f"the request's fields are longer than {MAX_FIELDS_BYTES} bytes", part="fields"
)
_BAD_FIELD: Final = Deny(Reason.BAD_REQUEST, "a field's name is not a token, or its value holds CR, LF or NUL")
_NO_HOST: Final = Deny(Reason.BAD_REQUEST, "the Host field is missing")
_BAD_HOST: Final = Deny(Reason.BAD_REQUEST, "the Host field is not a host name with an optional port")
_HOST_DIFFERS: Final = Deny(Reason.BAD_REQUEST, "the authority in the request target is not the Host field")
_REPEATED: Final = Deny(Reason.BAD_REQUEST, "a field that may stand once stands several times")
_TWO_CREDENTIALS: Final = Deny(Reason.CREDENTIAL_AMBIGUOUS, "the Authorization field stands several times")
_BAD_CREDENTIAL: Final = Deny(Reason.BAD_REQUEST, "a credential holds characters that are not visible ASCII")
_MISDIRECTED: Final = Deny(Reason.HOST_MISDIRECTED, "the TLS connection was made for another host")


class Head(NamedTuple):
    """A request's head as it stood on the wire; only an edge makes one. Nothing in it is believed yet."""

    method: str
    target: bytes
    """The request target verbatim: origin-form, or absolute-form when its authority equals Host."""
    fields: Sequence[tuple[bytes, bytes]]
    """Name and value as sent, in order, duplicates kept."""
    version: tuple[int, int]
    peer: str
    """Address of the TCP peer, without port."""
    scheme: str
    """``http`` or ``https``, of the connection itself."""
    server_name: str | None = None
    """SNI of the TLS connection, None without TLS or without SNI."""
    certificate: bytes | None = None
    """SHA-256 of the client's certificate (DER) that the TLS connection was made with; None without one."""

    def __repr__(self) -> str:
        return f"Head({self.method}, {len(self.fields)} fields, {self.peer})"


class AccessRequest(NamedTuple):
    """
    The facts judged. A NamedTuple and not a dataclass: one is made per request (0.4 us against 1.6 us, frozen).

    ``forward_block`` are the head fields a function may see, as ``name: value CRLF`` bytes in the order sent:
    everything hop-by-hop, spoofable or ours has been removed, and ``Host`` with it. Credentials are not in it; they
    stand apart.
    """

    method: str
    host: str
    """Canonical: lower case, A-labels, no port, no trailing dot."""
    target: Target
    scheme: str
    """Of the client's connection: the listener's, or a trusted peer's ``X-Forwarded-Proto``."""
    client_ip: str
    """Of the client: the TCP peer, or the first untrusted hop behind trusted peers (read from the right)."""
    authorization: bytes | None
    cookie: bytes | None
    """All Cookie fields joined with ``; ``; None when there is none."""
    hints: tuple[str, ...]
    """Tenant names that the caller claims (``X-Dispatch-Org``, ``X-Portero-Tenant``): may confirm, never choose."""
    origin: str | None
    fetch_site: str | None
    accepts_html: bool
    """A browser's navigation: GET, ``Sec-Fetch-Mode: navigate`` and an Accept that names text/html."""
    content_length: int | None
    """None when there is no Content-Length."""
    is_chunked: bool
    is_websocket: bool
    expects_continue: bool
    keeps_alive: bool
    """The client wants the connection kept (RFC 9112 section 9.3)."""
    preflight_method: str | None
    """``Access-Control-Request-Method`` of an OPTIONS request with an Origin; else None."""
    traceparent: str | None
    """A well-formed W3C traceparent, else None."""
    forward_block: bytes
    preflight_fields: str | None = None
    """``Access-Control-Request-Headers`` of a preflight: tokens and commas only; else None."""
    has_idempotency_key: bool = False
    """May be sent again after a lost connection although its method is not idempotent."""
    credential_digest: bytes | None = None
    """SHA-256 of ``authorization``: what caches know a credential by. Only ``read_head`` sets it."""
    port: int | None = None
    """Of the Host field; None when it names none."""
    dpop: bytes | None = None
    """The DPoP proof (RFC 9449), visible ASCII; it may stand once. ``read_head`` makes it a ``ShownProof``."""
    certificate: bytes | None = None
    """SHA-256 of the client's certificate (DER): the connection's, or as a trusted peer says (RFC 9440)."""
    wants_async: bool = False
    """``Prefer: respond-async``: it need not be answered at once (RFC 7240 section 4.1)."""
    max_wait_s: float | None = None
    """``Prefer: wait=n``: longest the caller will wait (RFC 7240 section 4.3)."""
    callback_url: str | None = None
    """``X-Callback-Url``: where a later answer is to be delivered; printable ASCII, otherwise unread."""

    def __repr__(self) -> str:
        """Without the fields, which hold credentials."""
        return f"AccessRequest({self.method} {self.host}{self.target.path}, {self.client_ip})"

    @property
    def authority(self) -> str:
        """Host with port, as the client addressed us; the port of the scheme is left out."""
        if self.port is None or self.port == (443 if self.scheme == "https" else 80):
            return self.host
        return f"{self.host}:{self.port}"

    @property
    def own_origin(self) -> str:
        """The origin that this request's host is (RFC 6454)."""
        return f"{self.scheme}://{self.authority}"

    @property
    def has_body(self) -> bool:
        return self.is_chunked or bool(self.content_length)


class HeadMemo:
    """
    The last head of one connection and the request it came to; its owner makes one a connection.

    Clients repeat themselves: on one connection the fields are usually the same bytes from request to request (HTTP/2
    compresses by that). Equal bytes are the same request, but for its target, so that nothing is parsed twice (2 us).
    It keeps what the client has sent, its credential included, for no longer than the connection.
    """

    __slots__ = ("_head", "_request", "_trusted")

    def __init__(self) -> None:
        self._head: Head | None = None
        self._request: AccessRequest | None = None
        self._trusted: TrustedPeers | None = None

    def recall(self, head: Head, trusted: TrustedPeers) -> AccessRequest | Deny | None:
        """The request of ``head`` if only its target differs from the last; None when it has to be read."""
        last = self._head
        request = self._request
        if (
            last is None
            or request is None
            or self._trusted is not trusted
            or head.fields != last.fields
            or head.method != last.method
            or head[3:] != last[3:]
        ):
            return None
        if head.target == last.target:
            return request
        if not head.target.startswith(b"/"):
            return None
        canonical = canonical_target(head.target)
        if isinstance(canonical, Deny):
            return canonical
        return tuple.__new__(AccessRequest, (*request[:2], canonical, *request[3:]))

    def remember(self, head: Head, trusted: TrustedPeers, request: AccessRequest) -> None:
        self._head = head
        self._trusted = trusted
        self._request = request


_UNREAD_WHEN_REPEATED: Final = frozenset({TRACEPARENT, CALLBACK_URL})
"""Nothing depends on these but what they name: two of them name nothing."""
_host_memo: dict[bytes, tuple[str, int | None]] = {}
"""Host field -> host and port."""


def read_head(head: Head, trusted: TrustedPeers, memo: HeadMemo | None = None) -> AccessRequest | Deny:
    """
    The request that this head is, in its one spelling, or why it is none. Never raises, whatever the bytes.

    ``memo`` is the connection's, where there is one.
    """
    if memo is None:
        return _read_head(head, trusted)
    request = memo.recall(head, trusted)
    if request is None:
        request = _read_head(head, trusted)
        # A proof is good once: the next request that shows it is another request (``ShownProof``).
        if type(request) is AccessRequest and request.dpop is None:
            memo.remember(head, trusted, request)
    return request


def _read_head(head: Head, trusted: TrustedPeers) -> AccessRequest | Deny:
    """
    Hot: one pass over the fields, one dict probe a field, host and path from memos. Hence longer than fifty lines:
    each call taken out of it would cost a tenth of it.
    """
    method, target, fields, version, peer, scheme, server_name, certificate = head
    if version == (1, 1):
        facts = PLAIN
    elif version == (1, 0):
        facts = PLAIN_1_0
    else:
        return _BAD_VERSION
    if method not in _USUAL_METHODS and (refusal := _refuse_method(method)):
        return refusal
    if len(fields) > MAX_FIELDS:
        return TOO_MANY_FIELDS

    kept: list[tuple[bytes, bytes]] = []
    found: dict[int, bytes] = {}
    hints: tuple[bytes, ...] = ()
    removed_bytes = 0
    kinds = REQUEST_KINDS
    for pair in fields:
        kind = kinds[pair[0]]
        if not kind:
            kept.append(pair)
            continue
        name, value = pair
        if kind >= FIRST_PASSED:
            kept.append(pair)
        else:
            removed_bytes += len(name) + len(value) + 4
        if kind < FIRST_READ:
            if kind == BAD or len(value.translate(None, FORBIDDEN_BYTES)) != len(value):
                return _BAD_FIELD
        elif kind == TENANT_HINT:
            hints += (value,)
        elif kind not in found:
            found[kind] = value
        elif kind in JOINED_BY:
            found[kind] += JOINED_BY[kind] + value
        elif kind in _UNREAD_WHEN_REPEATED:
            found[kind] = b""
        else:
            return _TWO_CREDENTIALS if kind == AUTHORIZATION else _REPEATED

    raw_host = found.pop(HOST, None)
    if raw_host is None:
        return _NO_HOST
    known = _host_memo.get(raw_host) or _read_host(raw_host)
    if known is None:
        return _BAD_HOST
    host, port = known
    if server_name is not None and server_name != host and canonical_host(server_name) != host:
        return _MISDIRECTED
    if not target.startswith(b"/"):
        origin_form = _origin_form(target, raw_host)
        if origin_form is None:
            return _HOST_DIFFERS
        target = origin_form
    canonical = canonical_target(target)
    if isinstance(canonical, Deny):
        return canonical

    authorization = found.pop(AUTHORIZATION, None)
    cookie = found.pop(COOKIE, None)
    if (authorization and not is_visible(authorization)) or (cookie and not is_visible(cookie)):
        return _BAD_CREDENTIAL
    if found or hints:
        read = read_facts(method, version, peer, scheme, found, hints, trusted)
        if isinstance(read, Deny):
            return read
        facts = read
        if facts.dropped:
            kept = [pair for pair in kept if pair[0].lower() not in facts.dropped]
        if facts.tracestate is not None:
            kept.append((b"tracestate", facts.tracestate))
    if certificate is None or trusted.names_certificates(peer):
        certificate = facts.certificate
    block = field_lines(kept)
    if block is None:
        return _BAD_FIELD
    if len(block) + removed_bytes > MAX_FIELDS_BYTES:
        return _TOO_LARGE
    return AccessRequest(
        method,
        host,
        canonical,
        facts.scheme or scheme,
        facts.client_ip or trusted.client_ip(peer, ()),
        authorization,
        cookie,
        facts.hints,
        facts.origin,
        facts.fetch_site,
        facts.accepts_html,
        facts.content_length,
        facts.is_chunked,
        facts.is_websocket,
        facts.expects_continue,
        facts.keeps_alive,
        facts.preflight_method,
        facts.traceparent,
        block,
        facts.preflight_fields,
        facts.has_idempotency_key,
        None if authorization is None else sha256(authorization).digest(),
        port,
        facts.dpop,
        certificate,
        facts.wants_async,
        facts.max_wait_s,
        facts.callback_url,
    )


def _refuse_method(method: str) -> Deny | None:
    if method in {"TRACE", "CONNECT"}:
        return _METHOD_REFUSED
    if not 0 < len(method) <= _MAX_METHOD_CHARS or method[0] == "-" or not _METHOD_CHARS.issuperset(method):
        return _BAD_METHOD
    return None


def _read_host(raw: bytes) -> tuple[str, int | None] | None:
    host = canonical_host(raw.decode("ascii")) if raw.isascii() else None
    if host is None:
        return None
    _, colon, port = raw.rpartition(b"]")[2].partition(b":")
    known = (host, int(port) if colon else None)
    if len(_host_memo) >= _HOST_MEMO_ENTRIES:
        _host_memo.clear()
    _host_memo[raw] = known
    return known


def _origin_form(target: bytes, raw_host: bytes) -> bytes | None:
    """
    What follows the authority of an absolute-form target; the target itself when it is not one; None on disagreement.

    The authority must be the Host field, port included (RFC 9112 section 3.2.2); its scheme is not believed.
    """
    scheme, mark, rest = target.partition(b"://")
    if not mark or scheme.lower() not in {b"http", b"https"}:
        return target
    end = min((at for at in (rest.find(b"/"), rest.find(b"?"), rest.find(b"#")) if at >= 0), default=len(rest))
    if rest[:end].lower() != raw_host.lower():
        return None
    path = rest[end:]
    return path if path.startswith(b"/") else b"/" + path
