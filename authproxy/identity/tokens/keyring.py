"""
Which of Portero's own keys are used, which are accepted, and which are shown: the folder of ``--keys``, kept in memory.

The folder is looked at again at most every two seconds, by listing it; there is no watcher. A key that is taken away is
refused from the next look on, which is how one is revoked. A folder that cannot be used at start is an error; later on
the last good keys stay, with a line in the log: logging everybody out is worse than an old key for a while.

Without a folder, sessions are sealed with a key of this process alone (a restart logs everybody out) and nothing is
signed. Refuses to know what is sealed and signed; ``key_files`` knows what a key file is.
"""

from __future__ import annotations

import logging
import secrets
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from authproxy.identity.providers.keys import KeySet, SetRefused
from authproxy.identity.sessions.seal import SessionKeys
from authproxy.identity.tokens.key_files import (
    SESSION_KEY_BYTES,
    SESSION_WAIT_S,
    SESSIONS,
    SIGNING,
    SIGNING_WAIT_S,
    KeyFile,
    KeyFileError,
    SessionKey,
    SigningPrivate,
    in_use,
    list_files,
    read_all,
    read_session_key,
    read_signing_key,
)
from policies.errors import SettingsError

LOOK_S: Final = 2.0
"""Between two looks at the folder; some 50 us each."""

log = logging.getLogger(__name__)


class SigningKeys(Protocol):
    """What tokens and assertions need of ``KeyFolder``."""

    def signing_key(self) -> SigningPrivate | None: ...

    def key_set(self) -> KeySet | None: ...


class _Loaded(NamedTuple):
    listing: tuple[KeyFile, ...]
    sessions: tuple[SessionKey, ...]
    signing: tuple[SigningPrivate, ...]
    key_set: KeySet | None
    jwks: dict[str, Any]


_NOTHING: Final = _Loaded((), (), (), None, {"keys": []})


class KeyFolder:
    """
    The keys of one process. Every method is cheap: a look at the folder now and then, blocking and small.

    Args:
        folder: with ``sessions/*.key`` and ``signing/*.pem``; None: keys of this process alone.
        clock: Unix seconds, comparable with the modification times of files.
        is_ephemeral_allowed: whether there may be no folder (one process, or a demo).

    Raises:
        SettingsError: the folder cannot be used.
    """

    def __init__(
        self, folder: Path | None, *, clock: Callable[[], float] = time.time, is_ephemeral_allowed: bool = True
    ) -> None:
        self._folder = folder
        self._clock = clock
        self._looked_at = clock()
        self._problem: str | None = None
        self._warned: set[str] = set()
        self._signing: SigningPrivate | None = None
        if folder is None:
            if not is_ephemeral_allowed:
                raise SettingsError(["keys: no folder of keys was given; make one with: portero keys new DIR"])
            self._loaded = _NOTHING
            self._sessions = _ephemeral()
            return
        try:
            self._loaded = self._load(folder, self._list(folder), _NOTHING)
        except _UnusableError as unusable:
            raise SettingsError([f"keys: {folder}: {mistake}" for mistake in unusable.mistakes]) from unusable
        self._sessions = _session_keys(self._loaded.sessions, self._looked_at)
        self._choose(self._looked_at)

    @property
    def is_ephemeral(self) -> bool:
        """Whether sessions end with this process."""
        return self._folder is None

    @property
    def problem(self) -> str | None:
        """Why the folder could not be used at the last look; the keys are those of an earlier one then."""
        return self._problem

    def session_keys(self) -> SessionKeys:
        """The key to seal with, and those that open. The same object until that changes."""
        self._look()
        return self._sessions

    def signing_key(self) -> SigningPrivate | None:
        """The key to sign with; None: nothing may be signed. The same object until that changes."""
        self._look()
        return self._signing

    def key_set(self) -> KeySet | None:
        """The public keys of all signing keys; None without any. The same object until that changes."""
        self._look()
        return self._loaded.key_set

    def jwks(self) -> dict[str, Any]:
        """The JWK Set (RFC 7517 section 5) of all signing keys, also of those that are not used yet."""
        self._look()
        return self._loaded.jwks

    def _look(self) -> None:
        now = self._clock()
        if 0.0 <= now - self._looked_at < LOOK_S or self._folder is None:
            return
        self._looked_at = now
        try:
            listing = self._list(self._folder)
            if listing != self._loaded.listing:
                self._loaded = self._load(self._folder, listing, self._loaded)
                log.info(
                    "keys were read anew: %d of sessions, %d of signing",
                    len(self._loaded.sessions),
                    len(self._loaded.signing),
                )
            self._problem = None
        except _UnusableError as unusable:
            problem = "; ".join(unusable.mistakes)
            if problem != self._problem:
                log.error("keys %s cannot be used and the ones read before stay in use: %s", self._folder, problem)  # noqa: TRY400 (no trace: the sentence says it)
            self._problem = problem
        self._choose(now)

    def _choose(self, now: float) -> None:
        """Keys come of age without any file changing."""
        sessions = _session_keys(self._loaded.sessions, now)
        if sessions != self._sessions:
            self._sessions = sessions
        self._signing = in_use(self._loaded.signing, now, SIGNING_WAIT_S)

    def _list(self, folder: Path) -> tuple[KeyFile, ...]:
        """Raises: _UnusableError."""
        try:
            if not folder.is_dir():
                raise _UnusableError(["no such folder; make it with: portero keys new DIR"])
            return (*list_files(folder, SESSIONS), *list_files(folder, SIGNING))
        except KeyFileError as error:
            raise _UnusableError([str(error)]) from error
        except OSError as error:
            raise _UnusableError([f"cannot be read: {error.strerror}"]) from error

    def _load(self, folder: Path, listing: tuple[KeyFile, ...], before: _Loaded) -> _Loaded:
        """
        One file that cannot be used spoils all, since nobody would notice it otherwise. A file that is as it was
        ``before`` stays the same key. Raises: _UnusableError.
        """
        sessions, mistakes = read_all(
            folder, [file for file in listing if file.kind == SESSIONS], read_session_key, before.sessions
        )
        signing, more = read_all(
            folder, [file for file in listing if file.kind == SIGNING], read_signing_key, before.signing
        )
        mistakes += more
        if not sessions and not mistakes:
            mistakes.append("no session key (sessions/*.key); make one with: portero keys rotate DIR")
        if len({key.id for key in sessions}) != len(sessions):
            mistakes.append("two session keys are the same, or share their id; remove one of them")
        key_set = None
        try:
            key_set = KeySet.of([key.public for key in signing]) if signing else None
        except SetRefused as error:
            mistakes.append(str(error))
        if mistakes:
            raise _UnusableError(mistakes)
        self._warn(folder, listing)
        jwks = {"keys": [dict(jwk) for jwk in {key.kid: key.jwk for key in signing}.values()]}
        return _Loaded(listing, tuple(sessions), tuple(signing), key_set, jwks)

    def _warn(self, folder: Path, listing: tuple[KeyFile, ...]) -> None:
        places = (folder, folder / SESSIONS, folder / SIGNING)
        for place in places:
            with suppress(OSError):  # not there, or replaced meanwhile: said at the next look
                if place.stat().st_mode & stat.S_IWOTH and str(place) not in self._warned:
                    self._warned.add(str(place))
                    log.warning("everybody on this machine may add keys to %s; remedy: chmod o-w", place)
        for file in listing:
            if file.mode & stat.S_IROTH and str(file) not in self._warned:
                self._warned.add(str(file))
                log.warning("key %s may be read by everybody on this machine (mode %o)", file, file.mode)
        self._warned.intersection_update(map(str, (*listing, *places)))


class _UnusableError(Exception):
    """The folder, as it is, makes no set of keys."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("; ".join(mistakes))
        self.mistakes = mistakes


def _session_keys(keys: tuple[SessionKey, ...], now: float) -> SessionKeys:
    current = in_use(keys, now, SESSION_WAIT_S) or keys[-1]
    return SessionKeys((current.id, current.secret), {key.id: key.secret for key in keys})


def _ephemeral() -> SessionKeys:
    secret, name = secrets.token_bytes(SESSION_KEY_BYTES), secrets.token_bytes(4)
    return SessionKeys((name, secret), {name: secret})
