"""State files: which demo a command talks to, and whom it does not believe."""

from __future__ import annotations

import json
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from authproxy.demo.state import NoDemo, RunningDemo, find_running, remove_leftovers, state_folders, write_state
from policies.errors import PorteroError

SECRET = "right"
GONE = 2**22 - 7
"""A process id beyond what this system hands out by default, or at least not in use."""


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runtime and cache folder of a user of our own."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(
        "authproxy.demo.state.HELLO_TIMEOUT_S", 20.0
    )  # who answers late is not taken for one who does not
    (tmp_path / "run").mkdir(mode=0o700)
    return tmp_path


@pytest.fixture
def control_port() -> Iterator[int]:
    """A control listener that knows one secret."""

    class Control(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_right = self.headers.get("Authorization") == f"Bearer {SECRET}"
            body = b'{"demo": "portero"}' if is_right else b'{"error": "no"}'
            self.send_response(200 if is_right else 401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            pass

    with HTTPServer(("127.0.0.1", 0), Control) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def demo(port: int, *, pid: int | None = None, started_at: float = 1.0, secret: str = SECRET) -> RunningDemo:
    return RunningDemo(
        pid=pid or os.getpid(),
        started_at=started_at,
        public="http://127.0.0.1:8088",
        admin="http://127.0.0.1:8089",
        control_port=port,
        control_secret=secret,
        folder="/nowhere",
    )


def test_only_its_user_reads_a_state_file(control_port: int, folders: Path) -> None:
    """The file holds a secret: 0600, in a folder of 0700, in the runtime folder when there is one."""
    file = write_state(demo(control_port))
    assert file == folders / "run" / "portero" / f"demo-{os.getpid()}.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert [found.name for found in file.parent.iterdir()] == [file.name]


def test_a_demo_is_found_where_the_shell_has_no_runtime_folder(
    control_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without XDG_RUNTIME_DIR the cache folder serves, and both are looked at."""
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    write_state(demo(control_port))
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nowhere")
    assert find_running() == demo(control_port)


def test_the_demo_started_last_is_used(control_port: int) -> None:
    """Of several that are alive the newest answers, whatever their process ids are."""
    write_state(demo(control_port, pid=os.getppid(), started_at=2.0))
    write_state(demo(control_port, started_at=1.0))
    assert find_running().started_at == 2.0


def test_demos_that_are_gone_are_removed(control_port: int, folders: Path) -> None:
    """A process that is gone, or one that does not know the secret, is no demo any more."""
    gone = write_state(demo(control_port, pid=GONE, started_at=3.0))
    impostor = write_state(demo(control_port, pid=os.getppid(), started_at=2.0, secret="wrong"))
    alive = write_state(demo(control_port))
    assert find_running().pid == os.getpid()
    assert (gone.exists(), impostor.exists(), alive.exists()) == (False, False, True)


def test_a_demo_that_is_slow_keeps_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """A demo that was stopped (SIGSTOP) accepts connections and answers none: it is there all the same."""
    monkeypatch.setattr("authproxy.demo.state.HELLO_TIMEOUT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        file = write_state(demo(silent.getsockname()[1]))
        assert find_running().pid == os.getpid()
    assert file.exists()


def test_a_folder_that_may_not_be_looked_into_holds_no_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user's home is answered as if nothing stood there, not with "start it again"."""

    def refuse(_folder: Path, _pattern: str) -> list[Path]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "glob", refuse)
    with pytest.raises(NoDemo, match="start one with `portero demo`"):
        find_running()


def test_without_a_folder_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, folders: Path) -> None:
    """A user without home and runtime folder is told which variable to set."""
    (folders / "file").touch()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folders / "file"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folders / "file"))
    with pytest.raises(PorteroError, match="set XDG_RUNTIME_DIR to a folder that is yours"):
        write_state(demo(1))


def test_no_demo_says_what_to_do() -> None:
    """Nothing running is an error with the way out in it."""
    with pytest.raises(NoDemo, match="start one with `portero demo`"):
        find_running()


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"{}", b'{"pid": "x"}', b"\xff\xfe", b"[" * 20_000, b'{"pid": -1, "control_port": 1}'],
)
def test_a_broken_state_file_is_no_demo(content: bytes, folders: Path) -> None:
    """Whatever stands in such a file, the answer is that no demo runs."""
    file = state_folders()[0] / "demo-1.json"
    file.parent.mkdir(mode=0o700)
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(NoDemo):
        find_running()


def test_files_that_others_could_write_are_not_believed(control_port: int) -> None:
    """A file that others may write, or a link, could lead a token request to somebody else."""
    file = write_state(demo(control_port))
    file.chmod(0o622)
    with pytest.raises(NoDemo):
        find_running()
    file.chmod(0o600)
    moved = file.rename(file.with_name("elsewhere"))
    file.symlink_to(moved)
    with pytest.raises(NoDemo):
        find_running()


def test_a_folder_that_others_could_write_is_not_used(control_port: int, folders: Path) -> None:
    """With an unsafe runtime folder the cache folder serves; with none the demo says so."""
    for name in ("run", "cache"):
        folder = folders / name / "portero"
        folder.mkdir(parents=True)
        if name == "run":
            folder.chmod(0o777)
    assert write_state(demo(control_port)).parent == folders / "cache" / "portero"
    (folders / "cache" / "portero").chmod(0o777)
    with pytest.raises(PorteroError, match="can be written by others"):
        write_state(demo(control_port, started_at=5.0))


def test_leftovers_of_a_killed_demo_are_removed(monkeypatch: pytest.MonkeyPatch, folders: Path) -> None:
    """The next demo removes file and temporary folder of one that was killed, and no folder that is not a demo's."""
    monkeypatch.setattr(tempfile, "tempdir", str(folders))
    killed, precious = folders / "portero-demo-x", folders / "precious"
    for number, folder in enumerate((killed, precious)):
        (folder / "policies").mkdir(parents=True)
        left = json.loads(json.dumps({**_as_dict(demo(1, pid=GONE - number)), "folder": str(folder)}))
        write_state(RunningDemo(**left))
    remove_leftovers()
    assert (killed.exists(), precious.exists()) == (False, True)
    assert list(state_folders()[0].iterdir()) == []


def _as_dict(running: RunningDemo) -> dict[str, object]:
    return {name: getattr(running, name) for name in RunningDemo.__dataclass_fields__}
