"""
Lua's values in Python, and how Kong's MessagePack library writes them.

Strings are bytes; a table whose keys are 1..n, the empty one included, is a list, any other a dict; nil is absent.
"""

from __future__ import annotations

from typing import Any

import msgpack


class Binary(bytes):
    """Sent as ``bin``, as Kong sends raw bodies; all other strings go as ``str``."""


class EmptyMap(dict[bytes, Any]):
    """Sent as a map of nothing; other empty tables go as arrays of nothing."""


def as_lua(value: Any) -> Any:
    """The value as a Lua table would hold it: no nil in a table, a sequence for keys 1..n, whole numbers as such."""
    if isinstance(value, (EmptyMap, Binary)):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**53:
        return float(value)
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if isinstance(value, (list, tuple)):
        value = dict(enumerate(value, 1))
    if not isinstance(value, dict):
        return value
    table = {as_lua(key): as_lua(item) for key, item in value.items() if item is not None}
    if set(table) == set(range(1, len(table) + 1)):
        return [table[index] for index in range(1, len(table) + 1)]
    return table


def pack(value: Any) -> bytes:
    """Serialise as Kong's MessagePack library does."""
    packer = msgpack.Packer(use_bin_type=isinstance(value, Binary))
    if isinstance(value, dict):
        parts = [packer.pack_map_header(len(value))]
        for key, item in value.items():
            parts += [pack(key), pack(item)]
        return b"".join(parts)
    if isinstance(value, (list, tuple)):
        return bytes(packer.pack_array_header(len(value))) + b"".join(map(pack, value))
    return bytes(packer.pack(value))
