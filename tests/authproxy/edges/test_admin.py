"""The admin listener: what it tells, to whom, and that the public one has none of it."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.world import RawAnswer, World, request_bytes, running_world, send_raw

LOCAL = "127.0.0.1:8089"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with running_world() as world:
        world.faas.add("survey-web", "acme")
        yield world


async def ask(world: World, line: str, **options: object) -> RawAnswer:
    answer = await send_raw(world.app.admin_address, request_bytes(line, **{"host": LOCAL, **options}))  # type: ignore[arg-type] # options of request_bytes
    assert answer is not None
    return answer


async def test_it_is_alive_and_ready(world: World) -> None:
    """Both answer 200 while requests are served."""
    assert (await ask(world, "GET /livez")).status == 200
    assert (await ask(world, "GET /readyz")).status == 200


async def test_the_policy_status_names_revision_tenants_and_the_last_reload(world: World) -> None:
    """An operator sees which policies are active and whether the folder as it stands was taken up."""
    status = (await ask(world, "GET /policy/status")).json()
    assert status["revision"]
    assert status["tenants"]["acme"]["hosts"] == ["acme.test", "*.acme.test"]
    assert status["tenants"]["closed"]["disabled"] is True
    assert status["last_reload"]["successful"] is True


async def test_a_refused_reload_is_told_with_its_place(world: World) -> None:
    """The mistake of a broken file is listed as file:line:column while the old set stays."""
    before = (await ask(world, "GET /policy/status")).json()["revision"]
    file = world.policies / "acme.yaml"
    file.write_text(file.read_text() + "nonsense: true\n")
    await world.app.parts.folder.reload()
    status = (await ask(world, "GET /policy/status")).json()
    assert status["revision"] == before
    assert status["last_reload"]["successful"] is False
    assert status["last_reload"]["mistakes"][0]["text"].startswith("acme.yaml:")


async def test_explain_gives_the_five_answers(world: World) -> None:
    """The same code as the data path says which rule decides, and where it stands."""
    body = {
        "request": "GET http://acme.test/reports/es",
        "provider": "login",
        "subject": "ana",
        "groups": ["analysts"],
    }
    answer = await ask(
        world, "POST /explain", fields=[("Content-Type", "application/json")], body=json.dumps(body).encode()
    )
    assert answer.status == 200
    explained = answer.json()
    assert explained["allowed"] is True
    assert len(explained["answers"]) == 5
    assert "acme.yaml:" in json.dumps(explained)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"request": 5}', b'{"request": "nonsense"}', b"\xff", b"{" * 5000])
async def test_explain_refuses_what_is_no_request(world: World, body: bytes) -> None:
    """Bad input is a 400 with a sentence, never a 500."""
    answer = await ask(world, "POST /explain", fields=[("Content-Type", "application/json")], body=body)
    assert answer.status == 400
    assert answer.json()["title"]


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "acme.test", ""], ids=repr
)
async def test_a_browser_on_this_host_is_not_a_local_caller(world: World, host: str) -> None:
    """DNS rebinding: a page of a stranger reaches loopback under its own name, and is told nothing."""
    assert (await ask(world, "GET /policy/status", host=host)).status in {400, 401}


async def test_explain_takes_json_only(world: World) -> None:
    """A form of a stranger's page can send text/plain here, and must not be answered."""
    answer = await ask(world, "POST /explain", fields=[("Content-Type", "text/plain")], body=b'{"request": "GET /"}')
    assert answer.status == 415


async def test_with_a_token_even_a_local_caller_needs_it(tmp_path: Path) -> None:
    """Once an operator has set a token, nothing else opens the guarded pages."""
    file = tmp_path / "token"
    file.write_text("a-long-enough-admin-token\n")
    async with running_world(admin_token=file) as world:
        assert (await ask(world, "GET /policy/status")).status == 401
        assert (await ask(world, "GET /policy/status", token="a-long-enough-admin-tokem")).status == 401
        assert (await ask(world, "GET /policy/status", token="a-long-enough-admin-token")).status == 200
        assert (await ask(world, "GET /metrics")).status == 200


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/policy/status", "/explain"])
async def test_the_public_listener_has_no_admin_page(world: World, path: str) -> None:
    """AP-R1, GHSA-5hvv-m4w4-gf6v: health and metrics match a listener, and no path or header leads to them."""
    for fields in ([], [("User-Agent", "kube-probe/1.30")], [("X-Health-Check", "1")]):
        answer = await world.get(path, fields=fields)
        assert answer.status == 404
        assert answer.reason == "route-unknown"
    assert not world.faas.requests
