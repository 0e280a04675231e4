"""
Pictures every page anew for ``docs/pages.md``: ``make pictures``.

On a phone in the light and in the dark; on a desk where a page has more to show. Needs the port that the demo has
by default, so that the addresses in the pictures are those of the documents.
"""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections import Counter
from pathlib import Path
from typing import Final, Literal

from authproxy.audit import configure_logging
from tests.fakes.browser import PHONE, person, running_browser
from tests.fakes.demo_pages import every_page, running_demo

FOLDER: Final = Path(__file__).parents[1] / "docs" / "pages"
LISTEN: Final = ("127.0.0.1", 8088)
DESK: Final = (1280, 800)
PAGES: Final = (
    "choose",
    "provider-login",
    "whoami",
    "logout",
    "logged-out",
    "login-failed",
    "denied",
    "not-found",
    "unavailable",
    "overflow",
    "pending",
)
Scheme = Literal["light", "dark"]
LOOKS: Final[tuple[tuple[str, tuple[int, int], Scheme, tuple[str, ...]], ...]] = (
    ("phone-light", PHONE, "light", PAGES),
    ("phone-dark", PHONE, "dark", PAGES),
    ("desk-light", DESK, "light", ("choose", "whoami")),
    ("desk-dark", DESK, "dark", ("whoami", "denied")),
)
_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_RGB, _RGBA, _PALETTE = 2, 6, 3
_COLOURS: Final = 256


async def main() -> None:
    configure_logging("error")
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.png"):
        old.unlink()
    async with running_demo(LISTEN) as demo, running_browser() as browser:
        for look, size, scheme, wanted in LOOKS:
            async with person(browser, size=size, scheme=scheme) as who:
                page = await who.new_page()
                async for name in every_page(demo, page):
                    if name in wanted:
                        (FOLDER / f"{name}-{look}.png").write_bytes(shrink(await page.screenshot()))


def shrink(png: bytes) -> bytes:
    """The same picture in at most 256 colours, which the edges of letters do not miss: a third of the size."""
    width, rows, step = _read(png)
    pixels = [[row[at : at + 3] for at in range(0, len(row), step)] for row in rows]
    counted = Counter(pixel for row in pixels for pixel in row)
    palette = [pixel for pixel, _ in counted.most_common(_COLOURS)]
    index = {pixel: _nearest(palette, pixel) for pixel in counted}
    lines = b"".join(b"\0" + bytes([index[pixel] for pixel in row]) for row in pixels)
    header = struct.pack(">IIBBBBB", width, len(rows), 8, _PALETTE, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"PLTE", b"".join(palette)), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
    return _SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def _nearest(palette: list[bytes], pixel: bytes) -> int:
    def distance(at: int) -> int:
        return sum((a - b) ** 2 for a, b in zip(palette[at], pixel, strict=True))

    return min(range(len(palette)), key=distance)


def _read(png: bytes) -> tuple[int, list[bytes], int]:
    """
    Width, rows of bytes, bytes a pixel; of 8 bits a channel without interlacing, as browsers write it.

    Source: Portable Network Graphics Specification (Third Edition) sections 5 and 9.
    """
    at, packed, width, step = len(_SIGNATURE), b"", 0, 0
    while at < len(png):
        size, kind = struct.unpack_from(">I4s", png, at)
        data, at = png[at + 8 : at + 8 + size], at + 12 + size
        if kind == b"IHDR":
            width, _, _, colours = struct.unpack_from(">IIBB", data)
            step = {_RGB: 3, _RGBA: 4}[colours]
        elif kind == b"IDAT":
            packed += data
    raw, line = zlib.decompress(packed), width * step
    rows = [bytearray(line)]
    for start in range(0, len(raw), line + 1):
        rows.append(_unfiltered(raw[start], raw[start + 1 : start + 1 + line], rows[-1], step))
    return width, [bytes(row) for row in rows[1:]], step


def _unfiltered(kind: int, line: bytes, above: bytearray, step: int) -> bytearray:
    """Source: the same, section 9.2: None, Sub, Up, Average, Paeth."""
    row = bytearray(line)
    for at in range(len(row)):
        left, up = row[at - step] if at >= step else 0, above[at]
        corner = above[at - step] if at >= step else 0
        near = min((left, up, corner), key=lambda value: abs(left + up - corner - value))
        row[at] = (row[at] + (0, left, up, (left + up) // 2, near)[kind]) & 0xFF
    return row


if __name__ == "__main__":
    asyncio.run(main())
