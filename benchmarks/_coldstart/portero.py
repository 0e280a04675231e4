"""
A whole Portero in a process of its own, run as ``portero serve`` runs it, that tells what it holds when it is asked.

``state`` and ``collect`` (a walk of the garbage collector) are its orders. It starts with the policies of ``policy``.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import uvloop

from authproxy.app import App
from authproxy.audit import configure_logging
from authproxy.settings import Settings
from benchmarks._coldstart.child import Child, obey, resident_bytes
from benchmarks._coldstart.lines import FAIR, rooms

HOST = "acme.test"

_PLATFORM = """version: 1
backends:
  faas: {{kind: openfaas, url: "{url}"}}
tenants:
  acme:
    hosts: [{host}]
    backend: faas
    namespace: acme
    ceilings: {{rate: 1000000/s, wakes: 100000/m, held: 20000, held_bytes: 1GiB}}
"""


def request(function: str, *, body: bytes = b"") -> bytes:
    """Of a caller without a token, on a connection that is kept."""
    head = f"{'POST' if body else 'GET'} /function/{function} HTTP/1.1\r\nHost: {HOST}\r\n"
    if body:
        head += f"Content-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


class Portero(Child):
    """``state`` is an order, too; see ``_state`` for what it tells."""

    address: tuple[str, int]

    async def state(self) -> dict[str, int]:
        told: dict[str, int] = await self.ask("state")
        return told


@contextlib.asynccontextmanager
async def portero(
    folder: Path, url: str, functions: Mapping[str, str], *, line: str = FAIR, **settings: Any
) -> AsyncIterator[Portero]:
    """
    Ready to be asked, before a platform at ``url``; its policies are written into ``folder``.

    ``functions`` are names or patterns with the rest of their entries, in YAML's flow style without braces; all are
    public. ``line`` is one of ``lines.ROOMS``.
    """
    policies = folder / "policies"
    policies.mkdir(exist_ok=True)
    entries = "".join(f'  "{name}": {{access: public{rest and ", " + rest}}}\n' for name, rest in functions.items())
    (policies / "platform.yaml").write_text(_PLATFORM.format(url=url, host=HOST))
    (policies / "acme.yaml").write_text(f"version: 1\ntenant: acme\nfunctions:\n{entries}")
    words = json.dumps({"policies": str(policies), **settings})
    async with Portero("benchmarks._coldstart.portero", line, words) as child:
        host, port = await child.ask("address")
        child.address = host, port
        yield child


def _state(app: App) -> dict[str, int]:
    """What is held, by each count that there is of it, and what the process has."""
    parts, metrics = app.parts, app.parts.metrics
    return {
        "held": parts.activator.held,
        "held_by_function": sum(count for _, _, count in parts.activator.held_by_function()),
        "held_requests": round(_sum(metrics.held_requests.collect().samples)),
        "held_bytes": round(_sum(metrics.held_body_bytes.collect().samples)),
        "abandoned": round(metrics.holds_abandoned_total.total()),
        "in_flight": sum(driver.room.in_flight for driver in parts.activator._drivers.values()),  # noqa: SLF001  # no public count, and places that leak are what is looked for
        "live": len(parts.live),
        "clients": round(_sum(metrics.client_connections.collect().samples)),
        "tasks": len(asyncio.all_tasks()),
        "descriptors": len(list(Path("/proc/self/fd").iterdir())) - 1,  # the folder itself is one
        "resident": resident_bytes(os.getpid()),
    }


def _sum(samples: Any) -> float:
    return float(sum(sample.value for sample in samples))


async def _serve(settings: Mapping[str, Any]) -> None:
    configure_logging("error")
    here = {"listen": ("127.0.0.1", 0), "admin": ("127.0.0.1", 0), "audit": "off", "max_connections": 12_000}
    app = App(Settings.model_validate({**here, **settings}))
    await app.start()

    async def address(_facts: Mapping[str, Any]) -> tuple[str, int]:
        return app.public_address

    async def state(_facts: Mapping[str, Any]) -> dict[str, int]:
        return _state(app)

    async def collect(_facts: Mapping[str, Any]) -> int:
        return gc.collect()

    await obey({"address": address, "state": state, "collect": collect})
    await app.stop(0.1)


def main() -> None:
    line, words = sys.argv[1:]
    with rooms(line):
        uvloop.run(_serve(json.loads(words)))


if __name__ == "__main__":
    main()
