"""
Field names: which a function may see, which Portero reads, which a stranger must not be able to say.

A name is classified by what it *becomes* at the function: CGI, WSGI and PHP fold case and turn ``-``, ``_`` and more
into one character, so ``X_Forwarded_User`` is ``X-Forwarded-User`` there. Hence every name is judged lower-cased with
all punctuation as ``-``; a second spelling of a name that means something here is removed, never read. Names that mean
nothing here pass as they were sent, underscores included.

Both directions are one pass over the fields with one dict probe each; spellings are remembered in bounded memos,
because whoever sends them chooses them. This module refuses to know values, but for the answer's own framing.

Source: RFC 9110 sections 5.1, 7.6.1; design section 5; rules AP-R6, R23, R33 (CVE-2025-64484, GHSA-5m6w-wvh7-57vm,
CVE-2025-48865).

Longer than other modules: one table of names in each direction, and the pass that reads it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

KEEP: Final = 0
"""Passes unread."""
HOP: Final = 1
"""Hop-by-hop: removed; ``Connection`` may name it."""
OURS: Final = 2
"""Spoofable, ours, or another spelling of what is read: removed; ``Connection`` may not name it."""
BAD: Final = 3
"""Not a token (RFC 9110 section 5.6.2)."""

# Read and removed: they are made anew, or stand apart in the AccessRequest.
FIRST_READ: Final = 4
HOST: Final = 4
AUTHORIZATION: Final = 5
COOKIE: Final = 6
CONNECTION: Final = 7
CONTENT_LENGTH: Final = 8
TRANSFER_ENCODING: Final = 9
UPGRADE: Final = 10
EXPECT: Final = 11
TENANT_HINT: Final = 12
FORWARDED_FOR: Final = 13
FORWARDED_PROTO: Final = 14
TRACEPARENT: Final = 15
TRACESTATE: Final = 16
DPOP: Final = 17
CLIENT_CERT: Final = 18
CALLBACK_URL: Final = 19

# Read and passed on.
FIRST_PASSED: Final = 20
ACCEPT: Final = 20
ORIGIN: Final = 21
FETCH_SITE: Final = 22
FETCH_MODE: Final = 23
PREFLIGHT_METHOD: Final = 24
PREFLIGHT_FIELDS: Final = 25
WEBSOCKET_KEY: Final = 26
WEBSOCKET_VERSION: Final = 27
IDEMPOTENCY_KEY: Final = 28
PREFER: Final = 29

JOINED_BY: Final = {
    COOKIE: b"; ",
    CONNECTION: b",",
    UPGRADE: b",",
    FORWARDED_FOR: b",",
    FORWARDED_PROTO: b",",
    TRACESTATE: b",",
    ACCEPT: b",",
    PREFLIGHT_FIELDS: b",",
    PREFER: b",",
}
"""Lists: several fields are one (RFC 9110 section 5.3). Any other kind that is read may stand once (AP-R35)."""

EXACT: Final = {
    "host": HOST,
    "authorization": AUTHORIZATION,
    "cookie": COOKIE,
    "connection": CONNECTION,
    "content-length": CONTENT_LENGTH,
    "transfer-encoding": TRANSFER_ENCODING,
    "upgrade": UPGRADE,
    "expect": EXPECT,
    "x-dispatch-org": TENANT_HINT,
    "x-portero-tenant": TENANT_HINT,
    "x-forwarded-for": FORWARDED_FOR,
    "x-forwarded-proto": FORWARDED_PROTO,
    "traceparent": TRACEPARENT,
    "tracestate": TRACESTATE,
    "dpop": DPOP,  # a proof made for Portero, not for the function (AP-R55)
    "client-cert": CLIENT_CERT,
    "x-callback-url": CALLBACK_URL,
    "accept": ACCEPT,
    "origin": ORIGIN,
    "sec-fetch-site": FETCH_SITE,
    "sec-fetch-mode": FETCH_MODE,
    "access-control-request-method": PREFLIGHT_METHOD,
    "access-control-request-headers": PREFLIGHT_FIELDS,
    "sec-websocket-key": WEBSOCKET_KEY,
    "sec-websocket-version": WEBSOCKET_VERSION,
    "idempotency-key": IDEMPOTENCY_KEY,
    "prefer": PREFER,
}
HOP_BY_HOP: Final = frozenset(
    {
        "close",  # a connection option, not a field: Connection may name it
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",  # trailers are dropped, so none are announced
        "http2-settings",
    }
)
OUR_NAMES: Final = frozenset(
    {
        "x-request-id",
        "x-forwarded",
        "x-real-ip",
        "x-rewrite-url",
        "x-scope-orgid",
        "proxy",  # becomes HTTP_PROXY of a CGI function (OpenFaaS' classic watchdog): httpoxy, CVE-2016-5385
        # Policy judges the method as sent; a framework that obeys one of these would run another.
        "x-http-method",
        "x-http-method-override",
        "x-method-override",
    }
)
OUR_PREFIXES: Final = (
    "x-portero-",
    "x-auth-request-",
    "x-forwarded-",
    "forwarded",
    "x-original-",
    "x-tenant",
    "x-dispatch-",
    "x-consumer-",
    "x-credential-",
    "knative-serving-",
    "k-",
    "x-openfaas-",
    # What proxies call the certificate that a client has shown them: a function must not take a stranger's word for it.
    "client-cert",
    "clientcert",
    "x-client-cert",
    "x-client-verify",
    "x-client-dn",
    "ssl-client-",
    "x-ssl-client",
    "x-ssl-cert",
    "x-tls-client",
    "x-arr-clientcert",
    "x-amzn-mtls-",
)
_TOKEN: Final = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_FOLD: Final = bytes.maketrans(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZ_!#$%&'*+.^`|~", b"abcdefghijklmnopqrstuvwxyz--------------"
)  # ``-`` for every punctuation a token may hold: what Apache's CGI makes of a name
_MEMO_ENTRIES: Final = 4096
"""Spellings remembered in each direction."""
_MEMO_NAME_BYTES: Final = 64
"""Longer spellings are classified each time: together these bound the memo to about half a mebibyte."""


def classify(name: bytes) -> int:
    """The kind of one request field's name. Never raises."""
    if not name or name.translate(None, _TOKEN):
        return BAD
    lowered = name.lower().decode("ascii")
    kind = EXACT.get(lowered)
    if kind is not None:
        return kind
    if lowered in HOP_BY_HOP:
        return HOP
    folded = name.translate(_FOLD).decode("ascii")
    if folded in EXACT or folded in HOP_BY_HOP or folded in OUR_NAMES or folded.startswith(OUR_PREFIXES):
        return OURS
    return KEEP


class RequestKinds(dict[bytes, int]):
    """Spelling -> kind; classifies what it has not seen and forgets everything when it is full."""

    def __missing__(self, name: bytes) -> int:
        kind = classify(name)
        if len(name) <= _MEMO_NAME_BYTES:
            if len(self) >= _MEMO_ENTRIES:
                self.clear()
            self[name] = kind
        return kind


REQUEST_KINDS: Final = RequestKinds()


# --- the function's answer ---------------------------------------------------------------------------------------

_ANSWER_LENGTH: Final = 4
_ANSWER_CONNECTION: Final = 5
_ANSWER_COOKIE: Final = 6
ANSWER_CORS: Final = 7
ANSWER_CACHING: Final = 8
ANSWER_EXACT: Final = {
    "content-length": _ANSWER_LENGTH,
    "connection": _ANSWER_CONNECTION,
    "set-cookie": _ANSWER_COOKIE,
    "access-control-allow-origin": ANSWER_CORS,
    "access-control-allow-credentials": ANSWER_CORS,
    "access-control-expose-headers": ANSWER_CORS,
    "cache-control": ANSWER_CACHING,
    "expires": ANSWER_CACHING,
    "surrogate-control": ANSWER_CACHING,
    "edge-control": ANSWER_CACHING,
    "x-accel-expires": ANSWER_CACHING,
    "transfer-encoding": HOP,
    "upgrade": HOP,
    "x-request-id": OURS,  # added anew
}
TARGETED_CACHING: Final = "cdn-cache-control"
"""Ends the names by which caches are told apart (RFC 9213), ``cloudflare-cdn-cache-control`` among them."""
_CONNECTION_OPTIONS: Final = frozenset({b"close", b"keep-alive", b"upgrade", b""})
"""What ``Connection`` says without naming a field that would still be there."""
OUR_COOKIE_PREFIX: Final = b"__host-portero"
"""Session, login and every later cookie of ours; folded, because browsers match the ``__Host-`` prefix in any case."""
_PADDING: Final = b" \t="
"""A cookie without a name, ``=__Host-portero=x``, is sent back as ``__Host-portero=x`` by older browsers."""
FORBIDDEN_BYTES: Final = b"\r\n\0"
"""Never inside a field's value (RFC 9110 section 5.5)."""


def classify_answer(name: bytes) -> int:
    """The kind of one answer field's name. Never raises."""
    if not name or name.translate(None, _TOKEN):
        return BAD
    lowered = name.lower().decode("ascii")
    kind = ANSWER_EXACT.get(lowered)
    if kind is not None:
        return kind
    if lowered in HOP_BY_HOP:
        return HOP
    if lowered.endswith(TARGETED_CACHING):
        return ANSWER_CACHING
    return OURS if name.translate(_FOLD).startswith(b"x-portero-") else KEEP


class AnswerKinds(dict[bytes, int]):
    """Spelling -> kind for answers; bounded as ``RequestKinds``."""

    def __missing__(self, name: bytes) -> int:
        kind = classify_answer(name)
        if len(name) <= _MEMO_NAME_BYTES:
            if len(self) >= _MEMO_ENTRIES:
                self.clear()
            self[name] = kind
        return kind


ANSWER_KINDS: Final = AnswerKinds()


class AnswerFields(NamedTuple):
    """What of a function's answer the client sees."""

    block: bytes
    """``name: value CRLF`` lines in the order sent, without framing fields."""
    content_length: int | None
    """As the function said; None when it said none."""


def is_our_cookie(pair: bytes) -> bool:
    """Whether ``name=value`` is, or would come back as, a cookie of Portero's."""
    return pair.lstrip(_PADDING)[: len(OUR_COOKIE_PREFIX)].lower() == OUR_COOKIE_PREFIX


def filter_answer(
    fields: Iterable[tuple[bytes, bytes]],
    *,
    replaces_cors: bool = False,
    is_private: bool = False,
    is_by_cookie: bool = False,
) -> AnswerFields | None:
    """
    The answer's fields without what is hop-by-hop, ours or framing; None when they are garbled (``upstream-garbled``).

    Hot: one pass, one join. Status, body and every other field are the function's own.

    Args:
        fields: name and value as the function sent them.
        replaces_cors: the route has ``cors.origins``: Portero answers for the function, whose own fields would be a
            second answer that browsers refuse.
        is_private: Portero gives the browser its session anew with this answer and says itself that nobody may keep it;
            what the function says of caches is left out, since some of it would be stronger.
        is_by_cookie: the caller is known by a session. Where the function says nothing of caches, ``private`` is said
            for it: a shared cache does not keep what ``Authorization`` has opened (RFC 9111 section 3.5), and knows
            nothing of cookies.
    """
    kinds = ANSWER_KINDS
    kept: list[tuple[bytes, bytes]] = []
    length: bytes | None = None
    named: set[bytes] | None = None
    for pair in fields:
        kind = kinds[pair[0]]
        if not kind or (kind == _ANSWER_COOKIE and not is_our_cookie(pair[1])):
            kept.append(pair)
        elif kind == _ANSWER_LENGTH:
            if length is not None and length != pair[1]:
                return None
            length = pair[1]
        elif kind == _ANSWER_CONNECTION:
            if pair[1] not in _CONNECTION_OPTIONS:
                named = {token.strip(b" \t").lower() for token in pair[1].split(b",")}.union(named or ())
        elif kind == BAD:
            return None
        elif (kind == ANSWER_CORS and not replaces_cors) or (kind == ANSWER_CACHING and not is_private):
            kept.append(pair)
    if named is not None and not named <= _CONNECTION_OPTIONS:
        kept = [pair for pair in kept if pair[0].lower() not in named]
    if is_by_cookie and not is_private and not any(name.lower() == b"cache-control" for name, _ in kept):
        kept.append((b"Cache-Control", b"private"))
    content_length = None if length is None else parse_content_length(length)
    if content_length == -1:
        return None
    block = field_lines(kept)
    # tuple.__new__: half the time of the NamedTuple's own.
    return None if block is None else tuple.__new__(AnswerFields, (block, content_length))


def field_lines(pairs: list[tuple[bytes, bytes]]) -> bytes | None:
    """``name: value CRLF`` for each pair; None when a value would start a line of its own or holds NUL."""
    if not pairs:
        return b""
    block = b"\r\n".join(map(b": ".join, pairs)) + b"\r\n"
    # One look for all values: exactly the CR and LF that the joins wrote, and nothing more.
    if len(block) - len(block.translate(None, FORBIDDEN_BYTES)) != 2 * len(pairs):
        return None
    return block


def parse_content_length(value: bytes) -> int:
    """1*DIGIT below 2**63 (RFC 9110 section 8.6), or -1: no sign, no list, no blank."""
    return int(value) if value.isdigit() and len(value) <= 18 else -1
