"""
The public keys of one service account, from files (AP-R15: Dispatch's service accounts, with bounds).

It decides which files may be keys and when they are read again. A key file that is taken away is a key that is
revoked: unlike a provider's, these keys have no "last good". It refuses to know tokens and claims.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from authproxy.identity.providers.keys import MISSING, Candidates, KeySet, Missing, SetRefused, Unavailable, signing_key
from authproxy.identity.secrets import Secrets, SecretUnavailable
from policies.tables import PolicySet, ServiceAccountSpec

ALGORITHMS: Final = frozenset(("RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "EdDSA"))
"""Of service accounts' tokens: what Dispatch took and what ``portero token issue`` writes."""
RECHECK_S: Final = 10.0
"""How long a key is used without looking at its file again, and how long a failure stands."""
STALE_S: Final = 60.0
"""From when on the file is looked at first."""
MAX_KEYS: Final = 8
"""Keys of one account; two while it changes its key, and each may be tried on a token."""

log = logging.getLogger(__name__)


class AccountKeys:
    """A ``KeySource`` over an account's PEM files. Files are read in a thread; belongs to one event loop."""

    def __init__(self, tenant: str, account: ServiceAccountSpec, secrets: Secrets) -> None:
        self._tenant = tenant
        self._account = account
        self._secrets = secrets
        self._keys: KeySet | None = None
        self._read_at: float | None = None
        """When the last reading that has ended began: one that is under way says nothing yet."""
        self._task: asyncio.Task[None] | None = None

    def current(self, now: float) -> KeySet | None:
        """The keys; starts to read the files again, behind, when that was long ago."""
        if self._keys is not None and not self._is_fresh(now):
            self._start(now)
            return None if now - (self._read_at or 0.0) > STALE_S else self._keys
        return self._keys

    def key_now(self, kid: str | None, algorithm: str, now: float) -> Candidates | Missing | Unavailable | None:
        """See ``KeySource``."""
        keys = self.current(now)
        if keys is not None:
            return keys.choose(kid, algorithm) or MISSING
        if self._task is None and self._is_fresh(now):
            return Unavailable(int(RECHECK_S))
        return None

    async def key(self, kid: str | None, algorithm: str, now: float) -> Candidates | Missing | Unavailable:
        """See ``KeySource``."""
        found = self.key_now(kid, algorithm, now)
        if found is not None:
            return found
        await asyncio.wait((self._start(now),), timeout=RECHECK_S)
        keys = self.current(now)
        return Unavailable(int(RECHECK_S)) if keys is None else keys.choose(kid, algorithm) or MISSING

    async def close(self) -> None:
        """Forget the reading that is under way."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))

    def _is_fresh(self, now: float) -> bool:
        return self._read_at is not None and 0.0 <= now - self._read_at < RECHECK_S

    def _start(self, now: float) -> asyncio.Task[None]:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._read())
            self._task.add_done_callback(lambda task: self._ended(task, now))
        return self._task

    def _ended(self, task: asyncio.Task[None], began: float) -> None:
        if self._task is task:
            self._task = None
        self._read_at = began
        if not task.cancelled() and task.exception() is not None:
            self._keys = None
            log.error("service account keys: unexpected failure", exc_info=task.exception())

    async def _read(self) -> None:
        keys: KeySet | None = None
        try:
            keys = await asyncio.to_thread(read_account, self._tenant, self._account, self._secrets)
        except (SecretUnavailable, SetRefused) as error:
            log.warning("service account %s/%s has no key: %s", self._tenant, self._account.name, error)
        if keys is None or self._keys is None or keys.thumbprints != self._keys.thumbprints:
            self._keys = keys


def read_account(tenant: str, account: ServiceAccountSpec, secrets: Secrets) -> KeySet:
    """
    All keys of one account; one that cannot be used spoils all, since nobody would notice it otherwise.

    Raises: SecretUnavailable, SetRefused.
    """
    if len(account.public_keys) > MAX_KEYS:
        raise SetRefused(f"more than {MAX_KEYS} keys")
    keys = []
    for name in account.public_keys:
        pem = secrets.read(tenant, name, is_public=True)
        if b"PRIVATE KEY" in pem:
            raise SetRefused(f"{name} is a private key: keep it with the account and put its public key here")
        try:
            key = signing_key(load_pem_public_key(pem))
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise SetRefused(f"{name} is not a public key in PEM form") from error
        if key is None:
            raise SetRefused(f"{name} is of another kind or size than RSA 2048 to 8192, P-256/384/521 or Ed25519")
        keys.append(key)
    return KeySet.of(keys, ignores_kid=True)


def unusable_accounts(policies: PolicySet, secrets: Secrets) -> list[str]:
    """One line for each service account whose key cannot be used: what ``serve`` refuses to start with. Blocking."""
    mistakes = []
    for tenant in policies.tenants.values():
        for account in tenant.service_accounts:
            try:
                read_account(tenant.name, account, secrets)
            except (SecretUnavailable, SetRefused) as error:
                mistakes.append(f"{account.where}: service account {account.name!r}: {error}")
    return mistakes
