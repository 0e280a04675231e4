"""
Every metric of Portero, declared in one place.

The hot path adds to plain Python numbers (about 50 ns through a bound cell); a ``prometheus_client`` collector reads
them when somebody asks for ``/metrics``. Labels come from closed sets: edges, tenants of the policy set, reasons of the
closed list. A path, a subject or a token is never a label: whoever chooses label values chooses our memory.

One event loop writes; nothing here is locked. This module refuses to know what the numbers mean to their writers.

Longer than other modules: all metrics are declared in one place, so that the page that lists them can be held to it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
"""Of what ``Metrics.render`` returns (Prometheus text format)."""

PREFIX: Final = "portero_"

Labels = tuple[str, ...]

REQUEST_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
HOLD_BUCKETS_S: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0)
"""Up to 120 s: nobody lets a caller wait longer for a function to wake."""


class Family:
    """What all kinds share: a name under ``portero_``, a sentence of help, the names of its labels."""

    kind = ""

    def __init__(self, name: str, help_text: str, labels: Labels = ()) -> None:
        self.name = PREFIX + name
        self.help = help_text
        self.labels = labels

    def collect(self) -> Metric:
        """Today's numbers as prometheus_client wants them."""
        raise NotImplementedError


class Counter(Family):
    """Only ever grows. ``labels`` are values in the order of the family's label names."""

    kind = "counter"

    def __init__(self, name: str, help_text: str, labels: Labels = ()) -> None:
        super().__init__(name, help_text, labels)
        self._cells: dict[Labels, list[float]] = {}
        if not labels:
            self._cells[()] = [0.0]

    def add(self, labels: Labels = (), amount: float = 1.0) -> None:
        """``amount`` is never negative."""
        self.cell(labels)[0] += amount

    def cell(self, labels: Labels = ()) -> list[float]:
        """The one-element list behind ``labels``; whoever counts often binds it once and does ``cell[0] += 1``."""
        cell = self._cells.get(labels)
        if cell is None:
            cell = self._cells[labels] = [0.0]
        return cell

    def value(self, labels: Labels = ()) -> float:
        cell = self._cells.get(labels)
        return cell[0] if cell is not None else 0.0

    def total(self) -> float:
        """The sum over all label values."""
        return sum(cell[0] for cell in self._cells.values())

    def collect(self) -> Metric:
        family = CounterMetricFamily(self.name, self.help, labels=self.labels)
        for labels, cell in list(self._cells.items()):
            family.add_metric(labels, cell[0])
        return family


class Gauge(Family):
    """Goes up and down. ``read`` gives the value at the moment somebody asks, for what is counted elsewhere anyway."""

    kind = "gauge"

    def __init__(self, name: str, help_text: str, labels: Labels = ()) -> None:
        super().__init__(name, help_text, labels)
        self._cells: dict[Labels, list[float]] = {}
        self._readers: dict[Labels, Callable[[], float]] = {}
        self._read_all: Callable[[], Iterable[tuple[Labels, float]]] | None = None
        if not labels:
            self._cells[()] = [0.0]

    def set(self, value: float, labels: Labels = ()) -> None:
        self.cell(labels)[0] = value

    def add(self, labels: Labels = (), amount: float = 1.0) -> None:
        """``amount`` may be negative."""
        self.cell(labels)[0] += amount

    def set_only(self, labels: Labels, value: float = 1.0) -> None:
        """Set this value and forget all others: for facts such as the one revision in force."""
        self._cells = {labels: [value]}

    def read(self, callback: Callable[[], float], labels: Labels = ()) -> None:
        """From now on ``callback`` is asked at each scrape; it must be quick and must not raise."""
        self._readers[labels] = callback

    def read_all(self, callback: Callable[[], Iterable[tuple[Labels, float]]]) -> None:
        """From now on ``callback`` names all label values that there are, at each scrape; as ``read``."""
        self._read_all = callback

    def cell(self, labels: Labels = ()) -> list[float]:
        cell = self._cells.get(labels)
        if cell is None:
            cell = self._cells[labels] = [0.0]
        return cell

    def value(self, labels: Labels = ()) -> float:
        reader = self._readers.get(labels)
        if reader is not None:
            return reader()
        cell = self._cells.get(labels)
        return cell[0] if cell is not None else 0.0

    def collect(self) -> Metric:
        family = GaugeMetricFamily(self.name, self.help, labels=self.labels)
        for labels in dict.fromkeys([*self._cells, *self._readers]):
            family.add_metric(labels, self.value(labels))
        for labels, value in self._read_all() if self._read_all is not None else ():
            family.add_metric(labels, value)
        return family


class HistogramCell:
    """One label set of a histogram: counts per bucket (not cumulated) and the sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Histogram(Family):
    """How values are spread. ``buckets`` are upper bounds (inclusive), ascending, without +Inf."""

    kind = "histogram"

    def __init__(
        self, name: str, help_text: str, labels: Labels = (), buckets: tuple[float, ...] = REQUEST_BUCKETS_S
    ) -> None:
        super().__init__(name, help_text, labels)
        self.buckets = buckets
        self._cells: dict[Labels, HistogramCell] = {}

    def observe(self, value: float, labels: Labels = ()) -> None:
        self.cell(labels).observe(value)

    def cell(self, labels: Labels = ()) -> HistogramCell:
        cell = self._cells.get(labels)
        if cell is None:
            cell = self._cells[labels] = HistogramCell(self.buckets)
        return cell

    def count(self, labels: Labels = ()) -> int:
        cell = self._cells.get(labels)
        return sum(cell.counts) if cell is not None else 0

    def collect(self) -> Metric:
        family = HistogramMetricFamily(self.name, self.help, labels=self.labels)
        bounds = [*map(str, self.buckets), "+Inf"]
        for labels, cell in list(self._cells.items()):
            family.add_metric(labels, list(zip(bounds, accumulate(cell.counts), strict=True)), cell.total)
        return family


class Metrics:
    """One attribute a family. Made once by ``app`` and handed down; tests make their own."""

    def __init__(self, version: str = "") -> None:
        self._declare_decisions()
        self._declare_cold_starts()
        self._declare_deferred()
        self._declare_connections()
        self._declare_kong()
        self._declare_stores()
        self._declare_identity()
        self._declare_policy()
        if version:
            self.build_info.set_only((version,))
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Export(self))
        ProcessCollector(registry=self._registry)

    def _declare_decisions(self) -> None:
        self.decisions_total = Counter("decisions_total", "Requests decided.", ("edge", "tenant", "outcome", "reason"))
        self.request_duration_seconds = Histogram(
            "request_duration_seconds", "From a request's head to the end of its answer.", ("edge", "tenant")
        )
        self.shadow_refusals_total = Counter(
            "shadow_refusals_total", "Refusals that shadow mode let through.", ("tenant", "stage")
        )
        self.audit_lines_dropped_total = Counter(
            "audit_lines_dropped_total", "Audit lines that their reader was too slow for."
        )

    def _declare_cold_starts(self) -> None:
        tenant = ("tenant",)
        self.wakes_total = Counter("wakes_total", "Wake calls sent to a backend.", tenant)
        self.wake_results_total = Counter("wake_results_total", "How wakes ended.", ("tenant", "outcome"))
        self.held_requests = Gauge(
            "held_requests", "Requests held now, until their function is awake and has room.", tenant
        )
        self.hold_duration_seconds = Histogram(
            "hold_duration_seconds", "How long requests were held, however that ended.", tenant, HOLD_BUCKETS_S
        )
        self.cold_start_seconds = Histogram(
            "cold_start_seconds", "From a wake call to the first ready replica.", tenant, HOLD_BUCKETS_S
        )
        self.held_by_function = Gauge(
            "held_requests_by_function",
            "Requests held now, of the functions that any wait for.",
            ("tenant", "function"),
        )
        self.held_body_bytes = Gauge("held_body_bytes", "Bytes of bodies kept for requests that are held, or were.")
        self.holds_released_total = Counter("holds_released_total", "Held requests that were let in.", tenant)
        self.holds_abandoned_total = Counter(
            "holds_abandoned_total", "Held requests whose client left before the function was awake.", tenant
        )
        self.holds_refused_total = Counter(
            "holds_refused_total", "Requests that could not be held, or not for long enough.", ("tenant", "reason")
        )
        self.retries_total = Counter(
            "retries_total", "Second attempts at a function that was not reached.", ("tenant", "outcome")
        )
        self.cluster_failures_total = Counter(
            "cluster_failures_total", "Times that what Porteros agree on in Redis could not be asked or told."
        )

    def _declare_deferred(self) -> None:
        self.results = Gauge("results", "Results of deferred requests that this Portero keeps.", ("state",))
        self.result_bytes = Gauge("result_bytes", "Bytes of those results.")
        self.results_total = Counter(
            "results_total", "Deferred requests by what became of them.", ("tenant", "outcome")
        )
        self.callbacks_total = Counter("callbacks_total", "Deliveries of results.", ("tenant", "outcome"))

    def _declare_kong(self) -> None:
        self.kong_events_total = Counter(
            "kong_events_total", "Events of Kong's plugins by what became of them.", ("plugin", "outcome")
        )
        self.kong_pdk_calls_total = Counter("kong_pdk_calls_total", "Calls that plugins made to Kong.", ("plugin",))
        self.kong_connections = Gauge("kong_connections", "Open connections of Kong's workers.")
        self.kong_passes = Gauge("kong_passes", "Requests that wait for Kong to bring them to the internal listener.")
        self.kong_passes_refused_total = Counter(
            "kong_passes_refused_total", "Requests at the internal listener without a pass that is theirs."
        )

    def _declare_connections(self) -> None:
        self.live_exchanges = Gauge("live_exchanges", "Requests being forwarded or streamed now.")
        self.client_connections = Gauge("client_connections", "Open connections of clients.")
        self.upstream_connections = Gauge("upstream_connections", "Open connections to functions.", ("state",))
        self.upstream_dials_total = Counter("upstream_dials_total", "Connections dialled to functions.", ("outcome",))
        self.upstream_retries_total = Counter(
            "upstream_retries_total", "Requests sent once more on a fresh connection because a kept one had died."
        )

    def _declare_stores(self) -> None:
        self.limit_store_commands_total = Counter(
            "limit_store_commands_total", "Commands sent to the limit store; one carries many requests' checks."
        )
        self.limit_store_failures_total = Counter(
            "limit_store_failures_total", "Commands that the limit store failed or did not answer in time."
        )
        self.limit_store_is_degraded = Gauge(
            "limit_store_is_degraded", "1 while limits are held by this replica's share instead of the store."
        )
        self.jwks_fetches_total = Counter(
            "jwks_fetches_total", "Fetches of signing keys.", ("tenant", "provider", "outcome")
        )
        self.token_cache_total = Counter("token_cache_total", "Look-ups in the token cache.", ("outcome",))

    def _declare_identity(self) -> None:
        outcome = ("tenant", "outcome")
        self.logins_total = Counter("logins_total", "Logins by how they ended.", ("tenant", "provider", "outcome"))
        self.logouts_total = Counter("logouts_total", "Logouts by who asked for them.", ("tenant", "kind"))
        self.sessions_total = Counter("sessions_total", "Sessions begun, ended and refused.", outcome)
        self.session_refreshes_total = Counter("session_refreshes_total", "Refreshes of sessions.", outcome)
        self.revocations_total = Counter("revocations_total", "Logouts that this replica came to know.", ("kind",))
        self.revocations_is_behind = Gauge(
            "revocations_is_behind", "1 while logouts at other replicas cannot be read from the store."
        )
        self.introspections_total = Counter(
            "introspections_total", "Opaque tokens asked about or known.", ("tenant", "provider", "outcome")
        )
        self.provider_calls_total = Counter(
            "provider_calls_total", "Requests to providers.", ("tenant", "provider", "endpoint", "outcome")
        )
        self.tokens_exchanged_total = Counter("tokens_exchanged_total", "Token exchanges.", outcome)

    def _declare_policy(self) -> None:
        self.policy_last_reload_successful = Gauge(
            "policy_last_reload_successful", "1 if the policy folder as it stands now is in force."
        )
        self.policy_last_reload_success_timestamp_seconds = Gauge(
            "policy_last_reload_success_timestamp_seconds", "When the policy in force was loaded."
        )
        self.policy_reloads_total = Counter("policy_reloads_total", "Reloads of the policy folder.", ("outcome",))
        self.policy_info = Gauge("policy_info", "The revision in force.", ("revision",))
        self.policy_rules = Gauge("policy_rules", "Rules in force, over all tenants.")
        self.build_info = Gauge("build_info", "The version that runs.", ("version",))

    @property
    def families(self) -> tuple[Family, ...]:
        """All of them, in the order declared; docs/metrics.md is tested against it."""
        return tuple(value for value in vars(self).values() if isinstance(value, Family))

    def render(self) -> bytes:
        """Everything in Prometheus' text format, for ``CONTENT_TYPE``; the process' own figures with it."""
        return generate_latest(self._registry)


class _Export(Collector):
    """What prometheus_client asks at each scrape."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        for family in self._metrics.families:
            yield family.collect()
