"""
User and password of a platform's API, from the platform's secrets; read again when the platform refuses them.

So a rotated password takes effect without a reload. It refuses to know where secrets are kept.
"""

from __future__ import annotations

import asyncio
from typing import Final

import aiohttp

from authproxy.backends.backend import ReadSecret
from policies.errors import CannotKnow, SettingsError
from policies.tables import BackendSpec

REREAD_PAUSE_S: Final = 1.0
"""Between two readings: a platform that refuses everything does not make us read files all day."""
_USER_FILE: Final = "basic-auth-user"
_PASSWORD_FILE: Final = "basic-auth-password"  # noqa: S105 - the name of a file, as OpenFaaS mounts it


class BasicCredentials:
    """
    The Authorization field of a backend's calls (RFC 7617).

    ``credentials`` of the entry names a folder with ``basic-auth-user`` and ``basic-auth-password``, or a file
    ``user:password``. None: ``authorization`` is None.

    Raises: SettingsError when they cannot be read or sent.
    """

    def __init__(self, spec: BackendSpec, read_secret: ReadSecret) -> None:
        self._name = spec.credentials
        self._read_secret = read_secret
        self._reread_at = float("-inf")
        self.authorization = self._read()

    def headers(self) -> dict[str, str]:
        return {} if self.authorization is None else {"Authorization": self.authorization}

    async def reread(self) -> bool:
        """True when there are others now: the call that was refused may be sent again. At most once a second."""
        loop = asyncio.get_running_loop()
        if self._name is None or loop.time() - self._reread_at < REREAD_PAUSE_S:
            return False
        self._reread_at = loop.time()
        try:
            found = await asyncio.to_thread(self._read)
        except SettingsError:
            return False  # half a rotation: the next call looks again
        has_changed = found != self.authorization
        self.authorization = found
        return has_changed

    def _read(self) -> str | None:
        if self._name is None:
            return None
        user, password = self._parts(self._name)
        if ":" in user:
            raise SettingsError(["a user name with a colon cannot be sent (RFC 7617 section 2)"])
        return aiohttp.encode_basic_auth(user, password)

    def _parts(self, name: str) -> tuple[str, str]:
        try:
            user, password = (self._read_secret(f"{name}/{file}") for file in (_USER_FILE, _PASSWORD_FILE))
        except CannotKnow:
            try:
                user, colon, password = self._read_secret(name).partition(b":")
            except CannotKnow as error:
                raise SettingsError([f"its credentials cannot be read: {error}"]) from error
            if not colon:
                raise SettingsError([f"secret {name!r} is not of the form user:password"]) from None
        try:
            return user.decode().strip(), password.decode().strip()
        except UnicodeDecodeError:
            raise SettingsError([f"secret {name!r} is not UTF-8"]) from None
