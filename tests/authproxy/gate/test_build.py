"""The parts of a process: what is made is ended."""

from typing import Any

import pytest

from authproxy.gate.build import Parts
from tests.fakes.world import running_world


class Part:
    def __init__(self, name: str, ended: list[str], *, fails: bool = False) -> None:
        self._name, self._ended, self._fails = name, ended, fails

    async def close(self) -> None:
        self._ended.append(self._name)
        if self._fails:
            raise OSError(self._name)


ORDER = ("live", "activator", "callbacks", "pool", "cluster", "results", "identity", "store", "backends")


class Audit:
    def __init__(self, ended: list[str]) -> None:
        self._ended = ended

    def close(self) -> None:
        self._ended.append("audit")


async def test_a_part_that_fails_to_end_keeps_no_other_from_ending() -> None:
    """Held requests end first, and the audit last, so that nothing it was told is lost."""
    ended: list[str] = []
    part: dict[str, Any] = {name: Part(name, ended, fails=name in {"activator", "store"}) for name in ORDER}
    nothing: Any = None
    audit: Any = Audit(ended)
    parts = Parts(gate=nothing, folder=nothing, identifier=nothing, metrics=nothing, audit=audit, **part)
    with pytest.raises(OSError, match=r"activator|store"):
        await parts.close()
    assert ended == [*ORDER, "audit"]


async def test_a_replaced_password_of_a_platform_is_taken_up(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a change of the policies, at the next look; one that is gone is told once and the last one stays."""
    async with running_world() as world:
        secret = world.folder / "secrets" / "platform" / "faas-admin"
        secret.parent.mkdir()
        secret.write_text("admin:old")
        platform = world.policies / "platform.yaml"
        platform.write_text(platform.read_text().replace("kind: openfaas,", "kind: openfaas, credentials: faas-admin,"))
        world.faas.credentials = ("admin", "old")
        folder = world.app.parts.folder
        assert await folder.reload()
        world.faas.add("survey-report", "acme")
        assert (await world.get("/reports/es", token=world.token())).status == 200

        world.faas.credentials = ("admin", "new")
        world.faas.add("survey-web", "acme")
        secret.write_text("admin:new")
        assert await folder.reload()
        assert (await world.get("/function/survey-web/", token=world.token())).status == 200

        secret.unlink()
        for _ in range(3):
            assert await folder.reload()
        world.faas.add("survey-submit", "acme")
        assert (await world.get("/function/survey-submit/", token=world.token())).status == 200
        assert capsys.readouterr().err.count("what the policies in force need is gone") == 1
