"""
The load: plays a Kong worker that has 16 requests in the plugin at once, as cheaply as it can, in a process of its own.

Each connection has one event after another: ``HandleEvent``, an answer to each call, until the plugin is done. What
comes back is checked (how each event ends, how many calls it makes); latencies are whole events.

    python -m benchmarks._kong.load SOCKET PLUGIN FACTS_FILE {SECONDSs | EVENTS}
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgpack
import uvloop

from benchmarks._kong.server import PORTERO, PluginServerProcess
from benchmarks._proxies.process import Unmeasurable, binary, python

CONNECTIONS: Final = 16
_STEP: Final = b"\xabplugin.Step\x91"
_STEP_NIL: Final = _STEP + b"\x81\xa7EventId"
_STEP_DATA: Final = _STEP + b"\x82\xa7EventId"
_PASS: Final = b"X-Portero-Pass"
_PATIENCE: Final = 50


@dataclass(frozen=True, slots=True)
class Load:
    events: int
    seconds: float
    p50_ms: float
    p99_ms: float
    calls: float
    """Of Kong's PDK, an event."""
    endings: dict[str, int]
    """``direct``, ``listener``: where a verdict leads to; ``ret``: Kong goes on without one; else ``exit``'s status."""


def measure(server: PluginServerProcess, core: int, facts: Path, amount: str) -> Load:
    """Raises: Unmeasurable when the load source fails."""
    command = [binary("taskset", "util-linux"), "-c", str(core)]
    plugin = server.socket.stem
    command += python("benchmarks._kong.load", str(server.socket), plugin, str(facts), amount)
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, cwd=root)
    if done.returncode != 0:
        raise Unmeasurable(f"the load failed against {server.name}: {done.stderr[-1000:]}\n{server.output()}")
    return Load(**json.loads(done.stdout))


class Kong:
    """What all connections share."""

    def __init__(self, instance: int, facts: bytes, until: float, events: int) -> None:
        pack = msgpack.Packer(use_bin_type=False).pack
        self.pack = pack
        self.begin = b"\xb2plugin.HandleEvent" + pack([{"InstanceId": instance, "EventName": "access"}])
        self.answers = {
            b"kong.ctx.shared.get": pack(facts),
            b"kong.request.get_header": pack(b"acme.localhost"),
            b"kong.node.get_id": pack(b"8a3e5a4e-2f0d-4c57-9f10-0c2c3d0a9b11"),
        }
        self.until = until
        self.events_left = events
        self.message_id = 0
        self.calls = 0
        self.endings: Counter[str] = Counter()
        self.took: list[float] = []
        self.running = 0
        self.is_over = asyncio.Event()
        self.failure: str | None = None

    def may_begin(self, now: float) -> bool:
        self.events_left -= 1
        return self.events_left >= 0 and now < self.until and self.failure is None


class Connection(asyncio.Protocol):
    def __init__(self, kong: Kong) -> None:
        self._kong = kong
        self._unpacker = msgpack.Unpacker(raw=True, strict_map_key=False)
        self._began = 0.0
        self._ending = "ret"
        self._is_over = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._kong.running += 1
        self._begin(time.perf_counter())

    def _begin(self, now: float) -> None:
        kong = self._kong
        if not kong.may_begin(now):
            self._is_over = True
            self._transport.close()
            return
        self._began, self._ending = now, "ret"
        self._say(kong.begin)

    def _say(self, text: bytes) -> None:
        kong = self._kong
        kong.message_id += 1
        self._transport.write(b"\x94\x00" + kong.pack(kong.message_id) + text)

    def data_received(self, data: bytes) -> None:
        self._unpacker.feed(data)
        for _, _, error, result in self._unpacker:
            if error is not None:
                self._fail(f"Kong would let the request through: {error!r}")
                return
            wish = result[b"Data"]
            if wish == b"ret":
                self._end()
            else:
                self._answer(wish[b"Method"], wish[b"Args"], result[b"EventId"])

    def _answer(self, method: bytes, arguments: list[Any], event_id: int) -> None:
        kong = self._kong
        kong.calls += 1
        if method == b"kong.response.exit":
            self._ending = str(arguments[0])
            self._end()
            return
        if (answer := kong.answers.get(method)) is not None:
            self._say(_STEP_DATA + kong.pack(event_id) + b"\xa4Data" + answer)
            return
        if method == b"kong.ctx.shared.set" and arguments[0] == b"portero_verdict":
            self._ending = "listener" if _PASS in arguments[1][b"set"] else "direct"
        self._say(_STEP_NIL + kong.pack(event_id))

    def _end(self) -> None:
        now = time.perf_counter()
        self._kong.took.append(now - self._began)
        self._kong.endings[self._ending] += 1
        self._begin(now)

    def _fail(self, text: str) -> None:
        self._kong.failure = text
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        kong = self._kong
        kong.running -= 1
        if not self._is_over and kong.failure is None:
            kong.failure = f"Kong would let the request through: no data ({exc})"
        if kong.running == 0:
            kong.is_over.set()


async def _one_call(socket: Path, method: str, argument: Any) -> Any:
    reader, writer = await asyncio.open_unix_connection(socket)
    try:
        writer.write(msgpack.packb([0, 0, method, [argument]], use_bin_type=False))
        unpacker = msgpack.Unpacker(raw=True)
        while data := await reader.read(4096):
            unpacker.feed(data)
            for _, _, error, result in unpacker:
                if error is not None:
                    sys.exit(f"{method}: {error}")
                return result
    finally:
        writer.close()
    sys.exit(f"{method}: no answer")


async def _wake(socket: Path, instance: int, facts: bytes) -> None:
    """Ask as often as it takes for the function to be known awake; its first request goes by the internal listener."""
    for _ in range(_PATIENCE):
        step = await _one_call(socket, "plugin.HandleEvent", {"InstanceId": instance, "EventName": "access"})
        step = await _one_call(socket, "plugin.Step", {"EventId": step[b"EventId"], "Data": facts})
        wish = step[b"Data"]
        if wish[b"Method"] == b"kong.response.exit":
            return  # a refusal is what is measured
        verdict = wish[b"Args"][1]
        await _one_call(socket, "plugin.Step", {"EventId": step[b"EventId"]})
        if _PASS not in verdict[b"set"]:
            return
        reader, writer = await asyncio.open_connection(verdict[b"host"].decode(), verdict[b"port"])
        target = facts.split(b"\n")[4].split(b" ")[1]
        fields = b"".join(b"%s: %s\r\n" % field for field in verdict[b"set"].items())
        writer.write(b"GET %s HTTP/1.1\r\n%sConnection: close\r\n\r\n" % (target, fields))
        answer = await reader.read()
        writer.close()
        if not answer.startswith(b"HTTP/1.1 200 "):
            sys.exit(f"the internal listener answered {answer[:500]!r}")
    sys.exit("the function is never known to be awake")


async def _run(socket: Path, plugin: str, facts: bytes, amount: str) -> dict[str, Any]:
    instance = (await _one_call(socket, "plugin.StartInstance", {"Name": plugin, "Config": "{}"}))[b"Id"]
    if plugin == PORTERO:
        await _wake(socket, instance, facts)
    seconds = float(amount[:-1]) if amount.endswith("s") else 600.0
    began = time.perf_counter()
    kong = Kong(instance, facts, began + seconds, 10**9 if amount.endswith("s") else int(amount))
    loop = asyncio.get_running_loop()
    for _ in range(CONNECTIONS):
        await loop.create_unix_connection(lambda: Connection(kong), str(socket))
    await kong.is_over.wait()
    took = time.perf_counter() - began
    if kong.failure is not None:
        sys.exit(kong.failure)
    await _one_call(socket, "plugin.CloseInstance", instance)
    ordered = sorted(kong.took)
    events = len(ordered)
    return {
        "events": events,
        "seconds": took,
        "p50_ms": ordered[events // 2] * 1000,
        "p99_ms": ordered[min(events - 1, events * 99 // 100)] * 1000,
        "calls": kong.calls / events,
        "endings": dict(kong.endings),
    }


if __name__ == "__main__":
    print(json.dumps(uvloop.run(_run(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]).read_bytes(), sys.argv[4]))))
