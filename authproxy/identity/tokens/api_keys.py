"""
Question 2 by API key: a caller that shows a key of Portero's own (``Authorization: Bearer ptr_...``).

It decides whose key it is; what the caller may be is the policy's alone (``api_keys``: name, groups, expiry), so that
whoever can write the file of digests can add a key for a name that the policy knows, and nothing more. The file is
looked at again every second while it is in use, in a thread; an answer is never older than ``STALE_S``, so that a key
that was revoked is refused within 5 s. A file that cannot be read lets nobody in (503).

Refuses to know files' layout (``api_key_file``), tokens and sessions.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Final

from authproxy.identity.secrets import Secrets, SecretUnavailable
from authproxy.identity.tokens.api_key_file import FILE, PREFIX, ApiKeyEntry, Reading, digest_of, is_key, read_file
from policies.decision import Challenge, Deny, Reason, Refusal
from policies.principal import API_KEY_PROVIDER, Principal
from policies.request import AccessRequest
from policies.tables import ApiKeySpec, PolicySet, TenantTable
from policies.tokens import Credential, read_authorization

FRESH_S: Final = 1.0
"""How long a reading is used without looking again."""
STALE_S: Final = 3.0
"""From when on the file is looked at first."""
READ_TIMEOUT_S: Final = 5.0
MAX_CALLERS: Final = 4096
"""Keys in use that are remembered with their callers, of all tenants together."""
RETRY_AFTER_S: Final = 2

_INVALID: Final = "invalid_token"
_NO_KEY: Final = "the token is not a usable API key"
_EXPIRED: Final = "the API key has expired"
_UNAVAILABLE: Final = "API keys cannot be read at the moment"

log = logging.getLogger(__name__)


class _File:
    """What is known of one tenant's file."""

    __slots__ = ("read_at", "reading", "said", "task")

    def __init__(self) -> None:
        self.reading: Reading | None = None
        """None: it could not be read."""
        self.read_at: float | None = None
        self.task: asyncio.Task[None] | None = None
        self.said = ""


class _Known:
    """A caller seen before, with the reading and the policy's list that made it one: compared by identity."""

    __slots__ = ("entries", "entry", "principal", "spec", "specs")

    def __init__(
        self,
        entry: ApiKeyEntry,
        entries: Mapping[bytes, ApiKeyEntry],
        spec: ApiKeySpec,
        specs: tuple[ApiKeySpec, ...],
        principal: Principal,
    ) -> None:
        self.entry = entry
        self.entries = entries
        self.spec = spec
        self.specs = specs
        self.principal = principal

    def holds(self, entries: Mapping[bytes, ApiKeyEntry], specs: tuple[ApiKeySpec, ...]) -> bool:
        """Whether a later reading and a later policy still say the same of this caller."""
        if specs is not self.specs:
            if _spec(specs, self.spec.name) != self.spec:
                return False
            self.specs = specs
        if entries is not self.entries:
            if entries.get(self.entry.digest) != self.entry:
                return False
            self.entries = entries
        return True


class ApiKeys:
    """
    An ``IdentitySource`` for requests whose ``Authorization`` is a key; one a process and event loop.

    Principals: provider ``api-key``, sub the name in the policy, ``sid`` the key's id (what ``is_live`` is asked),
    ``issued_at`` when the key was made.
    """

    def __init__(self, secrets: Secrets, *, clock: Callable[[], float] = time.time) -> None:
        self._secrets = secrets
        self._clock = clock
        self._files: dict[str, _File] = {}
        self._callers: OrderedDict[tuple[str, bytes], _Known] = OrderedDict()

    def known_now(self, tenant: TenantTable, request: AccessRequest, now: float) -> Principal | None:
        """Only who is known already, whatever the key is worth otherwise. Costs a few probes."""
        digest = request.credential_digest
        if digest is None:
            if request.authorization is None:
                return None
            digest = sha256(request.authorization).digest()
        slot = (tenant.name, digest)
        known = self._callers.get(slot)
        if known is None:
            return None
        reading = self._reading(tenant.name, now)
        if reading is None:
            return None
        if not known.holds(reading.by_digest, tenant.api_keys) or not _is_in_time(known.spec, now):
            del self._callers[slot]
            return None
        self._callers.move_to_end(slot)
        return known.principal

    def identify_now(self, tenant: TenantTable, request: AccessRequest, now: float) -> Principal | Refusal | None:
        """From what is at hand; None when the file has to be read (again) first."""
        known = self.known_now(tenant, request, now)
        if known is not None:
            return known
        if (refusal := _refuse_early(tenant, request)) is not None:
            return refusal
        file = self._files.get(tenant.name)
        if file is None or not _is_fresh(file, now):
            return None
        return self._judge(tenant, request, file, now)

    async def identify(self, tenant: TenantTable, request: AccessRequest, now: float) -> Principal | Refusal:
        """With whatever it takes, in bounded time. Never raises."""
        found = self.identify_now(tenant, request, now)
        if found is not None:
            return found
        file = await self._read_anew(tenant.name)
        return self._judge(tenant, request, file, now)

    def is_live(self, tenant: TenantTable, name: str, key_id: str, now: float) -> bool | None:
        """
        Whether a key of that name and id is still good; None when that is not at hand (it is being read then).

        For tokens that were given out for a key: they end with it.
        """
        reading = self._reading(tenant.name, now)
        if reading is None:
            file = self._files.get(tenant.name)
            if file is None or not _is_fresh(file, now):
                self._start(tenant.name)
            return None
        spec = _spec(tenant.api_keys, name)
        return spec is not None and _is_in_time(spec, now) and (name, key_id) in reading.names

    async def close(self) -> None:
        """Stop the readings that are under way."""
        tasks = [file.task for file in self._files.values() if file.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._files.clear()
        self._callers.clear()

    def _judge(self, tenant: TenantTable, request: AccessRequest, file: _File, now: float) -> Principal | Refusal:
        key = _key_of(request)
        if key is None:
            return _refuse(tenant, _NO_KEY)
        if file.reading is None:
            return Deny(Reason.KEYS_UNAVAILABLE, _UNAVAILABLE, retry_after_s=RETRY_AFTER_S, tenant=tenant.name)
        entries = file.reading.by_digest
        entry = entries.get(digest_of(key))
        # The whole key was hashed; its id is only compared so that a line cannot say another one.
        if entry is None or key[len(PREFIX) : len(PREFIX) + 12] != entry.id:
            return _refuse(tenant, _NO_KEY)
        spec = _spec(tenant.api_keys, entry.name)
        if spec is None:
            return _refuse(tenant, _NO_KEY)
        if not _is_in_time(spec, now):
            return _refuse(tenant, _EXPIRED)
        principal = Principal(API_KEY_PROVIDER, spec.name, groups=spec.groups, expires_at=spec.expires_at)
        principal.sid = entry.id
        principal.issued_at = entry.created_at
        digest = request.credential_digest or sha256(request.authorization or b"").digest()
        self._callers[(tenant.name, digest)] = _Known(entry, entries, spec, tenant.api_keys, principal)
        if len(self._callers) > MAX_CALLERS:
            self._callers.popitem(last=False)
        return principal

    def _reading(self, tenant: str, now: float) -> Reading | None:
        """What the file said, when that is not too old; starts to read it again, behind, when it is not new."""
        file = self._files.get(tenant)
        if file is None or file.read_at is None or not 0.0 <= now - file.read_at < STALE_S:
            return None
        if now - file.read_at >= FRESH_S and file.task is None:
            self._start(tenant)
        return file.reading

    async def _read_anew(self, tenant: str) -> _File:
        task = self._start(tenant)
        if task is not None:
            done, _ = await asyncio.wait((task,), timeout=READ_TIMEOUT_S)
            if not done or task.cancelled():
                return _File()
        return self._files.get(tenant) or _File()

    def _start(self, tenant: str) -> asyncio.Task[None] | None:
        """Read the file once for all who wait; None where no event loop runs."""
        file = self._files.get(tenant)
        if file is None:
            file = self._files[tenant] = _File()
        if file.task is None:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                return None
            file.task = loop.create_task(self._read(tenant, file))
            file.task.add_done_callback(lambda task: _ended(file, task))
        return file.task

    async def _read(self, tenant: str, file: _File) -> None:
        started_at = self._clock()  # what is read is as old as the moment before the reading
        said = ""
        try:
            file.reading = await asyncio.to_thread(read_file, self._secrets, tenant, file.reading)
        except SecretUnavailable as error:
            file.reading, said = None, str(error)
        else:
            if file.reading.broken:
                lines = ", ".join(map(str, file.reading.broken[:10]))
                said = f"lines that are no API key, or one twice, let nobody in: {lines}"
        file.read_at = started_at
        if said and said != file.said:
            log.warning("API keys of %s: %s", tenant, said)
        file.said = said


def _ended(file: _File, task: asyncio.Task[None]) -> None:
    file.task = None
    if not task.cancelled() and task.exception() is not None:
        file.reading = None
        log.error("API keys: unexpected failure", exc_info=task.exception())


def unusable_api_keys(policies: PolicySet, secrets: Secrets) -> list[str]:
    """One line for each tenant whose policy has API keys and whose file cannot be read. Blocking; for ``serve``."""
    mistakes = []
    for tenant in policies.tenants.values():
        if tenant.api_keys:
            try:
                secrets.read(tenant.name, FILE)
            except SecretUnavailable as error:
                mistakes.append(f"{tenant.api_keys[0].where}: api_keys: {error}")
    return mistakes


def _refuse_early(tenant: TenantTable, request: AccessRequest) -> Refusal | None:
    """What needs no file: a credential of another form, and a tenant without API keys."""
    key = _key_of(request)
    if key is None or not is_key(key) or not tenant.api_keys:
        return _refuse(tenant, _NO_KEY)
    return None


def _key_of(request: AccessRequest) -> str | None:
    """What is shown by the ``Bearer`` scheme; a key is bound to nothing, so it is no DPoP token."""
    shown = read_authorization(request.authorization)
    return shown.token if isinstance(shown, Credential) and shown.scheme == "Bearer" else None


def _refuse(tenant: TenantTable, detail: str) -> Challenge:
    return Challenge(Reason.CREDENTIAL_INVALID, _INVALID, detail, tenant.name)


def _spec(specs: tuple[ApiKeySpec, ...], name: str) -> ApiKeySpec | None:
    return next((spec for spec in specs if spec.name == name), None)


def _is_in_time(spec: ApiKeySpec, now: float) -> bool:
    return spec.expires_at is None or now < spec.expires_at


def _is_fresh(file: _File, now: float) -> bool:
    return file.read_at is not None and 0.0 <= now - file.read_at < FRESH_S
