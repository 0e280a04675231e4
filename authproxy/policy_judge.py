"""
Judges a policy folder's files in a process of its own, so that no request waits while they are parsed.

Parsing 10,000 rules holds the interpreter lock for half a second; in a thread that would stop the event loop. The child
is started afresh for each reload, reads the files from standard input, writes
what it found to standard output and is killed when it takes too long. It serves nothing and knows no secret.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from policies.compiler import compile_with_warnings
from policies.documents import Documents, parse
from policies.errors import Mistake, PolicyError
from policies.policytest import run_tests

TIMEOUT_S: Final = 60.0
"""Ten times what the largest folder measured takes on a busy machine."""

MAX_ADDRESS_BYTES: Final = 4 * 1024**3
"""Of the child: the most hostile folder measured took 0.9 GiB; beyond this it dies and the last good policies stay."""

Files = Mapping[str, bytes]


class JudgeFailed(Exception):
    """The child died or took too long; carries a sentence for the operator."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What the files are worth: documents, or the mistakes that keep them from being used."""

    documents: Documents | None
    mistakes: list[Mistake]


def judge_files(files: Files, *, allow_loopback_http: bool, now: float) -> Judged:
    """Parse, compile and run the operators' tests; ``now`` in Unix seconds."""
    try:
        documents = parse(files)
        policies, _ = compile_with_warnings(documents, allow_loopback_http=allow_loopback_http)
    except PolicyError as error:
        return Judged(None, error.mistakes)
    failures = run_tests(policies, documents, now=now).mistakes
    return Judged(None, failures) if failures else Judged(documents, [])


async def judge_in_process(files: Files, *, allow_loopback_http: bool, now: float) -> Judged:
    """``judge_files`` in a child. Raises: JudgeFailed."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",  # not -m: what the child pickles must be named by this module, not by __main__
        "from authproxy.policy_judge import main; main()",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        asked = await asyncio.to_thread(pickle.dumps, (dict(files), allow_loopback_http, now))
        async with asyncio.timeout(TIMEOUT_S):  # not wait_for: before Python 3.12 it may swallow a cancellation
            answer, _ = await child.communicate(asked)
        if child.returncode != 0:
            raise JudgeFailed(f"the process that judges the files ended with status {child.returncode}")
        # Our own child wrote this a moment ago over a pipe of ours: the one pickle that may be read.
        judged: Judged = await asyncio.to_thread(pickle.loads, answer)
    except TimeoutError:
        raise JudgeFailed(f"judging the files took longer than {TIMEOUT_S:.0f} s") from None
    except (OSError, pickle.UnpicklingError, EOFError) as error:
        raise JudgeFailed(f"the process that judges the files failed ({error.__class__.__name__})") from None
    else:
        return judged
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()


def main() -> None:
    """The child: one question on standard input, one answer on standard output."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESS_BYTES, MAX_ADDRESS_BYTES))
    answers = os.fdopen(os.dup(1), "wb")
    sys.stdout = sys.stderr  # nothing that a library prints may get between the bytes of the answer
    files, allow_loopback_http, now = pickle.loads(sys.stdin.buffer.read())  # noqa: S301 (our own parent's)
    with answers:
        pickle.dump(judge_files(files, allow_loopback_http=allow_loopback_http, now=now), answers)
