"""A socket's name is taken only where nobody answers, and given up only while it is ours."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway_plugins import sockets
from gateway_plugins.sockets import SocketFile


@pytest.fixture
def path() -> Iterator[Path]:
    """Short enough for a socket, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="kong"))
    yield folder / "portero.socket"
    shutil.rmtree(folder)


def answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def left_in(folder: Path) -> list[str]:
    """What stands in it but for the lock."""
    return [found.name for found in folder.iterdir() if found.name != ".portero.lock"]


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666], ids=oct)
def test_it_listens_under_its_name_with_its_permissions(path: Path, mode: int) -> None:
    """0600 by default; nothing else is left in the folder."""
    file = SocketFile(path, mode=mode)
    assert stat.S_IMODE(path.lstat().st_mode) == mode
    assert answers(path)
    assert left_in(path.parent) == [path.name]
    file.remove()
    file.socket.close()
    assert not path.exists()


def test_what_a_killed_process_left_is_replaced(path: Path) -> None:
    """Nobody answers on it."""
    left = SocketFile(path)
    left.socket.close()
    assert path.is_socket()
    file = SocketFile(path)
    assert answers(path)
    file.socket.close()


def test_a_socket_on_which_somebody_answers_is_left_alone(path: Path) -> None:
    """Two servers under one name would each get a share of Kong's questions."""
    file = SocketFile(path)
    with pytest.raises(OSError, match="another process answers"):
        SocketFile(path)
    assert answers(path)
    assert left_in(path.parent) == [path.name]
    file.socket.close()


@pytest.mark.parametrize("kind", ["file", "folder", "link to a socket", "dangling link", "pipe"])
def test_what_is_no_socket_is_left_alone(path: Path, kind: str) -> None:
    """A mistake in a setting must not cost a file."""
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        target = path.with_name("elsewhere")
        if kind == "link to a socket":
            SocketFile(target).socket.close()
        path.symlink_to(target)
    before = path.lstat()
    with pytest.raises(OSError, match="no socket stands in its place"):
        SocketFile(path)
    assert path.lstat().st_ino == before.st_ino


def test_a_name_that_another_has_taken_is_not_removed(path: Path) -> None:
    """The next process may be there before the last one has ended."""
    old = SocketFile(path)
    old.socket.close()
    new = SocketFile(path)
    old.remove()
    assert answers(path)
    new.remove()
    new.remove()
    new.socket.close()
    assert not path.exists()


@pytest.mark.parametrize("name", ["x" * 200, "nowhere/portero.socket"])
def test_a_place_where_no_socket_can_be_is_an_error_that_says_so(path: Path, name: str) -> None:
    """Too long for the system, or no such folder; nothing is left open."""
    with pytest.raises(OSError, match=r"too long|No such file"):
        SocketFile(path.with_name(name) if "/" not in name else path.parent / name)


def test_of_many_that_start_at_once_one_gets_the_name(path: Path) -> None:
    """Looking and taking are one step."""
    SocketFile(path).socket.close()
    got: list[SocketFile] = []
    refused: list[str] = []
    barrier = threading.Barrier(4)

    def start(number: int) -> None:
        barrier.wait()
        try:
            got.append(SocketFile(path, backlog=number))
        except OSError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=start, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 3)
    got[0].socket.close()


def test_who_may_only_read_the_folder_cannot_keep_others_from_starting(path: Path) -> None:
    """Another user of the machine can lock a folder that he sees, for ever; what is locked here is not for his eyes."""
    descriptor = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    started = SocketFile(path)
    assert answers(path)
    assert stat.S_IMODE((path.parent / ".portero.lock").stat().st_mode) == 0o600
    started.socket.close()
    os.close(descriptor)


def test_a_start_that_does_not_end_is_told_of(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence for ever would be worse than an error."""
    monkeypatch.setattr(sockets, "_LOCKED_WITHIN_S", 0.05)
    SocketFile(path).socket.close()
    with (path.parent / ".portero.lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="another process is starting"):
            SocketFile(path)
    SocketFile(path).socket.close()


def test_a_lock_that_leads_elsewhere_is_not_followed(path: Path) -> None:
    """Nothing is made where a link of somebody's leads."""
    (path.parent / ".portero.lock").symlink_to(path.parent / "elsewhere")
    with pytest.raises(OSError, match="symbolic link"):
        SocketFile(path)
    assert not (path.parent / "elsewhere").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can leave a file that another user may not open")
def test_a_lock_that_another_user_left_is_replaced(path: Path) -> None:
    """Tried as root once, run as a user of its own from then on."""
    first = SocketFile(path)
    first.remove()
    first.socket.close()
    path.parent.chmod(0o777)
    child = os.fork()
    if not child:
        os.setuid(65534)
        try:
            SocketFile(path)
        except OSError:
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert (path.parent / ".portero.lock").stat().st_uid == 65534
