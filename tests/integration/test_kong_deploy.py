"""
deploy/compose.yaml as processes: its commands and settings, the repository's kong.yml, and a stand-in for Kong's image.

What kong/README.md promises for the first minute.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest
import yaml

from gateway_plugins.plugins import dump
from tests.fakes.kong import KongFront

ROOT = Path(__file__).parents[2]
SERVICES = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]
BIN = Path(sys.executable).parent
PLATFORM = "http://gateway.openfaas:8080"
ACME = {"Host": "acme.localhost"}
PATIENCE_S = 20.0


class Host:
    """Paths of the containers below one folder, and addresses on free ports of the loopback."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.sockets = Path(self.path("/run/portero"))
        for folder in ("/run/portero", "/var/lib/portero", "/etc/portero"):
            Path(self.path(folder)).mkdir(parents=True)
        self._environment = {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"}

    def path(self, text: str) -> str:
        for folder in ("/run/portero", "/var/lib/portero", "/etc/portero"):
            text = text.replace(folder, f"{self._root}{folder}")
        return text

    def run(self, *command: str) -> str:
        done = subprocess.run(
            [self.path(word) for word in command], env=self._environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    @contextmanager
    def start(self, service: str, more: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
        """The service's command with its environment; ``more`` goes before it. Ended by its id."""
        command = [self.path(word) for word in SERVICES[service]["command"]]
        said = {name: self.path(value) for name, value in SERVICES[service].get("environment", {}).items()}
        process = subprocess.Popen(
            [BIN / "portero", *(word.replace("0.0.0.0:8080", "127.0.0.1:0") for word in command)],
            env=self._environment | said | more,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


@pytest.fixture
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    return Host(tmp_path_factory.mktemp("d"))  # paths of sockets are short


@pytest.fixture
async def portero(host: Host) -> AsyncIterator[subprocess.Popen[str]]:
    """What the compose file starts but Kong and Redis; the plugin server, which may be killed."""
    [script] = SERVICES["setup"]["command"]
    host.run("/bin/sh", "-ec", script)
    with host.start("platform", {}) as platform:
        assert platform.stdout is not None
        line = await asyncio.to_thread(platform.stdout.readline)
        url = next(word for word in line.split() if word.startswith("http://"))
        policies = Path(host.path("/etc/portero/policies"))
        shutil.copytree(ROOT / "policies" / "examples" / "survey", policies)
        file = policies / "platform.yaml"
        assert PLATFORM in file.read_text()
        file.write_text(file.read_text().replace(PLATFORM, url))
        addresses = {
            "PORTERO_INTERNAL": "127.0.0.1:0",
            "PORTERO_INTERNAL_NAME": "127.0.0.1",
            "PORTERO_ADMIN": "127.0.0.1:0",
            "PORTERO_REDIS": "unix:///nowhere/redis.socket",  # down: limits and cold starts are this process's own
        }
        with host.start("portero", addresses) as server:
            async with asyncio.timeout(PATIENCE_S):
                while not (host.sockets / "portero.socket").exists():
                    assert server.poll() is None
                    await asyncio.sleep(0.05)
            yield server


async def test_the_first_minute(host: Host, portero: subprocess.Popen[str]) -> None:
    """The form for anybody, a report for who has a token, nothing once nobody is left to ask."""
    token = host.run(
        *(str(BIN / "portero"), "token", "issue", "--tenant", "acme", "--name", "survey-ci", "--audience", "survey"),
        *("--account", "/var/lib/portero/demo/keys/acme/survey-ci.key.pem"),
    )
    config = (ROOT / "kong" / "kong.yml").read_text()
    async with (
        KongFront(config, host.sockets, dumps={"portero": dump("portero")}) as kong,
        aiohttp.ClientSession(f"http://{kong.address[0]}:{kong.address[1]}") as client,
    ):

        async def ask(path: str, headers: dict[str, str]) -> tuple[int, str | None]:
            async with client.get(path, headers=headers) as answer:
                return answer.status, answer.headers.get("X-Portero-Reason")

        assert await ask("/", ACME) == (200, None)
        assert await ask("/reports/es", ACME) == (401, "credential-missing")
        assert await ask("/reports/es", ACME | {"Authorization": f"Bearer {token}"}) == (200, None)
        assert await ask("/", {"Host": "nobody.example"}) == (404, "tenant-unknown")
        portero.kill()
        await asyncio.to_thread(portero.wait)
        assert await ask("/", ACME) == (503, "policy-unavailable")
    await asyncio.sleep(0)  # cut connections end at the loop's next turn
