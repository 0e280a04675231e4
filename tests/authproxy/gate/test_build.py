"""The parts of a process: what is made is ended."""

from typing import Any

import pytest

from authproxy.gate.build import Parts


class Part:
    def __init__(self, name: str, ended: list[str], *, fails: bool = False) -> None:
        self._name, self._ended, self._fails = name, ended, fails

    async def close(self) -> None:
        self._ended.append(self._name)
        if self._fails:
            raise OSError(self._name)


class Audit:
    def __init__(self, ended: list[str]) -> None:
        self._ended = ended

    def close(self) -> None:
        self._ended.append("audit")


async def test_a_part_that_fails_to_end_keeps_no_other_from_ending() -> None:
    """Held requests end first, and the audit last, so that nothing it was told is lost."""
    ended: list[str] = []
    part: dict[str, Any] = {
        name: Part(name, ended, fails=name in {"activator", "store"})
        for name in ("activator", "pool", "identity", "store", "backends")
    }
    nothing: Any = None
    audit: Any = Audit(ended)
    parts = Parts(gate=nothing, folder=nothing, live=nothing, metrics=nothing, audit=audit, **part)
    with pytest.raises(OSError, match=r"activator|store"):
        await parts.close()
    assert ended == ["activator", "pool", "identity", "store", "backends", "audit"]
