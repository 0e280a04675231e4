"""
The facts of one request: the string that the rendered pre-function has written, as the ``Head`` that is judged.

``lua/facts.lua`` puts down what nginx has read, one fact a line, before anything of it is changed. The string is the
mark, too, that it ran: without facts there is no head, and without a head no pass. It decides nothing about a request;
``policies.request.read_head`` does. What the string cannot say is not so: a client's certificate (a token that is bound
to one is refused), unless a trusted peer names it.

nginx refuses LF, CR and NUL in a request line and in a field, so that they can part the facts. A byte beyond ASCII
stands there as the character of its number, in UTF-8: the stock plugin server takes no other bytes. Lines:

0. ``portero/1``
1. address of the TCP peer
2. scheme of the connection
3. server name of its TLS (SNI), or empty
4. the request line, verbatim
5. and following: ``name: value``, one for each field; names in lower case

Source: RFC 9112 section 3 (request line); RFC 9113 section 8.2.2 (HTTP/2 knows no chunks).
"""

from __future__ import annotations

from typing import Final

from policies.request import Head

FACTS: Final = "portero_facts"
"""Key in ``kong.ctx.shared``."""
MARK: Final = b"portero/1"
MAX_BYTES: Final = 256 * 1024
"""Far above what ``read_head`` takes and what nginx reads (``large_client_header_buffers``, 32 KiB by default)."""
_FIRST_FIELD: Final = 5
_CHUNKED: Final = (b"transfer-encoding", b"chunked")
_LENGTH: Final = b"content-length"
_NO_BODY: Final = frozenset({"GET", "HEAD"})
_VERSIONS: Final = {b"HTTP/1.1": (1, 1), b"HTTP/1.0": (1, 0), b"HTTP/2.0": (1, 1), b"": (0, 9)}
_SCHEMES: Final = {b"http": "http", b"https": "https"}
_UNKNOWN_VERSION: Final = (0, 0)
"""``read_head`` refuses it, as it does 0.9."""


def read_facts(raw: object) -> Head | None:
    """
    The head that ``raw`` tells of; None when it is no such string. Never raises, whatever it is.

    HTTP/2 is judged as HTTP/1.1. There a body may come that no field announces: it is taken for one of unknown length,
    as chunks are, but of methods that do not have bodies (what is sent with those all the same, Kong alone bounds:
    ``client_max_body_size``).

    Args:
        raw: bytes; text where the stock server has decoded it.
    """
    try:
        if isinstance(raw, str):
            raw = raw.encode("latin-1")
        elif isinstance(raw, bytes) and not raw.isascii():
            raw = raw.decode("utf-8").encode("latin-1")
    except UnicodeError:
        return None
    if not isinstance(raw, bytes) or len(raw) > MAX_BYTES:
        return None
    lines = raw.split(b"\n")
    if len(lines) < _FIRST_FIELD or lines[0] != MARK:
        return None
    fields: list[tuple[bytes, bytes]] = []
    for line in lines[_FIRST_FIELD:]:
        name, mark, value = line.partition(b": ")
        if not mark:
            return None
        fields.append((name, value))
    scheme = _SCHEMES.get(lines[2])
    if scheme is None or not lines[1] or b"\r" in raw or b"\0" in raw:
        return None
    method, _, rest = lines[4].partition(b" ")
    target, _, version = rest.rpartition(b" ")
    if not target:  # HTTP/0.9 names no version
        target, version = rest, b""
    head = Head(
        method.decode("latin-1"),
        target,
        fields,
        _VERSIONS.get(version, _UNKNOWN_VERSION),
        lines[1].decode("latin-1"),
        scheme,
        lines[3].decode("latin-1") or None,
    )
    if version == b"HTTP/2.0" and head.method not in _NO_BODY and all(pair[0] != _LENGTH for pair in fields):
        fields.append(_CHUNKED)
    return head
