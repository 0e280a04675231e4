"""
How results stand in a store that others may read: sealed under a key that their own id gives, and nothing else.

Whoever reads the store sees names, ends and sizes; he has neither the ids nor what was answered, to whom. Whoever
writes into it can lose results, not make one up. So there is no key to keep or to change, and no Portero needs
another's. Refuses to know stores.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final, NamedTuple

import msgspec

from authproxy.identity.sessions.seal import open_under, seal_under
from authproxy.results.result import Owner, Result

_PURPOSE: Final = "result"
_NAME: Final = b"portero result name v1\0"
_SECRET: Final = b"portero result secret v1\0"
"""What is hashed before an id: the name says nothing of the secret."""
_STATUSES: Final = range(200, 600)


class _Record(NamedTuple):
    subject: str | None
    result: tuple[int, list[tuple[bytes, bytes]], bytes, float] | None


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(_Record)


def name_of(result_id: str) -> str:
    """Under what it is kept, 32 hexadecimal digits; from here no way leads back to the id."""
    return sha256(_NAME + result_id.encode("ascii")).hexdigest()[:32]


def seal_result(result_id: str, owner: Owner, result: Result | None) -> bytes:
    """``result`` None: pending."""
    record = _Record(owner.subject, None if result is None else (result.status, list(result.fields), *result[2:]))
    return seal_under(_secret(result_id), _PURPOSE, owner.tenant, _encoder.encode(record))


def open_result(result_id: str, tenant: str, data: bytes) -> tuple[Owner, Result | None] | None:
    """What was sealed; None for anything that was not sealed for this id and tenant. Never raises."""
    plain = open_under(_secret(result_id), _PURPOSE, tenant, data)
    if plain is None:
        return None
    try:
        subject, kept = _decoder.decode(plain)
    except msgspec.MsgspecError:
        return None
    owner = Owner(tenant, subject)
    if kept is None:
        return owner, None
    status, fields, body, finished_at = kept
    return (owner, Result(status, tuple(fields), body, finished_at)) if status in _STATUSES else None


def _secret(result_id: str) -> bytes:
    return sha256(_SECRET + result_id.encode("ascii")).digest()
