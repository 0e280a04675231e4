"""``portero kong-plugin-server`` as Kong starts it: an empty environment, a settings file, and its parent's end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from authproxy.cli.kong_plugin_server import kong_plugin_server
from gateway_plugins.plugins import PLUGINS, dump
from tests.fakes.plugin_caller import Caller

PORTERO = str(Path(sys.executable).parent / "portero")
PLATFORM = """\
version: 1
backends:
  faas: {kind: openfaas, url: "http://127.0.0.1:9"}
tenants:
  acme: {hosts: [acme.localhost], backend: faas, namespace: acme}
"""
ACME = """\
version: 1
tenant: acme
functions: {form: {access: public}}
"""
PATIENCE_S = 20.0


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With ``kong.toml``, policies and secrets; sockets are in it, too, so its path is short."""
    folder = tmp_path_factory.mktemp("k")
    (folder / "policies").mkdir()
    (folder / "secrets").mkdir()
    (folder / "policies" / "platform.yaml").write_text(PLATFORM)
    (folder / "policies" / "acme.yaml").write_text(ACME)
    settings = {"policies": f"{folder}/policies", "secrets": f"{folder}/secrets", "kong_sockets": str(folder)}
    settings |= {"internal": "127.0.0.1:0", "admin": "127.0.0.1:0", "audit": "off", "kong_socket_mode": "640"}
    (folder / "kong.toml").write_text("".join(f'{name} = "{value}"\n' for name, value in settings.items()))
    return folder


def test_the_dump_is_json_and_nothing_else() -> None:
    """Kong does not start when anything else is printed; it gives the command no environment."""
    command = [PORTERO, "kong-plugin-server", "--dump", "portero-rbac"]
    done = subprocess.run(command, env={}, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout) == dump("portero-rbac")


@pytest.mark.parametrize("option", ["--dump", "--plugin"])
def test_a_plugin_that_there_is_not_is_asked_wrongly(option: str) -> None:
    """2, with the names that there are."""
    result = CliRunner().invoke(kong_plugin_server, [option, "tenant"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert all(name in result.stderr for name in PLUGINS)


async def first_wish(folder: Path) -> str:
    """What an event of ``portero`` asks Kong for."""
    caller = await Caller.to(folder / "portero.socket")
    begun = await caller.begin(await caller.instance(name="portero"))
    await caller.close()
    return begun.method


def test_it_serves_what_it_is_told_to_and_ends_by_sigterm(folder: Path) -> None:
    """One plugin, its socket with the permissions that are set; 0 and no socket at the end."""
    command = [PORTERO, "kong-plugin-server", "--settings", f"{folder}/kong.toml", "--plugin", "portero"]
    with subprocess.Popen(command, env={}, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as server:
        try:
            until((folder / "portero.socket").exists)
            assert sorted(folder.glob("*.socket")) == [folder / "portero.socket"]
            assert (folder / "portero.socket").stat().st_mode & 0o777 == 0o640
            assert asyncio.run(first_wish(folder)) == "kong.ctx.shared.get"
        finally:
            server.send_signal(signal.SIGTERM)
            _, said = server.communicate(timeout=PATIENCE_S)
    assert server.returncode == 0
    assert b"[info] kong: plugin-server-ready" in said
    assert not list(folder.glob("*.socket"))


@pytest.mark.parametrize("ends", [True, False])
def test_it_ends_with_its_parent_when_it_is_told_to(folder: Path, ends: bool) -> None:
    """Kong's worker dies and another one starts the next; otherwise nobody's end is its own."""
    option = ["--end-with-parent"] if ends else []
    script = '"$@" >/dev/null 2>&1 & echo $!; read _'
    command = [PORTERO, "kong-plugin-server", "--settings", f"{folder}/kong.toml", *option]
    with subprocess.Popen(
        ["/bin/sh", "-c", script, "sh", *command], env={}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        try:
            until((folder / "portero.socket").exists)
            parent.communicate(b"\n", timeout=PATIENCE_S)
            if ends:
                until(lambda: not is_alive(pid))
            else:
                time.sleep(1.5)
                assert is_alive(pid)
        finally:
            if is_alive(pid):
                os.kill(pid, signal.SIGTERM)
                until(lambda: not is_alive(pid))
    assert not list(folder.glob("*.socket"))


def test_it_serves_and_ends_though_nobody_reads_what_it_says(folder: Path) -> None:
    """Kong stops reading when its worker ends; a full pipe must stop neither the requests nor the end."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"." * 4096)
    os.set_blocking(writing, True)
    command = [PORTERO, "kong-plugin-server", "--settings", f"{folder}/kong.toml", "--audit", "-"]
    with subprocess.Popen(command, env={}, stdout=writing, stderr=writing) as server:
        try:
            until((folder / "portero.socket").exists)
            assert asyncio.run(asyncio.wait_for(first_wish(folder), PATIENCE_S)) == "kong.ctx.shared.get"
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(timeout=PATIENCE_S)
            finally:
                server.kill()
    assert server.returncode == 0
    os.close(reading)
    os.close(writing)
