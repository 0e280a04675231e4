"""``portero demo`` as people run it: a process, its small commands, its tour, and nothing left at its end."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.pulse import Pulse

PORTERO = [sys.executable, "-c", "import sys; from authproxy.cli import main; sys.argv[0] = 'portero'; main()"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A user with nothing of her own yet."""
    for name in ("run", "tmp"):
        (tmp_path / name).mkdir(mode=0o700)
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "XDG_RUNTIME_DIR": str(tmp_path / "run"),
        "TMPDIR": str(tmp_path / "tmp"),
        "PYTHONPATH": os.getcwd(),  # noqa: PTH109 - the tree under test, as pytest itself puts it on the path
        "PYTHONWARNINGS": "error::ResourceWarning",
    }


@pytest.fixture
def demo(environment: dict[str, str], tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A running demo on free ports."""
    command = [*PORTERO, "demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            printed = []
            for line in process.stdout:
                printed.append(line)
                if "Ctrl-C ends the demo" in line:
                    break
            else:
                pytest.fail(f"the demo ended early: {(tmp_path / 'log').read_text()}")
            (tmp_path / "printed").write_text("".join(printed))
            yield process
        finally:
            process.kill()


def state_of(environment: dict[str, str]) -> dict[str, Any]:
    [file] = Path(environment["XDG_RUNTIME_DIR"], "portero").glob("demo-*.json")
    return dict(json.loads(file.read_text()))


def portero(environment: dict[str, str], *arguments: str, timeout_s: float = 50) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PORTERO, *arguments], env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
    )


def ask(public: str, path: str, *, host: str = "acme.localhost", token: str | None = None) -> tuple[int, Any]:
    """Status and body; the name is in the Host field only and never resolved."""
    connection = http.client.HTTPConnection(public.removeprefix("http://"), timeout=20)
    fields = {"Host": host} | ({"Authorization": f"Bearer {token}"} if token else {})
    connection.request("GET", path, headers=fields)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


def children(pid: int) -> list[int]:
    """All processes below ``pid``."""
    direct = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    for task in Path(f"/proc/{pid}/task").iterdir():
        if task.name != str(pid):
            direct += [int(child) for child in (task / "children").read_text().split()]
    return direct + [below for child in direct for below in children(child)]


def wait_until_gone(pids: list[int]) -> list[int]:
    """The processes that are still there after some seconds."""
    deadline = time.monotonic() + 20
    left = pids
    while left and time.monotonic() < deadline:
        left = [pid for pid in left if Path(f"/proc/{pid}").exists()]
        time.sleep(0.05)
    return left


@pytest.mark.slow
def test_a_demo_from_start_to_end(demo: subprocess.Popen[str], environment: dict[str, str]) -> None:
    """Start, token, request, sleep, a held request, SIGTERM: then no process, no file and no folder is left."""
    state = state_of(environment)
    token = portero(environment, "demo", "token", "--tenant", "acme", "--as", "ana").stdout.strip()
    status, body = ask(state["public"], "/reports/es", token=token)
    assert (status, json.loads(body)["asked_by"]) == (200, "login|ana")
    assert ask(state["public"], "/reports/es")[0] == 401
    assert ask(state["public"], "/reports/es", host="globex.localhost", token=token)[0] == 403

    program = portero(environment, "demo", "token", "--tenant", "acme", "--service-account", "survey-ci").stdout.strip()
    assert ask(state["public"], "/reports", token=program)[0] == 200

    slept = portero(environment, "demo", "sleep", "survey-report", "--tenant", "acme")
    assert (slept.returncode, slept.stderr) == (0, "")
    started = time.monotonic()
    assert ask(state["public"], "/reports/es", token=token)[0] == 200
    assert time.monotonic() - started >= 0.5

    pids = children(demo.pid)
    assert len(pids) >= 8
    demo.send_signal(signal.SIGTERM)
    assert demo.wait(timeout=30) == 0
    assert wait_until_gone(pids) == []
    assert list(Path(environment["XDG_RUNTIME_DIR"], "portero").iterdir()) == []
    assert list(Path(environment["TMPDIR"]).iterdir()) == []
    assert "no demo is running" in portero(environment, "demo", "sleep", "survey-report").stderr


@pytest.mark.slow
def test_what_is_printed_can_be_pasted(
    demo: subprocess.Popen[str], environment: dict[str, str], tmp_path: Path
) -> None:
    """The commands inside of the printed lines run in a shell of another folder, and every line names the listener."""
    printed = (tmp_path / "printed").read_text()
    assert printed.count(state_of(environment)["public"]) >= 9
    commands = re.findall(r"\$\((.*? demo token [^)]*)\)", printed)
    assert len(set(commands)) == 3
    for command in set(commands):
        result = subprocess.run(
            ["sh", "-c", command], env=environment, cwd="/", capture_output=True, text=True, timeout=30, check=False
        )
        assert (result.returncode, result.stdout.count(".")) == (0, 2), result.stderr
    if shutil.which("curl"):
        for title, is_good in (
            ("40 at once", lambda shown: shown.split()[-4:] == ["20", "200", "20", "429"]),
            ("what a browser gets", lambda shown: 'http-equiv="refresh"' in shown),
            ("answered later", lambda shown: "\nLocation: /.portero/result/" in shown),
        ):
            with Pulse() as pulse:  # a function that sleeps is awake after a second and a half
                shown = pulse.at_rest(partial(pasted, environment, printed, title), is_good)
            assert is_good(shown), shown
    assert demo.poll() is None


def pasted(environment: dict[str, str], printed: str, title: str) -> str:
    """What the line below the title with these words prints in a shell of another folder."""
    line = re.search(rf"^# .*{title}.*\n(.+)$", printed, re.MULTILINE)
    assert line is not None
    shell = ["sh", "-c", line[1]]
    result = subprocess.run(shell, env=environment, cwd="/", capture_output=True, text=True, timeout=30, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_a_demo_that_is_killed_leaves_no_process(demo: subprocess.Popen[str], environment: dict[str, str]) -> None:
    """SIGKILL: its functions end by themselves, and no command takes what it left for a demo."""
    pids = children(demo.pid)
    demo.kill()
    demo.wait(timeout=10)
    assert wait_until_gone(pids) == []
    result = portero(environment, "demo", "token", "--tenant", "acme", "--as", "ana")
    assert (result.returncode, result.stdout) == (1, "")
    assert "no demo is running" in result.stderr


@pytest.mark.slow
def test_refusals_say_what_would_do(demo: subprocess.Popen[str], environment: dict[str, str]) -> None:
    """What the running demo cannot do is status 1 and a sentence with what it can; the demo goes on."""
    for arguments, text in (
        (("token", "--tenant", "acme", "--as", "gil"), "--tenant globex --as gil"),
        (("token", "--tenant", "acme", "--service-account", "none"), "--service-account survey-ci"),
        (("token", "--tenant", "acme", "--service-account", "survey-ci", "--ttl", "7200"), "from 1 to 3600"),
        (("sleep", "none"), "survey-report"),
        (("sleep", "survey-report", "--tenant", "none"), "acme, globex"),
    ):
        result = portero(environment, "demo", *arguments)
        assert (result.returncode, result.stdout) == (1, "")
        assert text in result.stderr
        assert "Traceback" not in result.stderr
    assert demo.poll() is None


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_tour_keeps_its_promises(environment: dict[str, str]) -> None:
    """Status 0 within 40 s; each request is shown, no token is; nothing is left."""
    with Pulse() as pulse:

        def walk() -> tuple[subprocess.CompletedProcess[str], float]:
            """Promises of the tour have their time: an event a quarter of a second."""
            started = time.monotonic()
            return portero(environment, "demo", "--tour", timeout_s=80), pulse.took_s(started)

        result, took_s = pulse.at_rest(walk, lambda walked: walked[0].returncode == 0, tries=2)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    assert took_s < 40
    steps = re.findall(r"^ ?\d+ .*$", result.stdout, re.MULTILINE)
    assert f"All {len(steps)} steps were as promised" in result.stdout
    assert result.stdout.count("as promised\n") == len(steps)
    assert "$ curl -i -H 'Host: acme.localhost'" in result.stdout
    for told in (
        "HTTP 401",
        "HTTP 403",
        "HTTP 404",
        "HTTP 429",
        "Retry-After: ",
        "RateLimit: ",
        "acme.yaml:",
        "/.portero/callback  303",
        "all 20 answered, 1 wake call",
        "X-Portero-Cold-Start: true",
        "Server-Timing: hold;dur=",
        "function-asleep",
        "HTTP 429 queue-full",
        "This page comes back by itself in ",
        "of the crowd, 19 got the form, 11 were turned away",
        "HTTP 202",
        "Location: /.portero/result/",
        "X-Portero-Result: pending",
        "X-Portero-Result: done",
        "result-unknown",
    ):
        assert told in result.stdout
    for secret in ("eyJ", "__Host-", "code=", "state="):
        assert secret not in result.stdout + result.stderr
    assert list(Path(environment["TMPDIR"]).iterdir()) == []
