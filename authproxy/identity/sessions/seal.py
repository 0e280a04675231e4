"""
Sealing: what leaves this process and comes back unread, unchanged, and for the one purpose it was made for.

It decides whether sealed bytes are ours, of this tenant, for this purpose and under this name; whoever changes one bit,
or brings them to another tenant, purpose or name, has nothing (AP-R21, R46, R48). It refuses to know what is sealed,
how long it is good for, and why something does not open: the answer to all of that is None.

AES-256-GCM with random nonces. Each (tenant, purpose) has a key of its own by HKDF-SHA256, so that the 2^32 messages
that random nonces allow count for each of them (NIST SP 800-38D section 8.3); operators change keys long before.

Source: RFC 5116, RFC 5869, RFC 4648 section 5.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Callable, Mapping
from secrets import token_bytes
from typing import Final, NamedTuple

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from authproxy.identity.sessions.session_record import decode_session, encode_session

KEY_BYTES: Final = 32
KEY_ID_BYTES: Final = 4

_VERSION: Final = b"\x01"
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_HEAD_BYTES: Final = len(_VERSION) + KEY_ID_BYTES
_BODY_AT: Final = _HEAD_BYTES + _NONCE_BYTES
_OVERHEAD_BYTES: Final = _BODY_AT + _TAG_BYTES
_MAX_TEXT_CHARS: Final = 64 * 1024
"""Nothing of ours that a browser or a query carries is as long."""
_MEMO_KEYS: Final = 4096
"""Derived keys kept: (key id, tenant, purpose)."""
_TO_URL: Final = bytes.maketrans(b"+/", b"-_")
_base64: Final = msgspec.json.Decoder(bytes)
"""A JSON string of base64: 1.3 us for a cookie, where ``binascii`` takes 3.5."""
_PADDING: Final = (b"", b"", b"==", b"=")
_LAST_LETTERS: Final = {2: frozenset(b"AQgw"), 3: frozenset(b"AEIMQUYcgkosw048")}
"""Characters beyond the last four -> the letters they may end with: the others differ in bits that nobody reads."""


class SessionKeys(NamedTuple):
    """The master keys of one moment; another moment's are another object."""

    current: tuple[bytes, bytes]
    """Key id (4 bytes) and key (32 bytes) that is sealed with."""
    accepted: Mapping[bytes, bytes]
    """Key id -> key of all that is opened, the current one among them or not."""

    def __repr__(self) -> str:
        return f"SessionKeys({self.current[0].hex()} of {len(self.accepted)})"


class _Derived(NamedTuple):
    cipher: AESGCM
    context: bytes
    """Purpose and tenant, as they stand in the authenticated data."""


class Sealer:
    """
    Seals under the newest key and opens under each that is accepted. One per process.

    Args:
        keys: asked at each call, must be cheap and must not raise; the same object for as long as nothing has changed.
    """

    def __init__(self, keys: Callable[[], SessionKeys]) -> None:
        self._keys = keys
        self._seen: SessionKeys | None = None
        self._memo: dict[tuple[bytes, str, str], _Derived] = {}

    def seal(self, tenant: str, purpose: str, name: str, plain: bytes) -> str:
        """
        ``plain`` as base64url without padding; ``sealed_chars`` says how long that is.

        Args:
            tenant: whose it is.
            purpose: what it is for; nothing sealed for one purpose opens for another.
            name: of the cookie or parameter that carries it.
            plain: kept secret, and made known to nobody but its length.
        """
        keys = self.keys_now()
        key_id, key = keys.current
        derived = self._derived(key_id, key, tenant, purpose)
        head = _VERSION + key_id
        nonce = token_bytes(_NONCE_BYTES)
        sealed = derived.cipher.encrypt(nonce, plain, head + derived.context + name.encode("utf-8", "surrogatepass"))
        return to_text(head + nonce + sealed)

    def open(self, tenant: str, purpose: str, name: str, text: str | bytes) -> bytes | None:
        """What was sealed; None for everything that was not sealed here for just this. Never raises."""
        data = from_text(text)
        if data is None or len(data) < _OVERHEAD_BYTES or data[:1] != _VERSION:
            return None
        keys = self.keys_now()
        key_id = data[1:_HEAD_BYTES]
        key = keys.current[1] if key_id == keys.current[0] else keys.accepted.get(key_id)
        if key is None:
            return None
        derived = self._derived(key_id, key, tenant, purpose)
        context = data[:_HEAD_BYTES] + derived.context + name.encode("utf-8", "surrogatepass")
        try:
            return derived.cipher.decrypt(data[_HEAD_BYTES:_BODY_AT], data[_BODY_AT:], context)
        except InvalidTag:
            return None

    def keys_now(self) -> SessionKeys:
        """What is sealed with and opened by; the same object while nothing has changed, so that it can be compared."""
        keys = self._keys()
        if keys is not self._seen:
            self._memo.clear()
            self._seen = keys
        return keys

    def _derived(self, key_id: bytes, key: bytes, tenant: str, purpose: str) -> _Derived:
        slot = (key_id, tenant, purpose)
        derived = self._memo.get(slot)
        if derived is None:
            if len(self._memo) >= _MEMO_KEYS:
                self._memo.clear()
            derived = self._memo[slot] = _derive(key, purpose, tenant)
        return derived


def sealed_chars(plain_bytes: int) -> int:
    """How long the text of ``Sealer.seal`` is for so many bytes."""
    return -(-(plain_bytes + _OVERHEAD_BYTES) * 4 // 3)


def seal_under(secret: bytes, purpose: str, tenant: str, plain: bytes) -> bytes:
    """``plain`` under a key of its own: whoever has not got ``secret`` (32 random bytes) has nothing."""
    derived = _derive(secret, purpose, tenant)
    nonce = token_bytes(_NONCE_BYTES)
    return _VERSION + nonce + derived.cipher.encrypt(nonce, plain, _VERSION + derived.context)


def open_under(secret: bytes, purpose: str, tenant: str, data: bytes) -> bytes | None:
    """What ``seal_under`` sealed; None for anything else. Never raises."""
    at = len(_VERSION) + _NONCE_BYTES
    if len(data) < at + _TAG_BYTES or data[:1] != _VERSION:
        return None
    derived = _derive(secret, purpose, tenant)
    try:
        return derived.cipher.decrypt(data[1:at], data[at:], _VERSION + derived.context)
    except InvalidTag:
        return None


def to_text(data: bytes) -> str:
    """Base64url without padding."""
    return b2a_base64(data, newline=False).translate(_TO_URL).rstrip(b"=").decode("ascii")


def from_text(text: str | bytes) -> bytes | None:
    """The one reading of base64url without padding; None for what ``to_text`` never writes."""
    if len(text) > _MAX_TEXT_CHARS:
        return None
    if isinstance(text, str):
        if not text.isascii():
            return None
        text = text.encode("ascii")
    if b"+" in text or b"/" in text or b"=" in text or b"\\" in text:
        return None
    beyond = len(text) & 3
    if beyond and (beyond == 1 or text[-1] not in _LAST_LETTERS[beyond]):
        return None
    try:
        return _base64.decode(b'"%b%b"' % (text.replace(b"-", b"+").replace(b"_", b"/"), _PADDING[beyond]))
    except msgspec.MsgspecError:
        return None


def _derive(key: bytes, purpose: str, tenant: str) -> _Derived:
    context = _part(purpose) + _part(tenant)
    derived = HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=b"portero seal v1" + context).derive(key)
    return _Derived(AESGCM(derived), context)


def _part(text: str) -> bytes:
    """With its length before it, so that no two lists of parts are the same bytes."""
    data = text.encode("utf-8", "surrogatepass")
    return len(data).to_bytes(4) + data


__all__ = [
    "KEY_BYTES",
    "KEY_ID_BYTES",
    "Sealer",
    "SessionKeys",
    "decode_session",
    "encode_session",
    "from_text",
    "open_under",
    "seal_under",
    "sealed_chars",
    "to_text",
]
