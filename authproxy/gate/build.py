"""
Composes the gate from settings, for the app and for every later edge: each part is made once and handed to the next.

Raises what an operator has to mend before anything is served: policies that do not load, secrets that are not there.
"""

from __future__ import annotations

import resource
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlsplit, urlunsplit

from authproxy.activator import Activator
from authproxy.activator.cluster import Cluster, LocalCluster
from authproxy.activator.cluster_redis import RedisCluster
from authproxy.audit import Audit, get_logger
from authproxy.backends import Backends
from authproxy.callbacks.post import CallbackHttp
from authproxy.callbacks.sender import Callbacks
from authproxy.gate.build_checks import Doubts, unshared_sessions, unusable_secrets
from authproxy.gate.build_identity import IdentityParts, build_identity
from authproxy.gate.gate import Gate
from authproxy.gate.identify import Identifier
from authproxy.gate.live import LiveRegistry
from authproxy.gate.record import Recorder
from authproxy.gate.wakes import WakeBudget
from authproxy.identity.providers.accounts import unusable_accounts
from authproxy.identity.secrets import PLATFORM, Secrets
from authproxy.limits.concurrency import ConcurrencyLimits
from authproxy.limits.memory import MemoryStore
from authproxy.limits.redis import RedisStore
from authproxy.limits.store import LimitStore
from authproxy.metrics import Metrics
from authproxy.policy_folder import FolderUnreadable, PolicyFolder
from authproxy.results.memory import MemoryResults
from authproxy.results.redis import RedisResults
from authproxy.results.store import ResultStore
from authproxy.settings import Settings
from authproxy.upstream.pool import Pool
from authproxy.upstream.spool import MAX_FILES
from authproxy.version import VERSION
from policies.errors import SettingsError
from policies.held_bytes import HeldBytes
from policies.tables import PolicySet

_SPARE_DESCRIPTORS: Final = 256
"""For listeners, files, providers, Redis and the platform's API, beside clients and functions."""
KONG_CONNECTIONS: Final = 4096
"""Of Kong to the plugins' sockets, at once."""


@dataclass(slots=True)
class Parts:
    """What one process is made of."""

    gate: Gate
    folder: PolicyFolder
    pool: Pool
    activator: Activator
    cluster: Cluster
    results: ResultStore
    callbacks: Callbacks
    backends: Backends
    identity: IdentityParts
    identifier: Identifier
    store: LimitStore
    live: LiveRegistry
    metrics: Metrics
    audit: Audit | None

    async def close(self) -> None:
        """End all parts in the order of dependence, the audit last; one that fails keeps no other from ending."""
        async with AsyncExitStack() as ends:
            if self.audit is not None:
                ends.callback(self.audit.close)
            for part in (
                self.backends,
                self.store,
                self.identity,
                self.results,
                self.cluster,
                self.pool,
                self.callbacks,
                self.activator,
                self.live,
            ):
                ends.push_async_callback(part.close)


async def build_parts(settings: Settings, edge: str = "proxy") -> Parts:
    """
    Make every part and load the policies.

    Raises: PolicyError, SettingsError with every mistake of secrets and addresses at once.
    """
    _check_descriptors(settings, KONG_CONNECTIONS if edge == "kong" else 0)
    metrics = Metrics(VERSION)
    folder = PolicyFolder(
        settings.policies, metrics, poll_s=settings.reload_poll, allow_loopback_http=settings.allow_loopback_http
    )
    try:
        policies = folder.load_first()
    except FolderUnreadable as error:
        raise SettingsError([f"policies: {error}"]) from None
    secrets = Secrets(settings.secrets)
    backends = Backends(lambda name: secrets.read(PLATFORM, name))

    redis_url = _redis_url(settings)

    def unusable(candidate: PolicySet) -> list[str]:
        return [
            *unusable_accounts(candidate, secrets),
            *unusable_secrets(candidate, secrets),
            *unshared_sessions(candidate, has_redis=redis_url is not None),
        ]

    def unreachable(candidate: PolicySet) -> list[str]:
        """What keeps a policy set's backends from being used; they are in place when nothing does."""
        try:
            backends.replace(candidate.backends)
        except SettingsError as error:
            return error.mistakes
        return []

    if mistakes := unusable(policies) + unreachable(policies):
        raise SettingsError(mistakes)
    folder.before_swap(unusable, is_slow=True)
    folder.before_swap(unreachable)

    identity = build_identity(settings, secrets, metrics, redis_url)
    doubts = Doubts(secrets, identity.keys, has_redis=redis_url is not None)

    def doubtful(candidate: PolicySet) -> list[str]:
        """Said in the log; no mistakes."""
        doubts.say(candidate, time.time())
        return []

    doubtful(policies)
    folder.before_swap(doubtful, is_slow=True)
    audit = _open_audit(settings, metrics)
    store = await _open_store(settings, metrics, redis_url)
    await identity.start()
    live = LiveRegistry()
    live.start()
    metrics.live_exchanges.read(lambda: len(live))
    identity.revocations.on_change(live.recheck_soon)
    identifier = Identifier(identity.callers, store)
    cluster, results = _open_shared(settings, metrics, redis_url)
    await cluster.start()
    callbacks = Callbacks(
        CallbackHttp(allow_loopback_http=settings.allow_loopback_http),
        lambda tenant, outcome: metrics.callbacks_total.add((tenant, outcome)),
    )
    activator = Activator(
        backends,
        spend_wake=WakeBudget(store, time.time).spend,
        metrics=metrics,
        cluster=cluster,
        held_bytes=HeldBytes(settings.max_held_bytes),
        max_held=settings.max_held,
    )
    gate = Gate(
        edge=edge,
        folder=folder,
        identifier=identifier,
        store=store,
        concurrency=ConcurrencyLimits(replicas=(lambda: store.replicas) if isinstance(store, RedisStore) else None),
        activator=activator,
        backends=backends,
        recorder=Recorder(edge, metrics, audit),
        live=live,
        assertion=identity.assertions.block,
        counts_late=edge == "kong",
    )
    pool = Pool(max_total=settings.max_upstream_connections, metrics=metrics)
    return Parts(
        gate,
        folder,
        pool,
        activator,
        cluster,
        results,
        callbacks,
        backends,
        identity,
        identifier,
        store,
        live,
        metrics,
        audit,
    )


def _open_audit(settings: Settings, metrics: Metrics) -> Audit | None:
    if settings.audit == "off":
        return None
    try:
        return Audit(
            settings.audit,
            allow_sample_ratio=settings.audit_allows,
            on_drop=lambda lines: metrics.audit_lines_dropped_total.add((), lines),
        )
    except OSError as error:
        raise SettingsError([f"audit: {settings.audit} cannot be opened ({error.strerror})"]) from None


def _redis_url(settings: Settings) -> str | None:
    """The URL with its password, which is a file. Raises: SettingsError."""
    url = settings.redis
    if url is not None and settings.redis_password is not None:
        try:
            password = settings.redis_password.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise SettingsError([f"redis_password: {settings.redis_password}: {error.strerror}"]) from None
        except UnicodeDecodeError:
            raise SettingsError([f"redis_password: {settings.redis_password} is not UTF-8 text"]) from None
        parts = urlsplit(url)
        user = quote(parts.username or "", safe="")
        place = parts.netloc.rpartition("@")[2]
        url = urlunsplit(parts._replace(netloc=f"{user}:{quote(password, safe='')}@{place}"))
    return url


async def _open_store(settings: Settings, metrics: Metrics, url: str | None) -> LimitStore:
    if url is None:
        return MemoryStore()
    try:
        store = RedisStore(url, metrics=metrics, is_cluster=settings.redis_cluster)
    except ValueError as error:
        raise SettingsError([f"redis: {error}"]) from None
    await store.start()
    return store


def _open_shared(settings: Settings, metrics: Metrics, url: str | None) -> tuple[Cluster, ResultStore]:
    """What Porteros agree on while functions wake, and where results of deferred requests are kept."""
    results: ResultStore
    cluster: Cluster
    if url is None:
        cluster, results = LocalCluster(), MemoryResults()
    else:
        cluster = RedisCluster(url, is_cluster=settings.redis_cluster, on_failure=metrics.cluster_failures_total.add)
        results = RedisResults(url, is_cluster=settings.redis_cluster)
    metrics.results.read(lambda: results.sizes().pending, ("pending",))
    metrics.results.read(lambda: results.sizes().done, ("done",))
    metrics.result_bytes.read(lambda: results.sizes().bytes)
    return cluster, results


def _check_descriptors(settings: Settings, more: int) -> None:
    """Raise the soft limit of open files to what the settings may need; say so when the hard limit is lower."""
    needed = settings.max_connections + settings.max_upstream_connections + MAX_FILES + _SPARE_DESCRIPTORS + more
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= needed:
        return
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))
    if allowed < needed:
        get_logger("app").warning(
            "fewer files may be open than the settings can need",
            needed=needed,
            allowed=allowed,
            remedy="raise the limit (ulimit -Hn) or lower --max-connections and --max-upstream-connections",
        )
