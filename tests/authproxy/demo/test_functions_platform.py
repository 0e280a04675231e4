"""The demo's platform: OpenFaaS's API over real processes, which go when it goes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest

from authproxy.backends.openfaas import OpenFaasBackend
from authproxy.demo.functions_platform import FunctionsPlatform
from policies.tables import BackendSpec

AUTHORIZATION = {"Authorization": "Basic " + b64encode(b"admin:pass").decode()}


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncIterator[FunctionsPlatform]:
    """Two functions of one namespace and one of another, all awake; they start quickly."""
    answers = {name: tmp_path / f"{name}.jsonl" for name in ("acme", "globex")}
    for name, file in answers.items():
        file.write_text(json.dumps({"country": "es", "score": 4 if name == "acme" else 1, "at": 0}) + "\n")
    made = FunctionsPlatform(
        {"acme": ("survey-report", "survey-submit"), "globex": ("survey-report",)},
        user="admin",
        password="pass",
        environment={name: {"SURVEY_ANSWERS": str(file)} for name, file in answers.items()},
        start_delay_s=0.2,
        idle_s=None,
    )
    await made.start()
    await made.settled()
    yield made
    await made.stop()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as made:
        yield made


async def status_of(platform: FunctionsPlatform, session: aiohttp.ClientSession, name: str) -> dict[str, int]:
    url = f"{platform.url}/system/function/{name}?namespace=acme"
    async with session.get(url, headers=AUTHORIZATION) as response:
        assert response.status == 200
        return dict(await response.json())


def processes(platform: FunctionsPlatform) -> list[int]:
    return [replica.process.pid for function in platform.functions.values() for replica in function.ready]


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - processes end without setting an event of ours
            await asyncio.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"


async def test_a_function_answers_in_its_namespace(platform: FunctionsPlatform, session: aiohttp.ClientSession) -> None:
    """Functions of one name in two namespaces are two functions, with the data of their own."""
    averages = []
    for namespace in ("acme", "globex"):
        async with session.get(f"{platform.url}/function/survey-report.{namespace}/by-country/es") as response:
            assert response.status == 200
            averages.append((await response.json())["average"])
    assert averages == [4, 1]


async def test_what_is_sent_arrives_as_sent(platform: FunctionsPlatform, session: aiohttp.ClientSession) -> None:
    """Method, type and body reach the function, with a length or in chunks; its status comes back."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b'{"country": "fr",'
        yield b' "score": 3}'

    url = f"{platform.url}/function/survey-submit.acme"
    async with session.post(url, data={"country": "DE", "score": "2"}) as response:
        assert (response.status, await response.json()) == (
            201,
            {"thank you": {"country": "de", "score": 2, "comment": ""}},
        )
    async with session.post(url, data=chunks(), headers={"Content-Type": "application/json"}) as response:
        assert response.status == 201
    async with session.get(f"{platform.url}/function/survey-report.acme/") as response:
        assert list((await response.json())["countries"]) == ["de", "es", "fr"]


async def test_the_api_wants_its_credentials(platform: FunctionsPlatform, session: aiohttp.ClientSession) -> None:
    """Without or with wrong credentials ``/system`` is 401 with a challenge, also for what does not exist."""
    wrong = {"Authorization": "Basic " + b64encode(b"admin:wrong").decode()}
    for headers in ({}, wrong, {"Authorization": "Basic \xff"}):
        for path in ("/system/functions", "/system/function/survey-report?namespace=acme", "/system/none"):
            async with session.get(platform.url + path, headers=headers) as response:
                assert response.status == 401
                assert response.headers["WWW-Authenticate"] == 'Basic realm="Restricted"'


async def test_the_api_lists_and_describes(platform: FunctionsPlatform, session: aiohttp.ClientSession) -> None:
    """Functions are listed by namespace and described with the members that OpenFaaS's provider has."""
    async with session.get(f"{platform.url}/system/functions?namespace=acme", headers=AUTHORIZATION) as response:
        assert sorted(function["name"] for function in await response.json()) == ["survey-report", "survey-submit"]
    status = await status_of(platform, session, "survey-report")
    assert (status["replicas"], status["availableReplicas"]) == (1, 1)
    async with session.get(f"{platform.url}/system/function/survey-report", headers=AUTHORIZATION) as response:
        assert response.status == 404  # of the default namespace


async def test_asleep_and_awake_again(platform: FunctionsPlatform, session: aiohttp.ClientSession) -> None:
    """Scaled to zero its processes are gone and the platform says so itself; scaled to one it answers again."""
    [pid] = [replica.process.pid for replica in platform.functions["acme", "survey-report"].ready]
    assert await platform.sleep("survey-report", "acme") == 1
    assert not is_running(pid)
    assert (await status_of(platform, session, "survey-report"))["availableReplicas"] == 0
    url = f"{platform.url}/function/survey-report.acme/"
    async with session.get(url) as response:
        assert (response.status, response.headers["X-OpenFaaS-Internal"]) == (503, "proxy")
    async with session.get(f"{platform.url}/function/survey-report.globex/") as response:
        assert response.status == 200

    scale = f"{platform.url}/system/scale-function/survey-report?namespace=acme"
    started = time.monotonic()
    for _ in range(3):
        async with session.post(
            scale, json={"serviceName": "survey-report", "replicas": 1}, headers=AUTHORIZATION
        ) as r:
            assert r.status == 202
    await platform.settled()
    assert time.monotonic() - started >= 0.2
    assert (await status_of(platform, session, "survey-report"))["availableReplicas"] == 1
    async with session.get(url) as response:
        assert response.status == 200


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"replicas": -1}', b'{"replicas": "1"}', b'{"replicas": true}', b"\xff", b"x" * 70_000],
)
async def test_a_bad_scale_changes_nothing(
    platform: FunctionsPlatform, session: aiohttp.ClientSession, body: bytes
) -> None:
    """A document that does not say how many replicas is 400, and the function stays as it is."""
    url = f"{platform.url}/system/scale-function/survey-report?namespace=acme"
    async with session.post(url, data=body, headers=AUTHORIZATION) as response:
        assert response.status == 400
    assert platform.functions["acme", "survey-report"].desired == 1


async def test_unknown_functions_are_404(platform: FunctionsPlatform, session: aiohttp.ClientSession) -> None:
    """Calling, describing and scaling what is not there is 404 each."""
    async with session.get(f"{platform.url}/function/none.acme") as response:
        assert response.status == 404
    async with session.get(f"{platform.url}/system/function/none?namespace=acme", headers=AUTHORIZATION) as response:
        assert response.status == 404
    url = f"{platform.url}/system/scale-function/none?namespace=acme"
    async with session.post(url, json={"replicas": 1}, headers=AUTHORIZATION) as response:
        assert response.status == 404


async def test_a_replica_that_dies_is_replaced(platform: FunctionsPlatform) -> None:
    """A process that ends by itself leaves the rotation at once and another takes its place."""
    function = platform.functions["acme", "survey-report"]
    [replica] = function.ready
    replica.process.kill()
    await eventually(lambda: bool(function.ready) and function.ready != [replica])
    assert function.ready[0].process.pid != replica.process.pid


async def test_it_answers_as_portero_asks(platform: FunctionsPlatform) -> None:
    """Readiness, the probe of a function's own health and the wake, over the adapter that Portero has for OpenFaaS."""
    spec = BackendSpec("faas", "openfaas", platform.url, "faas-admin")
    backend = OpenFaasBackend(spec, lambda file: b"admin" if file.endswith("user") else b"pass")
    try:
        assert (await backend.readiness("acme", "survey-report")).ready_replicas == 1
        assert await backend.probe("acme", "survey-report", None)
        await platform.sleep("survey-report", "acme")
        assert (await backend.readiness("acme", "survey-report")).ready_replicas == 0
        assert not await backend.probe("acme", "survey-report", None)
        await backend.wake("acme", "survey-report")
        await platform.settled()
        assert await backend.probe("acme", "survey-report", None)
        assert not (await backend.readiness("acme", "none")).does_exist
    finally:
        await backend.close()


async def test_idle_functions_fall_asleep(tmp_path: Path) -> None:
    """A function that nobody asks for is scaled to zero by itself."""
    platform = FunctionsPlatform({"acme": ("survey-web",)}, user="u", password="p", start_delay_s=0, idle_s=0.3)
    await platform.start()
    try:
        await platform.settled()
        function = platform.functions["acme", "survey-web"]
        await eventually(lambda: not function.ready)
        assert function.desired == 0
    finally:
        await platform.stop()


async def test_stop_ends_every_process(platform: FunctionsPlatform) -> None:
    """After stop nothing runs, functions that were starting included; a second stop is no mistake."""
    pids, growing = processes(platform), platform.functions["acme", "survey-report"]
    growing._environment["START_DELAY_S"] = "600"
    growing.scale(2)
    await eventually(lambda: len(growing._processes) == 2)
    pids += [process.pid for process in growing._processes if process.pid not in pids]
    assert len(pids) == 4
    await platform.stop()
    assert not any(map(is_running, pids))
    await platform.stop()


KILLED = """
import asyncio
from authproxy.backends.openfaas import OpenFaasBackend
from authproxy.demo.functions_platform import FunctionsPlatform
from policies.tables import BackendSpec
async def main():
    platform = FunctionsPlatform({"acme": ("survey-web", "survey-report")}, user="u", password="p", start_delay_s=0)
    await platform.start()
    await platform.settled()
    print(*(r.process.pid for f in platform.functions.values() for r in f.ready), flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


def test_processes_end_with_a_platform_that_is_killed() -> None:
    """SIGKILL leaves no time to clean up: the functions see their pipe end and end themselves."""
    with subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        parent.send_signal(signal.SIGKILL)
    assert len(pids) == 2
    deadline = time.monotonic() + 30
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(is_running, pids))
