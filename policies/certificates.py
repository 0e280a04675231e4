"""
A client's certificate, as the proxy that has verified it writes it into a field: which certificate is it?

Two spellings are read: ``:<base64 of the DER>:`` (RFC 9440) and the URL-escaped PEM that nginx has in
``$ssl_client_escaped_cert``. Decided is only that the text is one whole certificate's bytes and which; whether the
certificate is valid, and who it names, was the proxy's business. A token bound to a certificate wants this very one.

Source: RFC 9440 section 2.2, RFC 8941 section 3.3.5, RFC 7468 section 5, RFC 8705 section 3.1, X.690 section 8.1.3.
"""

from __future__ import annotations

from binascii import Error as Base64Error
from binascii import a2b_base64
from hashlib import sha256
from typing import Final
from urllib.parse import unquote_to_bytes

MAX_CERTIFICATE_CHARS: Final = 24 * 1024
"""As written. Certificates have 1 to 4 KiB, escaped base64 half as much again."""
_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"
_END: Final = b"-----END CERTIFICATE-----"
_BLANK: Final = b" \t\r\n"
_SEQUENCE: Final = 0x30


def certificate_digest(value: bytes) -> bytes | None:
    """SHA-256 of the DER of the one certificate that ``value`` spells; None when it spells none. Never raises."""
    if not value or len(value) > MAX_CERTIFICATE_CHARS:
        return None
    if value[:1] == b":":
        encoded = value[1:-1] if value[-1:] == b":" and len(value) > 1 else b""
    else:
        pem = unquote_to_bytes(value).strip(_BLANK)
        if not pem.startswith(_BEGIN) or not pem.endswith(_END):
            return None
        encoded = pem[len(_BEGIN) : -len(_END)].translate(None, _BLANK)
    try:
        der = a2b_base64(encoded, strict_mode=True)
    except (Base64Error, ValueError):
        return None
    return sha256(der).digest() if _is_one_sequence(der) else None


def _is_one_sequence(der: bytes) -> bool:
    """Whether ``der`` is one SEQUENCE and ends where that does, its length in the shortest form (DER)."""
    if len(der) < 2 or der[0] != _SEQUENCE:
        return False
    first = der[1]
    if first < 0x80:
        return len(der) == 2 + first
    size = first & 0x7F
    if not 0 < size <= 4 or len(der) < 2 + size:
        return False
    length = int.from_bytes(der[2 : 2 + size])
    return length >= 0x80 and der[2] != 0 and len(der) == 2 + size + length
