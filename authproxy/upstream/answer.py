"""
An answer as it is read: what llhttp (``httptools``) calls back, what may not be in it, and what has come of it so far.

What an upstream may not do is decided in here: framing that can be read in two ways, a coding that is not understood, a
head over 64 KiB, a status that is none, anything after the end of the answer. It refuses to know sockets.
"""

from __future__ import annotations

from typing import Any, Final

from httptools import HttpResponseParser

HEAD_LIMIT_BYTES: Final = 64 * 1024
"""Head of an answer, and likewise any run of framing without a byte of body (trailers, chunk extensions)."""
READ_HIGH_BYTES: Final = 128 * 1024
"""Answer bytes waiting for the consumer beyond which the socket is not read; twice aiohttp's write buffer limit."""
_BLANKS: Final = b" \t"


class AnswerReader:
    """The answer to one request after the other; ``Connection`` is its only subclass and brings the transport."""

    __slots__ = (
        "_body_was",
        "_framing_bytes",
        "_is_head_request",
        "_parser",
        "_pieces",
        "_pieces_bytes",
        "_to_eof",
        "_upgrades",
        "content_length",
        "fields",
        "has_head",
        "is_complete",
        "keeps_alive",
        "status",
    )

    def __init__(self) -> None:
        self._parser: Any = HttpResponseParser(self)
        self._is_head_request = False
        self._upgrades = False
        self.forget_answer()

    def forget_answer(self) -> None:
        """Ready for the answer to the next request."""
        self.status = 0
        self.fields: list[tuple[bytes, bytes]] = []
        self.content_length: int | None = None
        self.has_head = False
        self.is_complete = False
        self.keeps_alive = False
        self._pieces: list[bytes] = []
        self._pieces_bytes = self._framing_bytes = self._body_was = 0
        self._to_eof = False
        """The body ends with the connection; while a head is read: a coding was named."""

    def abort(self) -> None:
        """Close at once."""
        raise NotImplementedError

    def hold_reading(self) -> None:
        """Too much waits for the consumer."""
        raise NotImplementedError

    @property
    def is_framing_too_long(self) -> bool:
        """A head or trailer never ends: the parser keeps it in memory, so that it must be cut from out here."""
        if self._framing_bytes <= HEAD_LIMIT_BYTES or self.is_complete:
            return False
        if self._body_was:
            self._framing_bytes = self._body_was = 0
            return False
        return True

    # -- callbacks of the parser -----------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self.is_complete:
            self._refuse_excess()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.has_head:
            return  # a trailer: dropped, because fields that were judged in the head could come again in here
        size = len(name)
        if size == 17 and name.lower() == b"transfer-encoding":
            # Only one coding is understood, and only said once: any other body would be passed on without its coding.
            if self._to_eof or value.rstrip(_BLANKS).lower() != b"chunked":
                raise ValueError(value)
            self._to_eof = True
        elif size == 14 and name.lower() == b"content-length":
            value = value.rstrip(_BLANKS)  # llhttp strips in front only (RFC 9112 section 5.1)
            self.content_length = int(value)
        self.fields.append((name, value))

    def on_headers_complete(self) -> None:
        if self.is_complete:
            self._refuse_excess()
            return
        parser = self._parser
        status: int = parser.get_status_code()
        if status < 200 and (status != 101 or not self._upgrades):
            if status < 100 or status == 101:
                raise ValueError(status)
            self.fields = []
            self.content_length = None
            self._to_eof = False
            return
        if status > 599 or parser.get_http_version() not in {"1.1", "1.0"}:
            raise ValueError(status)
        if (
            self._framing_bytes > HEAD_LIMIT_BYTES
            and sum(len(n) + len(v) + 4 for n, v in self.fields) > HEAD_LIMIT_BYTES
        ):
            raise ValueError(status)
        self.status = status
        self.has_head = True
        self.keeps_alive = parser.should_keep_alive()
        is_chunked = self._to_eof
        self._to_eof = not is_chunked and self.content_length is None and status not in {204, 304, 101}
        if self._is_head_request:
            # llhttp cannot be told that this answer has no body: end here, and read the next one with a fresh parser.
            self._to_eof = False
            self.is_complete = True
            self._parser = HttpResponseParser(self)

    def on_body(self, data: bytes) -> None:
        size = len(data)
        if not size:
            return  # an empty piece would be taken for the end
        if self.is_complete:
            self._refuse_excess()
            return
        self._body_was += size
        self._pieces.append(data)
        self._pieces_bytes += size
        if self._pieces_bytes > READ_HIGH_BYTES:
            self.hold_reading()

    def on_message_complete(self) -> None:
        if self.has_head and self.status != 101:
            self.is_complete = True

    def _refuse_excess(self) -> None:
        """Bytes after the whole answer, in one segment with it: it stands, but the connection is at its end."""
        self.abort()
