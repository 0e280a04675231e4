"""
What keeps a policy set from being served by this process, and what its operator should hear of one that can be.

Policies name secrets, keys and stores without knowing whether they are there; this module looks, before a set is taken
up. It refuses to know how any of them is used. Blocking: small local files.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from authproxy.audit import get_logger
from authproxy.identity.providers.client_auth import flaw_of_secret
from authproxy.identity.secrets import Secrets, SecretUnavailable
from authproxy.identity.tokens.api_key_file import FILE, read_file
from authproxy.identity.tokens.api_keys import unusable_api_keys
from authproxy.identity.tokens.keyring import KeyFolder
from policies.tables import ClientSpec, PolicySet, TenantTable

_NO_KEYS: Final = (
    "there are no keys: sessions end with this process and are unknown to other replicas, "
    "and functions get no signed assertion"
)
_NO_SIGNING_KEY: Final = "no key in the folder of keys signs: functions get no assertion, and no token is exchanged"


def unusable_secrets(policies: PolicySet, secrets: Secrets) -> list[str]:
    """One line for each secret of logins, introspection and API keys that cannot be used."""
    made = f"portero token issue --api-key --keys SECRETS/TENANT/{FILE} makes it"
    mistakes = [f"{mistake} ({made})" for mistake in unusable_api_keys(policies, secrets)]
    for tenant in policies.tenants.values():
        for provider in tenant.providers:
            used = [spec.client for spec in (provider.login, provider.introspection) if spec is not None]
            flaws = [_flaw(tenant, client, secrets) for client in used]
            where = f"{provider.where}: provider {provider.name!r}"
            mistakes += [f"{where}: {flaw}" for flaw in dict.fromkeys(flaws) if flaw is not None]
    return mistakes


def _flaw(tenant: TenantTable, client: ClientSpec, secrets: Secrets) -> str | None:
    if client.secret is None:
        return None
    try:
        content = secrets.read(tenant.name, client.secret)
    except SecretUnavailable as error:
        return str(error)
    flaw = flaw_of_secret(client, content)
    return None if flaw is None else f"secret {tenant.name}/{client.secret}: {flaw}"


def unshared_sessions(policies: PolicySet, *, has_redis: bool) -> list[str]:
    """One line for each tenant whose sessions are to lie in a Redis that this process does not have."""
    if has_redis:
        return []
    return [
        f"{tenant.where}: sessions.store: redis needs a Redis: give --redis, or write store: cookie"
        for tenant in policies.tenants.values()
        if tenant.sessions.store == "redis"
    ]


def _shares_concurrency(tenant: TenantTable) -> bool:
    table = tenant.functions
    named = [*table.exact.values(), *(spec for _, specs in table.prefixes for spec in specs.values())]
    return any(spec.is_concurrency_shared for spec in named)


class Doubts:
    """Says in the log what is served all the same and is hardly meant; each sentence once while it holds."""

    def __init__(self, secrets: Secrets, keys: KeyFolder, *, has_redis: bool = False) -> None:
        self._secrets = secrets
        self._has_redis = has_redis
        self._is_ephemeral = keys.is_ephemeral
        self._is_signing = keys.key_set() is not None
        self._said: frozenset[str] = frozenset()
        self._log = get_logger("identity")

    def say(self, policies: PolicySet, now: float) -> None:
        """``now`` in Unix seconds."""
        found = dict(self._found(policies, now))
        for sentence, remedy in found.items():
            if sentence not in self._said:
                self._log.warning(sentence, remedy=remedy)
        self._said = frozenset(found)

    def _found(self, policies: PolicySet, now: float) -> Iterator[tuple[str, str]]:
        """What is wrong, and what to do about it."""
        has_logins = any(provider.login for tenant in policies.tenants.values() for provider in tenant.providers)
        if self._is_ephemeral and has_logins:
            yield _NO_KEYS, "portero keys new DIR, then --keys DIR"
        elif not self._is_ephemeral and not self._is_signing:
            yield _NO_SIGNING_KEY, "portero keys rotate DIR"
        for tenant in policies.tenants.values():
            if tenant.api_keys:
                yield from self._of_api_keys(tenant, now)
            if not self._has_redis and _shares_concurrency(tenant):
                yield f"{tenant.where}: concurrency_scope: cluster counts this Portero alone", "--redis URL"

    def _of_api_keys(self, tenant: TenantTable, now: float) -> Iterator[tuple[str, str]]:
        try:
            reading = read_file(self._secrets, tenant.name, None)
        except SecretUnavailable:
            return  # a mistake, said as such
        made = {name for name, _ in reading.names}
        for spec in tenant.api_keys:
            if spec.expires_at is not None and spec.expires_at <= now:
                day = datetime.fromtimestamp(spec.expires_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
                yield f"{spec.where}: the API key {spec.name!r} expired at {day}", "a later expires, or no entry"
            elif spec.name not in made:
                yield (
                    f"{spec.where}: nobody has the API key {spec.name!r}: {tenant.name}/{FILE} has no key of this name",
                    "portero token issue --api-key",
                )
        for name in sorted(made - {spec.name for spec in tenant.api_keys}):
            yield (
                f"{tenant.name}/{FILE} has a key of the name {name!r}, which {tenant.where} does not: it is refused",
                "an entry under api_keys, or portero token revoke --name",
            )
        if reading.broken:
            lines = ", ".join(map(str, reading.broken[:10]))
            yield (
                f"{tenant.name}/{FILE}: lines that are no API key, or one twice, let nobody in: {lines}",
                "portero token list",
            )
