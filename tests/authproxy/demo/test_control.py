"""The control listener of a demo: its secret, and refusals as sentences."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest

from authproxy.demo.control import Control
from authproxy.demo.files import prepare
from authproxy.demo.functions_platform import FunctionsPlatform
from authproxy.demo.provider import Provider


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[Control]:
    """Over a provider and a platform whose functions all sleep."""
    provider = Provider()
    platform = FunctionsPlatform({"acme": ("survey-web",), "globex": ()}, user="u", password="p")
    await provider.start()
    await platform.start(replicas=0)
    made = Control(
        provider,
        platform,
        prepare(tmp_path, issuer=provider.issuer, platform_url=platform.url, platform_password="p", client_secret="c"),
    )
    await made.start()
    yield made
    for part in (made, platform, provider):
        await part.stop()


async def post(control: Control, path: str, body: Any, secret: str | None = None) -> tuple[int, dict[str, Any]]:
    url = f"http://127.0.0.1:{control.port}{path}"
    headers = {"Authorization": f"Bearer {control.secret if secret is None else secret}"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, json=body, headers=headers) as response,
    ):
        return response.status, await response.json()


async def test_without_the_secret_there_is_nothing(control: Control) -> None:
    """A page in a browser of this machine can reach the port, and gets 401 for all it may ask."""
    body = {"tenant": "acme", "person": "ana"}
    for secret in ("", "wrong", control.secret[:-1], control.secret + "x", "\xe9"):
        assert (await post(control, "/token", body, secret))[0] == 401


async def test_tokens_of_people_and_programs(control: Control) -> None:
    """Either is issued by who vouches for it: the provider, or the program's own key."""
    _, person = await post(control, "/token", {"tenant": "acme", "person": "ana", "ttl_s": 60})
    _, program = await post(control, "/token", {"tenant": "acme", "service_account": "survey-ci", "ttl_s": 60})
    claims = [jwt.decode(said["token"], options={"verify_signature": False}) for said in (person, program)]
    assert [said["sub"] for said in claims] == ["ana", "survey-ci"]
    assert claims[1]["iss"] == "acme/survey-ci"


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("/token", {"tenant": "acme", "person": "eve"}, 404, "--as ana"),
        ("/token", {"tenant": "globex", "person": "ana"}, 404, "--tenant acme --as ana"),
        ("/token", {"tenant": "acme", "service_account": "x"}, 404, "survey-ci"),
        ("/token", {"tenant": "acme", "person": "ana", "ttl_s": 0}, 400, "from 1 to"),
        ("/token", {"tenant": "acme", "person": "ana", "ttl_s": "1h"}, 400, "seconds"),
        ("/token", {"tenant": "acme", "person": "ana", "ttl_s": True}, 400, "seconds"),
        ("/token", {}, 400, "tenant"),
        ("/token", [], 400, "tenant"),
        ("/token", "ana", 400, "not understood"),
        ("/token", None, 400, "not understood"),
        ("/sleep", {"function": "none"}, 404, "survey-web"),
        ("/sleep", {"function": "survey-web", "tenant": "none"}, 404, "acme, globex"),
        ("/sleep", {"function": "survey-web", "tenant": ["acme"]}, 400, "not understood"),
    ],
)
async def test_what_cannot_be_done_is_said(control: Control, path: str, body: Any, status: int, text: str) -> None:
    """Every refusal is a status and a sentence that says what can be done instead."""
    got, said = await post(control, path, body)
    assert got == status
    assert text in said["error"]


async def test_sleep_says_how_many(control: Control) -> None:
    """A function that sleeps already is put to sleep all the same: the end is what counts."""
    assert await post(control, "/sleep", {"function": "survey-web"}) == (200, {"asleep": 1})
