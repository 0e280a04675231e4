"""
A gibibyte up and a gibibyte down: how far the memory of the proxy grows, and how fast the bytes go.

The proxy is the data path in a process of its own (``bare``); both ends are raw sockets in this one.

    python -m benchmarks.stream --size 1GiB --check
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

if __package__ in {None, ""}:  # started as a file: the repository's root is where the packages are
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._proxies import bare
from benchmarks._proxies.process import Running, Unmeasurable, cores

MAX_GROWTH_BYTES = 48 * 1024 * 1024
_PIECE = b"x" * 256 * 1024
_UNITS = {"KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}


def resident_bytes(pid: int, field: str = "VmRSS") -> int:
    """``VmRSS`` now, ``VmHWM`` at most so far."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise Unmeasurable(f"/proc/{pid}/status has no {field}")


async def _function(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """PUT takes a body; GET /<n> gives n bytes."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, _ = head.split(b" ", 2)
            if method == b"PUT":
                left = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                while left:
                    left -= len(await reader.read(min(left, len(_PIECE))))
                writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
                continue
            left = int(target[1:])
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % left)
            while left:
                writer.write(_PIECE[:left])
                left -= len(_PIECE[:left])
                await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
        writer.close()


async def _up(port: int, size: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
    left = size
    while left:
        writer.write(_PIECE[:left])
        left -= len(_PIECE[:left])
        await writer.drain()
    if not (await reader.readline()).startswith(b"HTTP/1.1 204"):
        raise Unmeasurable("the upload was not taken")
    writer.close()


async def _down(port: int, size: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % size)
    await reader.readuntil(b"\r\n\r\n")
    left = size
    while left:
        piece = await reader.read(len(_PIECE))
        if not piece:
            raise Unmeasurable("the download was cut short")
        left -= len(piece)
    writer.close()


async def measure(size: int) -> int:
    """Prints both directions; returns by how much the proxy grew at most, in bytes. Raises: Unmeasurable."""
    proxy_core, _ = cores()
    server = await asyncio.start_server(_function, "127.0.0.1", 0)
    with tempfile.TemporaryDirectory(prefix="portero-bench-") as name:
        upstream = server.sockets[0].getsockname()[1]
        proxy: Running = await asyncio.to_thread(bare.start_proxy, proxy_core, Path(name), upstream, judges_each=True)
        try:
            await _up(proxy.port, len(_PIECE))
            await _down(proxy.port, len(_PIECE))
            before = resident_bytes(proxy.process.pid)
            for direction, transfer in (("up", _up), ("down", _down)):
                began = time.perf_counter()
                await transfer(proxy.port, size)
                took_s = time.perf_counter() - began
                growth = resident_bytes(proxy.process.pid, "VmHWM") - before
                print(f"{direction:<5} {size / took_s / 1e6:>7.0f} MB/s, memory at most +{growth / 1024**2:.1f} MiB")
            return resident_bytes(proxy.process.pid, "VmHWM") - before
        finally:
            proxy.stop()
            server.close()


def _size(text: str) -> int:
    for unit, factor in _UNITS.items():
        if text.endswith(unit):
            return int(float(text.removesuffix(unit)) * factor)
    return int(text)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Memory of the proxy while large bodies go through it.")
    parser.add_argument("--size", type=_size, default=_size("1GiB"), help="of each direction (default 1GiB)")
    parser.add_argument("--check", action="store_true", help="exit 1 when memory grows by more than 48 MiB")
    options = parser.parse_args(arguments)
    try:
        growth = asyncio.run(measure(options.size))
    except Unmeasurable as reason:
        print(f"error: {reason}", file=sys.stderr)
        return 2
    return 1 if options.check and growth > MAX_GROWTH_BYTES else 0


if __name__ == "__main__":
    sys.exit(main())
