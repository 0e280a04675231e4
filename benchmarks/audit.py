"""What one audit line costs: microseconds a line, encoded and written in batches to a file in memory."""

from __future__ import annotations

import asyncio
import tempfile
import timeit

from authproxy.audit import Audit

LINES = 50_000


async def measure(path: str) -> None:
    audit = Audit(path)

    def one() -> None:
        audit.decision(
            ts=1764000000.123456,
            request_id="0123456789abcdef0123456789abcdef",
            tenant="acme",
            edge="public",
            method="GET",
            host="acme.localhost",
            path="/reports/es",
            client_ip="127.0.0.1",
            outcome="allow",
            status=200,
            subject="login|ana",
            rule="analysts",
            where="acme.yaml:12",
            duration_ms=1.234,
            bytes_out=1234,
            revision="abcdef0123456789",
        )

    best = min(timeit.repeat(one, number=LINES, repeat=7)) / LINES * 1e6
    audit.close()
    print(f"audit line: {best:.2f} us")


if __name__ == "__main__":
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        asyncio.run(measure(file.name))
