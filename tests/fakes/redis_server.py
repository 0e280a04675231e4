"""A real redis-server of its own for one test run: in a temporary folder, on a free port, gone at the end."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RedisServer:
    """``start`` and ``kill`` as often as a test likes; the port stays the same."""

    def __init__(self, folder: Path, *, password: str | None = None, unix_socket: bool = False) -> None:
        binary = shutil.which("redis-server")
        if binary is None:
            raise RuntimeError("redis-server is not on the PATH: run `make test`, or install the package redis-server")
        self._binary = binary
        self._folder = folder
        self._password = password
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.socket_path = folder / "redis.sock" if unix_socket else None

    @property
    def url(self) -> str:
        login = f":{self._password}@" if self._password else ""
        return f"redis://{login}127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Returns when it answers PING."""
        command = [self._binary, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        if self._password:
            command += ["--requirepass", self._password]
        if self.socket_path is not None:
            command += ["--unixsocket", str(self.socket_path)]
        self._process = subprocess.Popen(
            command, cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                if self.command("PING") in (b"+PONG", b"-NOAUTH Authentication required."):
                    return
            if self._process.poll() is not None:
                raise RuntimeError(f"redis-server ended at once with status {self._process.returncode}")
            time.sleep(0.01)
        raise RuntimeError("redis-server did not answer within 20 s")

    def kill(self) -> None:
        """As a machine that loses power."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(20)
            self._process = None

    def freeze(self) -> None:
        """It accepts connections (the kernel does) and answers nothing any more."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def command(self, *words: str) -> bytes:
        """One command over a connection of its own; the raw reply without its last line end."""
        packed = f"*{len(words)}\r\n" + "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            connection.sendall(packed.encode())
            return connection.recv(1 << 20).removesuffix(b"\r\n")

    def count_of(self, command: str) -> int:
        """How often ``command`` was called, by the server's own count."""
        for line in self.command("INFO", "commandstats").decode().splitlines():
            if line.startswith(f"cmdstat_{command}:calls="):
                return int(line.split("=")[1].split(",")[0])
        return 0


@contextlib.contextmanager
def redis_server(*, password: str | None = None, unix_socket: bool = False) -> Iterator[RedisServer]:
    """A server that runs until the block ends. Raises RuntimeError, never skips, when there is no redis-server."""
    with tempfile.TemporaryDirectory(prefix="portero-redis-") as folder:
        server = RedisServer(Path(folder), password=password, unix_socket=unix_socket)
        server.start()
        try:
            yield server
        finally:
            server.thaw()
            server.kill()
