"""
Where a running demo can be found: one small file a demo in the user's runtime or cache folder.

``portero demo token`` and ``portero demo sleep`` are other processes; they read here which demo was started last and
is alive, and ask it over its control listener with the secret that only this user can read.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from policies.errors import PorteroError

CALL_TIMEOUT_S: Final = 30.0
"""Of one call to a demo; falling asleep waits for running requests."""
HELLO_TIMEOUT_S: Final = 2.0
MAX_FILE_BYTES: Final = 16 * 1024
MAX_ANSWER_BYTES: Final = 64 * 1024
FOLDER_PREFIX: Final = "portero-demo-"


class NoDemo(PorteroError):
    """No demo of this user is alive."""


class DemoRefused(PorteroError):
    """The demo answered that it cannot do what it was asked; the text says why."""


@dataclass(frozen=True, slots=True)
class RunningDemo:
    """What one state file says."""

    pid: int
    started_at: float
    """Unix seconds."""
    public: str
    """``http://HOST:PORT`` of Portero's public listener."""
    admin: str
    control_port: int
    """On 127.0.0.1."""
    control_secret: str
    folder: str
    """Temporary folder of the demo, which it removes at its end."""

    def call(
        self, path: str, body: dict[str, Any] | None = None, *, timeout_s: float = CALL_TIMEOUT_S
    ) -> dict[str, Any]:
        """
        Ask the demo. Raises: DemoRefused with the demo's own words; OSError or HTTPException when it is not there.

        A plain connection on purpose: a proxy from the environment has no business between two local processes.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.control_port, timeout=timeout_s)
        try:
            content = None if body is None else json.dumps(body)
            headers = {"Authorization": f"Bearer {self.control_secret}", "Content-Type": "application/json"}
            connection.request("GET" if body is None else "POST", path, content, headers)
            answer = connection.getresponse()
            read = msgspec.json.decode(answer.read(MAX_ANSWER_BYTES), type=dict[str, Any])
        except (ValueError, RecursionError) as error:
            raise http.client.HTTPException("no answer of a demo") from error
        finally:
            connection.close()
        if answer.status != 200:
            raise DemoRefused(str(read.get("error", f"the demo answered {answer.status}")))
        return read

    def is_alive(self) -> bool:
        """Its process exists and answers to its secret: a process id alone may have gone to somebody else."""
        try:
            os.kill(self.pid, 0)
            self.call("/", timeout_s=HELLO_TIMEOUT_S)
        except TimeoutError:
            return True  # stopped or very busy: it may answer yet, and its file must not be taken from it
        except (OSError, http.client.HTTPException, DemoRefused):
            return False
        return True


def state_folders() -> list[Path]:
    """Where state files may be, best first: a shell may lack the variable that the demo's shell had."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return [Path(root) / "portero" for root in (runtime, cache) if root and Path(root).is_absolute()]


def write_state(demo: RunningDemo) -> Path:
    """
    Write the file of one demo, readable by its user alone, in one step.

    Raises: PorteroError when no folder can be used.
    """
    problems = []
    for folder in state_folders():
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _is_ours(folder.stat(follow_symlinks=False), stat.S_ISDIR):
                problems.append(f"{folder} can be written by others")
                continue
            file = folder / f"demo-{demo.pid}.json"
            partial = folder / f".demo-{demo.pid}.partial"
            partial.unlink(missing_ok=True)
            with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
                json.dump(asdict(demo), opened)
            partial.replace(file)
        except OSError as error:
            problems.append(f"{folder}: {error.strerror}")
        else:
            return file
    what_to_do = "set XDG_RUNTIME_DIR to a folder that is yours"
    raise PorteroError(f"the demo cannot say where it runs: {'; '.join(problems) or 'no folder'}; {what_to_do}")


def find_running() -> RunningDemo:
    """The demo started last that is alive; files of demos that are gone are removed. Raises: NoDemo."""
    for file, demo in sorted(_read_all(), key=lambda found: found[1].started_at, reverse=True):
        if demo.is_alive():
            return demo
        file.unlink(missing_ok=True)
    raise NoDemo("no demo is running: start one with `portero demo` and leave it running")


def remove_leftovers() -> None:
    """Remove what demos left behind that were killed: their files and their temporary folders."""
    for file, demo in _read_all():
        if demo.is_alive():
            continue
        file.unlink(missing_ok=True)
        folder = Path(demo.folder)
        is_a_demos = folder.name.startswith(FOLDER_PREFIX) and folder.parent == Path(tempfile.gettempdir())
        with suppress(OSError):
            if is_a_demos and _is_ours(folder.stat(follow_symlinks=False), stat.S_ISDIR):
                shutil.rmtree(folder)


def _read_all() -> list[tuple[Path, RunningDemo]]:
    found = []
    for folder in state_folders():
        files: list[Path] = []
        with suppress(OSError):  # what this user may not look into holds no demo of this user
            files = sorted(folder.glob("demo-*.json"))
        for file in files:
            with suppress(OSError, ValueError, RecursionError):
                found.append((file, _read(file)))
    return found


def _read(file: Path) -> RunningDemo:
    """Raises: OSError, ValueError or RecursionError for a file that is no demo's of this user."""
    with os.fdopen(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)) as opened:
        if not _is_ours(os.fstat(opened.fileno()), stat.S_ISREG):
            raise ValueError("not a file of this user alone")
        demo = msgspec.json.decode(opened.read(MAX_FILE_BYTES), type=RunningDemo)
    if demo.pid <= 0 or not 0 < demo.control_port < 65536:
        raise ValueError("not a demo's file")
    return demo


def _is_ours(status: os.stat_result, is_kind: Any) -> bool:
    """Of the kind expected, owned by this user, and writable by nobody else."""
    return bool(is_kind(status.st_mode)) and status.st_uid == os.getuid() and not status.st_mode & 0o022
