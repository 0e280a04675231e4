"""
What a head's fields say beyond host and credential: the body's framing, the connection, the browser, the client.

Where two readers could disagree about where a request ends, or about who removed which field, the request is refused:
this is where smuggling starts. Called only for heads that have such fields; most requests of machines have none.

Refuses to know names (``header_fields`` classified them) and policies. Source: RFC 9112 sections 6 and 9, RFC 9110
sections 7.6.1, 7.8 and 10.1.1, RFC 6455 section 4.2.1, RFC 9440, RFC 9449 section 4.1, W3C Trace Context; rules AP-R2,
R33, R35;
CVE-2025-48865 (``Connection`` naming an identity field).

Longer than other modules: the fields of one head constrain each other, and are judged in one place.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from policies.certificates import certificate_digest
from policies.decision import Deny, Reason
from policies.header_fields import (
    ACCEPT,
    CALLBACK_URL,
    CLIENT_CERT,
    CONNECTION,
    CONTENT_LENGTH,
    DPOP,
    EXPECT,
    FETCH_MODE,
    FETCH_SITE,
    FORWARDED_FOR,
    FORWARDED_PROTO,
    HOP,
    IDEMPOTENCY_KEY,
    KEEP,
    ORIGIN,
    PREFER,
    PREFLIGHT_FIELDS,
    PREFLIGHT_METHOD,
    REQUEST_KINDS,
    TRACEPARENT,
    TRACESTATE,
    TRANSFER_ENCODING,
    UPGRADE,
    WEBSOCKET_KEY,
    WEBSOCKET_VERSION,
    parse_content_length,
)
from policies.peers import TrustedPeers
from policies.prefer import read_prefer

_VISIBLE: Final = bytes(range(0x20, 0x7F))
_HEX: Final = frozenset("0123456789abcdef")
_FRAMING: Final = frozenset({CONTENT_LENGTH, TRANSFER_ENCODING, EXPECT})
_SEARCHED_ONLY: Final = frozenset({ACCEPT, CALLBACK_URL, IDEMPOTENCY_KEY, PREFER})
"""Passed on as they are, or read for themselves; the others are compared, printed or split, and visible ASCII."""
_MEMO_ENTRIES: Final = 1024
_MEMO_VALUES_BYTES: Final = 512
"""Of all values of one entry together: the memo holds half a mebibyte at most."""
_REMEMBERED: Final = frozenset(
    {CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, EXPECT, ACCEPT, ORIGIN, FETCH_SITE, FETCH_MODE}
)
"""Kinds whose facts depend on nothing but method, version and value, and whose values recur."""
_MAX_CONNECTION_OPTIONS: Final = 64
"""Each is classified: thousands would take 7 ms and empty the memo of names for everybody."""
MAX_PROOF_BYTES: Final = 8 * 1024
"""Of a DPoP field; one with a P-256 key has some 500 bytes, with RSA 4096 some 2 KiB."""
_FIELD_LIST_CHARS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_, ")

_BAD_CONNECTION: Final = Deny(Reason.BAD_REQUEST, "the Connection field names a field that may not be taken away")
_BAD_LENGTH: Final = Deny(Reason.BAD_REQUEST, "the Content-Length field is not a number")
_BAD_CODING: Final = Deny(Reason.BAD_REQUEST, "the Transfer-Encoding field is not 'chunked', or may not stand here")
_BAD_EXPECT: Final = Deny(Reason.BAD_REQUEST, "the Expect field is not '100-continue'")
_BAD_SCHEME: Final = Deny(Reason.BAD_REQUEST, "the X-Forwarded-Proto field of a trusted peer names no scheme")
_BAD_CERTIFICATE: Final = Deny(Reason.BAD_REQUEST, "the Client-Cert field of a trusted peer holds no certificate")
_BAD_PROOF: Final = Deny(Reason.BAD_REQUEST, f"the DPoP field is longer than {MAX_PROOF_BYTES} bytes")
_BAD_READ: Final = Deny(Reason.BAD_REQUEST, "a field that Portero reads holds characters that are not visible ASCII")


class ShownProof(bytes):
    """
    A DPoP field's value: one object for each request that brought it, also where the bytes are the same again.

    A request may be asked about more than once (it was held, it streams): that is no second use of its proof, while the
    same proof in a further request is. So the object remembers for whom its proof has been taken; equality is that of
    the bytes.
    """

    accepted_for: tuple[str, bytes] | None = None
    """Tenant and SHA-256 of the Authorization field; set by ``authproxy.identity.tokens.bound`` alone."""

    def __repr__(self) -> str:
        return "ShownProof(...)"

    __str__ = __repr__


class Facts(NamedTuple):
    """What ``read_head`` takes over into the ``AccessRequest``; members as there."""

    scheme: str | None = None
    """None: the connection's own."""
    client_ip: str | None = None
    """None: the TCP peer's."""
    hints: tuple[str, ...] = ()
    origin: str | None = None
    fetch_site: str | None = None
    accepts_html: bool = False
    content_length: int | None = None
    is_chunked: bool = False
    is_websocket: bool = False
    expects_continue: bool = False
    keeps_alive: bool = True
    preflight_method: str | None = None
    preflight_fields: str | None = None
    has_idempotency_key: bool = False
    traceparent: str | None = None
    tracestate: bytes | None = None
    """Passed on only beside a valid traceparent (W3C Trace Context section 3.3)."""
    dropped: frozenset[bytes] = frozenset()
    """Fields that ``Connection`` names, lower case."""
    dpop: ShownProof | None = None
    certificate: bytes | None = None
    """As a trusted peer says; None from anybody else."""
    wants_async: bool = False
    max_wait_s: float | None = None
    callback_url: str | None = None


class Connection(NamedTuple):
    """A Connection field, read."""

    closes: bool
    keeps: bool
    upgrades: bool
    dropped: frozenset[bytes]


_facts_memo: dict[tuple[object, ...], Facts] = {}
PLAIN: Final = Facts()
PLAIN_1_0: Final = Facts(keeps_alive=False)
_NO_CONNECTION: Final = Connection(closes=False, keeps=False, upgrades=False, dropped=frozenset())


def is_visible(value: bytes | None) -> bool:
    """Whether every byte is printable ASCII or a space; None is nothing to object to."""
    return value is None or not value.translate(None, _VISIBLE)


def read_facts(
    method: str,
    version: tuple[int, int],
    peer: str,
    scheme: str,
    found: dict[int, bytes],
    hints: tuple[bytes, ...],
    trusted: TrustedPeers,
) -> Facts | Deny:
    """
    The facts in ``found`` (kind of ``header_fields`` -> value, lists joined already), or why they are none.

    ``scheme`` is the connection's own. Names of fields that may stand once have been counted by the caller. A client
    says the same of itself each time, so what depends on nothing else is remembered.
    """
    if hints or not _REMEMBERED.issuperset(found):
        return _read_facts(method, version, peer, scheme, found, hints, trusted)
    key = (method, version, *found.items())
    known = _facts_memo.get(key)
    if known is not None:
        return known
    facts = _read_facts(method, version, peer, scheme, found, hints, trusted)
    if isinstance(facts, Facts) and sum(map(len, found.values())) <= _MEMO_VALUES_BYTES:
        if len(_facts_memo) >= _MEMO_ENTRIES:
            _facts_memo.clear()
        _facts_memo[key] = facts
    return facts


def _read_facts(
    method: str,
    version: tuple[int, int],
    peer: str,
    scheme: str,
    found: dict[int, bytes],
    hints: tuple[bytes, ...],
    trusted: TrustedPeers,
) -> Facts | Deny:
    checked = b"".join([value for kind, value in found.items() if kind not in _SEARCHED_ONLY])
    if checked.translate(None, _VISIBLE) or not all(map(is_visible, hints)):
        return _BAD_READ
    connection = _NO_CONNECTION
    if CONNECTION in found:
        read = _read_connection(found[CONNECTION])
        if read is None:
            return _BAD_CONNECTION
        connection = read
    content_length, is_chunked, is_expecting = None, False, False
    if not _FRAMING.isdisjoint(found):
        body = _read_body(version, found)
        if isinstance(body, Deny):
            return body
        content_length, is_chunked, is_expecting = body
    client_scheme: str | None = None
    if FORWARDED_PROTO in found:
        said = trusted.client_scheme(peer, scheme, (found[FORWARDED_PROTO].decode("ascii"),))
        if said is None:
            return _BAD_SCHEME
        client_scheme = said
    certificate = None
    if found.get(CLIENT_CERT) and trusted.names_certificates(peer):
        certificate = certificate_digest(found[CLIENT_CERT])
        if certificate is None:
            return _BAD_CERTIFICATE
    if len(found.get(DPOP, b"")) > MAX_PROOF_BYTES:
        return _BAD_PROOF
    traceparent = read_traceparent(found[TRACEPARENT].decode("ascii")) if TRACEPARENT in found else None
    origin = found[ORIGIN].decode("ascii") if ORIGIN in found else None
    is_preflight = method == "OPTIONS" and origin is not None and PREFLIGHT_METHOD in found
    is_websocket = UPGRADE in found and version == (1, 1) and not (is_chunked or content_length)
    wants_async, max_wait_s = read_prefer(found[PREFER]) if PREFER in found else (False, None)
    # By position: twenty-two names would cost a microsecond here.
    return Facts(
        client_scheme,
        trusted.client_ip(peer, (found[FORWARDED_FOR].decode("ascii"),)) if FORWARDED_FOR in found else None,
        tuple([hint.decode("ascii").strip(" ") for hint in hints]) if hints else (),
        origin,
        found[FETCH_SITE].decode("ascii") if FETCH_SITE in found else None,
        found.get(FETCH_MODE) == b"navigate" and method == "GET" and _names_html(found.get(ACCEPT, b"")),
        content_length,
        is_chunked,
        is_websocket and method == "GET" and _asks_websocket(connection, found),
        is_expecting,
        not connection.closes and (connection.keeps or version == (1, 1)),
        found[PREFLIGHT_METHOD].decode("ascii") if is_preflight else None,
        _field_list(found.get(PREFLIGHT_FIELDS)) if is_preflight else None,
        IDEMPOTENCY_KEY in found,
        traceparent,
        found.get(TRACESTATE) if traceparent is not None else None,
        connection.dropped,
        ShownProof(found[DPOP]) if DPOP in found else None,
        certificate,
        wants_async,
        max_wait_s,
        _callback_url(found[CALLBACK_URL]) if CALLBACK_URL in found else None,
    )


def read_traceparent(text: str) -> str | None:
    """
    ``text`` when it is a W3C traceparent of version 00, else None.

    Later versions are read as 00 and lose what they added (Trace Context section 4.3 allows it).
    """
    if len(text) < 55 or (len(text) > 55 and (text[:2] == "00" or text[55] != "-")):
        return None
    version, trace_id, parent_id, flags = text[:2], text[3:35], text[36:52], text[53:55]
    if text[2] != "-" or text[35] != "-" or text[52] != "-" or version == "ff":
        return None
    if not _HEX.issuperset(version + trace_id + parent_id + flags):
        return None
    if trace_id == "0" * 32 or parent_id == "0" * 16:
        return None
    return f"00-{trace_id}-{parent_id}-{flags}"


def _callback_url(value: bytes) -> str:
    """Empty, which is no URL, for what is none in any case."""
    return value.decode("ascii") if is_visible(value) else ""


def _read_connection(value: bytes) -> Connection | None:
    """None when it names a field of ours, one that frames or names the caller, no field at all, or too many."""
    if value.count(b",") >= _MAX_CONNECTION_OPTIONS:
        return None
    closes = keeps = upgrades = False
    dropped = []
    for raw in value.split(b","):
        token = raw.strip(b" ").lower()
        if not token:
            continue
        if token == b"close":
            closes = True
        elif token == b"keep-alive":
            keeps = True
        elif token == b"upgrade":
            upgrades = True
        elif (kind := REQUEST_KINDS[token]) == KEEP:
            dropped.append(token)
        elif kind != HOP:
            return None
    return Connection(closes, keeps, upgrades, frozenset(dropped))


def _read_body(version: tuple[int, int], found: dict[int, bytes]) -> tuple[int | None, bool, bool] | Deny:
    """(Content-Length, is chunked, expects 100) by RFC 9112 section 6.3, without any of its leniencies."""
    length = None
    if CONTENT_LENGTH in found:
        length = parse_content_length(found[CONTENT_LENGTH])
        if length < 0:
            return _BAD_LENGTH
    is_1_1 = version == (1, 1)
    is_chunked = TRANSFER_ENCODING in found
    if is_chunked and (length is not None or not is_1_1 or found[TRANSFER_ENCODING].lower() != b"chunked"):
        return _BAD_CODING
    if EXPECT in found and found[EXPECT].lower() != b"100-continue":
        return _BAD_EXPECT
    # A request of 1.0 or without a body expects nothing (RFC 9110 section 10.1.1).
    return length, is_chunked, is_1_1 and EXPECT in found and (is_chunked or bool(length))


def _asks_websocket(connection: Connection, found: dict[int, bytes]) -> bool:
    return (
        connection.upgrades
        and found.get(UPGRADE, b"").lower() == b"websocket"
        and found.get(WEBSOCKET_VERSION) == b"13"
        and len(found.get(WEBSOCKET_KEY, b"")) == 24
    )


def _names_html(accept: bytes) -> bool:
    """Whether text/html stands in the list and is not refused by ``q=0``."""
    if accept.startswith(b"text/html,"):
        return True
    for item in accept.lower().split(b","):
        name, *parameters = [part.strip(b" \t") for part in item.split(b";")]
        if name == b"text/html":
            return not any(part.startswith(b"q=0") and not part[3:].strip(b".0") for part in parameters)
    return False


def _field_list(value: bytes | None) -> str | None:
    """Names and commas, ready to be echoed; anything else is left out, and the browser then refuses by itself."""
    if value is None:
        return None
    text = value.decode("ascii")
    return text if _FIELD_LIST_CHARS.issuperset(text) else None
