"""The edge in front of aiohttp's parser in Python: what runs where no wheel with the C extension is to be had."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

_HERE: Final = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_parser_in_python_holds_as_well() -> None:
    """Both smuggling files again, in a process without the C extension (CVE-2023-37276: parsers that differ)."""
    done = subprocess.run(
        [
            *[sys.executable, "-m", "pytest", "-q", "-k", "not uvloop"],
            *[str(_HERE / name) for name in ("test_smuggling.py", "test_smuggled_bodies.py")],
        ],
        cwd=_HERE.parents[1],
        env={**os.environ, "AIOHTTP_NO_EXTENSIONS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
