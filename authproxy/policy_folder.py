"""
The policy folder: read it, judge it, swap the policy set as a whole, and keep the last good one.

Events only trigger; the hash of the content decides whether anything changed (mtime lies, and a ConfigMap's swap
replaces links, not files). Parsing holds the interpreter lock for as long as the files are large, so it happens in a
process of its own, together with the operator's tests; what comes back is compiled here in a thread and swapped by
one assignment. A request keeps the set it started with. Rules H1-H7 in docs/reload.md.
"""

from __future__ import annotations

import asyncio
import gc
import os
import stat
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from watchfiles import awatch

from authproxy.audit import get_logger
from authproxy.metrics import Metrics
from authproxy.policy_judge import Files, Judged, JudgeFailed, judge_files, judge_in_process
from policies.compiler import compile_with_warnings, revision_of
from policies.documents import Documents
from policies.errors import Mistake, PolicyError
from policies.tables import PolicySet

MAX_FILE_BYTES: Final = 8 * 1024 * 1024
MAX_FILES: Final = 10_000
MAX_FOLDER_BYTES: Final = 64 * 1024 * 1024
"""Bound what a broken mount can make us read; the largest real folder measured was 1 MiB."""
SETTLE_S: Final = 0.05
"""Editors write in two or three steps; a hash taken between them would only be judged twice."""
WATCHER_STARTS_S: Final = 1.0
"""What changes before the watcher watches is nobody's event: one look after so long finds it."""


class FolderUnreadable(Exception):
    """The folder cannot be read as a whole; carries a sentence for the operator."""


@dataclass(slots=True)
class ReloadStatus:
    """What ``/policy/status`` says of the last attempt."""

    revision: str = ""
    loaded_at: float = 0.0
    """Unix seconds of the swap that put the active set in place."""
    attempted_at: float = 0.0
    is_successful: bool = False
    mistakes: list[Mistake] = field(default_factory=list)
    warnings: list[Mistake] = field(default_factory=list)


def read_folder(folder: Path) -> Files:
    """
    All YAML files of the folder, read through one opened directory, so that no swap can mix two versions.

    Only regular files count (a link may lead to one: that is how ConfigMaps are laid out); names starting with a dot
    are skipped. Raises: FolderUnreadable.
    """
    for _ in range(3):
        before = _place(folder)
        files = _read_once(before)
        if _place(folder) == before:
            return files
    raise FolderUnreadable(f"{folder}: the folder was swapped three times while it was read; trying again later")


def _place(folder: Path) -> str:
    """Where the files lie now: a ConfigMap is a link ``..data`` to one of its versions. Raises: FolderUnreadable."""
    data = folder / "..data"
    try:
        return os.path.realpath(data if data.is_symlink() else folder)
    except OSError as error:  # a folder that may not be entered
        raise FolderUnreadable(f"{folder}: cannot be opened ({error.strerror})") from None


def _read_once(path: str) -> Files:
    files: dict[str, bytes] = {}
    total = 0
    try:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise FolderUnreadable(f"{path}: cannot be opened ({error.strerror})") from None
    try:
        names = sorted(name for name in os.listdir(directory) if not name.startswith("."))  # noqa: PTH208 (by descriptor: a path could be swapped meanwhile)
        for name in names:
            if not name.endswith((".yaml", ".yml")):
                continue
            if len(files) >= MAX_FILES:
                raise FolderUnreadable(f"{path}: more than {MAX_FILES} files")
            files[name] = _read_file(directory, name)
            total += len(files[name])
            if total > MAX_FOLDER_BYTES:
                raise FolderUnreadable(f"{path}: more than {MAX_FOLDER_BYTES} bytes in all")
    except OSError as error:
        raise FolderUnreadable(f"{path}: cannot be read ({error.strerror})") from None
    finally:
        os.close(directory)
    return files


def _read_file(directory: int, name: str) -> bytes:
    try:
        # Non-blocking: a named pipe in the folder must not hang the reload.
        descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError as error:
        raise FolderUnreadable(f"{name}: cannot be opened ({error.strerror})") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FolderUnreadable(f"{name}: not a regular file")
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise FolderUnreadable(f"{name}: larger than {MAX_FILE_BYTES} bytes")
    return content


class PolicyFolder:
    """The active policy set and the loop that keeps it current."""

    def __init__(
        self, folder: Path, metrics: Metrics, *, poll_s: float = 15.0, allow_loopback_http: bool = False
    ) -> None:
        self._folder = folder
        self._metrics = metrics
        self._poll_s = poll_s
        self._allow_loopback_http = allow_loopback_http
        self._log = get_logger("policy")
        self._seen = ""
        """Hash of the content judged last, good or bad: equal content is not judged again (H6)."""
        self._slow_guards: list[Callable[[PolicySet], list[str]]] = []
        self._guards: list[Callable[[PolicySet], list[str]]] = []
        self._still_wrong: list[str] = []
        self._listeners: list[Callable[[PolicySet], None]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._looking = asyncio.Lock()
        self.status = ReloadStatus()
        self.active: PolicySet

    def before_swap(self, guard: Callable[[PolicySet], list[str]], *, is_slow: bool = False) -> None:
        """
        Ask ``guard`` before each later swap; a mistake it names (a missing secret) keeps the last good set.

        A slow one reads files and is asked in a thread. The others are asked on the event loop when the slow ones found
        nothing, and nothing comes between them and the swap; they are also asked about the set in force, at each look
        that finds nothing new.
        """
        (self._slow_guards if is_slow else self._guards).append(guard)

    def on_swap(self, listener: Callable[[PolicySet], None]) -> None:
        """Call ``listener`` with each new set, on the event loop, right after the swap."""
        self._listeners.append(listener)

    def load_first(self) -> PolicySet:
        """Load before serving. Raises: PolicyError, FolderUnreadable; there is no last good set to fall back to."""
        now = time.time()
        files = read_folder(self._folder)
        self._seen = revision_of(files)
        judged = judge_files(files, allow_loopback_http=self._allow_loopback_http, now=now)
        if judged.documents is None:
            raise PolicyError(judged.mistakes)
        policies, warnings = compile_with_warnings(judged.documents, allow_loopback_http=self._allow_loopback_http)
        self._swap(policies, warnings, now)
        return policies

    def start(self) -> None:
        """Begin to watch."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(call, name="policy-folder") for call in (self._watch(), self._look_soon())]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def reload(self) -> bool:
        """
        Look at the folder now; True when what it holds is in force afterwards. Never raises: the last good set stays.

        One at a time: a look that began earlier must not put its older set in place after a later one.
        """
        async with self._looking:
            try:
                return await self._look()
            except Exception:  # noqa: BLE001 (a dead watcher would serve old policies silently)
                self._log.exception("policy reload failed")
                self._seen = ""  # it may be over at the next look
                self._keep([Mistake(str(self._folder), 1, 1, "internal error; see the log")], time.time())
                return False

    async def _look(self) -> bool:
        now = time.time()
        try:
            files = await asyncio.to_thread(read_folder, self._folder)
        except FolderUnreadable as error:
            self._keep([Mistake(str(self._folder), 1, 1, str(error))], now)
            self._seen = ""
            return False
        if (seen := revision_of(files)) == self._seen:
            if seen != self.active.revision:
                return False
            self._ask_again()
            return True
        self._seen = seen
        started = time.monotonic()
        try:
            judged = await judge_in_process(files, allow_loopback_http=self._allow_loopback_http, now=now)
        except JudgeFailed as error:
            self._seen = ""
            judged = Judged(None, [Mistake(str(self._folder), 1, 1, f"{error}; the last good policies stay")])
        if judged.documents is None:
            self._keep(judged.mistakes, now)
            return False
        policies, warnings = await self._compile(judged.documents)
        wrong = [text for guard in self._slow_guards for text in await asyncio.to_thread(guard, policies)]
        if wrong := wrong or [text for guard in self._guards for text in guard(policies)]:
            self._seen = ""  # a secret may be put in place without a change of the policies
            self._keep([Mistake(str(self._folder), 1, 1, text) for text in wrong], now)
            return False
        self._swap(policies, warnings, now)
        self._log.info("policy swapped", revision=policies.revision, seconds=round(time.monotonic() - started, 3))
        return True

    def _ask_again(self) -> None:
        """A secret may be replaced without a change of the policies: the quick guards follow those in force."""
        wrong = [text for guard in self._guards for text in guard(self.active)]
        if wrong != self._still_wrong:
            self._still_wrong = wrong
            for text in wrong:
                self._log.error("what the policies in force need is gone", where=text)

    async def _compile(self, documents: Documents) -> tuple[PolicySet, list[Mistake]]:
        """In a thread, which shares the interpreter fairly as Python code does."""
        # No collection meanwhile: one over what is made here would stop the event loop for tens of milliseconds.
        gc.disable()
        try:
            return await asyncio.to_thread(
                compile_with_warnings, documents, allow_loopback_http=self._allow_loopback_http
            )
        finally:
            gc.enable()

    async def _watch(self) -> None:
        async for _ in self._changes():
            await self.reload()

    async def _look_soon(self) -> None:
        await asyncio.sleep(WATCHER_STARTS_S)
        await self.reload()

    async def _changes(self) -> AsyncIterator[None]:
        """One item a change, and one a poll interval for file systems that report none (network mounts, virtiofs)."""
        while True:
            try:
                async for _ in awatch(
                    self._folder,
                    step=20,
                    debounce=int(SETTLE_S * 1000),
                    rust_timeout=int(self._poll_s * 1000),
                    yield_on_timeout=True,
                ):
                    yield
            except (OSError, RuntimeError):
                # The folder itself is gone, or the system has no watches left: poll until that is over.
                await asyncio.sleep(min(self._poll_s, 1.0))
            yield

    def _swap(self, policies: PolicySet, warnings: list[Mistake], now: float) -> None:
        self.active = policies
        self.status = ReloadStatus(policies.revision, now, now, is_successful=True, warnings=warnings)
        for warning in warnings:
            self._log.warning("policy warning", where=str(warning))
        self._metrics.policy_last_reload_successful.set(1)
        self._metrics.policy_last_reload_success_timestamp_seconds.set(now)
        self._metrics.policy_reloads_total.add(("success",))
        self._metrics.policy_info.set_only((policies.revision,))
        self._metrics.policy_rules.set(policies.rule_count)
        for listener in self._listeners:
            try:
                listener(policies)
            except Exception:  # noqa: BLE001 (the set is in force: who follows must not miss it for another's defect)
                self._log.exception("following a policy swap failed")
        # The tables live until the next swap: keep the collector from walking them (70 ms over 300,000 objects).
        gc.freeze()

    def _keep(self, mistakes: list[Mistake], now: float) -> None:
        self.status.attempted_at = now
        self.status.is_successful = False
        self.status.mistakes = mistakes
        self._metrics.policy_last_reload_successful.set(0)
        self._metrics.policy_reloads_total.add(("failure",))
        for mistake in mistakes[:20]:
            self._log.error("policy refused, the last good one stays", where=str(mistake))
