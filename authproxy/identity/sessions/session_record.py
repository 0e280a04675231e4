"""
A session as bytes, to be sealed: small enough for a cookie, and the same session again when it is read.

It decides on a form and nothing else. What stands in a session was chosen by a provider, so that sizes are bounded in
both directions. It refuses to know keys, cookies and stores.

Claims that are the ID token's own are not written twice. Claims and the readable parts of the ID token are deflated
together where that pays. Secrets (tokens, the ID token's signature) never are: the length of what is deflated tells of
what stands in it (CRIME), and it is not the same party that chooses claims and that must not learn tokens.
"""

from __future__ import annotations

import zlib
from binascii import Error as Base64Error
from binascii import a2b_base64
from typing import Any, Final

import msgspec

from authproxy.identity.sessions.session import PackedJwt, Session

MAX_BYTES: Final = 1024 * 1024
"""Of claims and ID token, inflated."""

_FORMAT: Final = 1
_DEFLATE_FROM_BYTES: Final = 700
"""Below that it saves less than it costs: some 10 us a session opened."""
_PAYS: Final = 0.9
"""At most so much of the length must be left."""
_LEVEL: Final = 6
_BIG_INTEGER: Final = 1
"""Code of MessagePack's extension for integers beyond 64 bits, in decimal digits."""
_MAX_DIGITS: Final = 64


class _Record(msgspec.Struct, array_like=True, gc=False):
    """The order of members is the form: a change needs another ``_FORMAT``."""

    format: int
    tenant: str
    id: str
    secret: bytes
    version: int
    provider: str
    issuer: str
    sub: str
    sid: str | None
    created_at: float
    seen_at: float
    fresh_until: float
    fetched_at: float
    is_deflated: bool
    readable: bytes
    id_signature: bytes | None
    """None: ``id_token`` is not a JWT, or there is none."""
    id_token: str | None
    access_token: str | None
    refresh_token: str | None


class _Readable(msgspec.Struct, array_like=True):
    claims: dict[str, Any] | None
    """None: those of the ID token's payload, without ``dropped``."""
    dropped: list[str]
    id_header: bytes
    id_payload: bytes


def encode_session(session: Session) -> bytes:
    """
    ``decode_session`` makes the same session of it.

    Raises: ValueError for claims that are not JSON or beyond ``MAX_BYTES``; its text quotes none of them.
    """
    segments = _segments(session.id_token)
    header, payload, signature = segments if segments is not None else (b"", b"", None)
    claims = dict(session.claims)
    dropped = _difference(claims, payload) if segments is not None else None
    readable = _encode_readable(
        _Readable(claims, [], header, payload) if dropped is None else _Readable(None, dropped, header, payload)
    )
    is_deflated = False
    if len(readable) >= _DEFLATE_FROM_BYTES:
        deflated = zlib.compress(readable, _LEVEL)
        if len(deflated) <= len(readable) * _PAYS:
            readable, is_deflated = deflated, True
    record = _Record(
        _FORMAT,
        session.tenant,
        session.id,
        session.secret,
        session.version,
        session.provider,
        session.issuer,
        session.sub,
        session.sid,
        session.created_at,
        session.seen_at,
        session.fresh_until,
        session.fetched_at,
        is_deflated,
        readable,
        signature,
        session.id_token if isinstance(session.id_token, str) and signature is None else None,
        session.access_token,
        session.refresh_token,
    )
    try:
        return _encoder.encode(record)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError("the session cannot be written down") from error


def decode_session(data: bytes, tenant: str) -> Session | None:
    """The session, if it is one of ``tenant``; else None. Never raises; ``data`` has been authenticated."""
    try:
        record = _decoder.decode(data)
        if record.format != _FORMAT or record.tenant != tenant:
            return None
        readable = _inflate(record.readable) if record.is_deflated else record.readable
        if readable is None:
            return None
        parts = _readable_decoder.decode(readable)
        claims = parts.claims
        if claims is None:
            claims = _claims_decoder.decode(parts.id_payload)
            for name in parts.dropped:
                claims.pop(name, None)
    except (msgspec.MsgspecError, zlib.error, ValueError, RecursionError):
        return None
    id_token: str | PackedJwt | None = record.id_token
    if record.id_signature is not None:
        id_token = PackedJwt(parts.id_header, parts.id_payload, record.id_signature)
    return Session(
        record.id,
        record.secret,
        record.version,
        record.tenant,
        record.provider,
        record.issuer,
        record.sub,
        record.sid,
        claims,
        record.created_at,
        record.seen_at,
        record.fresh_until,
        id_token,
        record.access_token,
        record.refresh_token,
        record.fetched_at,
    )


def _encode_readable(readable: _Readable) -> bytes:
    try:
        try:
            data = _encoder.encode(readable)
        except OverflowError:
            readable.claims = _with_big_integers(readable.claims)
            data = _encoder.encode(readable)
    except (ValueError, TypeError, OverflowError, RecursionError):
        # from None: an encoder's own words may quote a claim.
        raise ValueError("the claims cannot be written down") from None
    if len(data) > MAX_BYTES:
        raise ValueError("the claims are too long to be kept")
    return data


def _difference(claims: dict[str, Any], payload: bytes) -> list[str] | None:
    """Which members of the ID token's payload the claims lack; None unless they are the same to the last type."""
    try:
        members = _claims_decoder.decode(payload)
        dropped = [name for name in members if name not in claims]
        same = {name: members[name] for name in claims}
        return dropped if _encoder.encode(same) == _encoder.encode(claims) else None
    except (msgspec.MsgspecError, KeyError, ValueError, TypeError, OverflowError, RecursionError):
        return None


def _inflate(data: bytes) -> bytes | None:
    """At most ``MAX_BYTES``, whatever ``data`` says it holds."""
    inflater = zlib.decompressobj()
    inflated = inflater.decompress(data, MAX_BYTES)
    return inflated if inflater.eof and not inflater.unused_data else None


def _segments(token: str | PackedJwt | None) -> tuple[bytes, bytes, bytes] | None:
    """The three parts of a JWT, if they are the same text again when written; a quarter shorter, and to be deflated."""
    if isinstance(token, PackedJwt):
        return token.parts
    if token is None or not token.isascii():
        return None
    texts = token.split(".", 3)
    if len(texts) != 3:
        return None
    parts = []
    for text in texts:
        try:
            part = a2b_base64(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4))
        except Base64Error:
            return None
        parts.append(part)
    packed = PackedJwt(parts[0], parts[1], parts[2])
    return packed.parts if packed == token else None


def _with_big_integers(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _with_big_integers(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_big_integers(item) for item in value]
    if type(value) is int and not -(2**63) <= value < 2**64:
        digits = str(value).encode("ascii")
        if len(digits) > _MAX_DIGITS:
            raise ValueError("a number is too long")
        return msgspec.msgpack.Ext(_BIG_INTEGER, digits)
    return value


def _extension(code: int, data: memoryview) -> Any:
    if code != _BIG_INTEGER or len(data) > _MAX_DIGITS:
        raise ValueError("no form of ours")
    return int(bytes(data))


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(_Record)
_claims_decoder: Final = msgspec.json.Decoder(dict[str, Any])
_readable_decoder: Final = msgspec.msgpack.Decoder(_Readable, ext_hook=_extension)
