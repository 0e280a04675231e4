"""Metrics: what is counted comes out as Prometheus reads it."""

from __future__ import annotations

import math

import pytest
from prometheus_client.parser import text_string_to_metric_families

from authproxy.metrics import CONTENT_TYPE, HOLD_BUCKETS_S, Counter, Gauge, Histogram, Metrics


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample that Prometheus' own parser finds in what we render."""
    families = text_string_to_metric_families(metrics.render().decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def labelled(**labels: str) -> frozenset[tuple[str, str]]:
    return frozenset(labels.items())


def test_a_counter_comes_out_with_its_labels() -> None:
    """What was added under labels is read back under the same labels."""
    metrics = Metrics()
    metrics.decisions_total.add(("public", "acme", "deny", "no-rule-allows"))
    metrics.decisions_total.add(("public", "acme", "deny", "no-rule-allows"), 2)
    key = ("portero_decisions_total", labelled(edge="public", tenant="acme", outcome="deny", reason="no-rule-allows"))
    assert samples(metrics)[key] == 3


def test_a_bound_cell_counts_for_its_family() -> None:
    """The hot path binds a cell once; what it adds there is the family's."""
    metrics = Metrics()
    cell = metrics.token_cache_total.cell(("hit",))
    cell[0] += 1
    cell[0] += 1
    assert metrics.token_cache_total.value(("hit",)) == 2
    assert metrics.token_cache_total.cell(("hit",)) is cell
    assert samples(metrics)["portero_token_cache_total", labelled(outcome="hit")] == 2


def test_a_family_without_labels_is_there_from_the_start() -> None:
    """An alert on a counter that never moved must find it at 0, not absent."""
    found = samples(Metrics())
    assert found["portero_audit_lines_dropped_total", frozenset()] == 0
    assert found["portero_limit_store_is_degraded", frozenset()] == 0


def test_a_gauge_may_be_read_when_asked() -> None:
    """A read callback is asked at each scrape."""
    metrics = Metrics()
    live = [1, 2, 3]
    metrics.live_exchanges.read(lambda: len(live))
    assert samples(metrics)["portero_live_exchanges", frozenset()] == 3
    live.clear()
    assert samples(metrics)["portero_live_exchanges", frozenset()] == 0


def test_a_gauge_goes_down_again() -> None:
    """Held requests return to 0."""
    gauge = Gauge("held", "x", ("tenant",))
    gauge.add(("acme",))
    gauge.add(("acme",), -1)
    assert gauge.value(("acme",)) == 0


def test_only_one_revision_is_in_force() -> None:
    """``set_only`` forgets the revision before."""
    metrics = Metrics(version="0.1.0")
    metrics.policy_info.set_only(("aaa",))
    metrics.policy_info.set_only(("bbb",))
    found = samples(metrics)
    assert found["portero_policy_info", labelled(revision="bbb")] == 1
    assert ("portero_policy_info", labelled(revision="aaa")) not in found
    assert found["portero_build_info", labelled(version="0.1.0")] == 1


def test_a_histogram_is_cumulative_and_has_its_sum() -> None:
    """Buckets include their bound, cumulate up to +Inf and agree with count and sum."""
    metrics = Metrics()
    for value in (0.05, 0.06, 119.0, 500.0):
        metrics.hold_duration_seconds.observe(value, ("acme",))
    found = samples(metrics)
    name = "portero_hold_duration_seconds"
    assert found[name + "_bucket", labelled(tenant="acme", le="0.05")] == 1
    assert found[name + "_bucket", labelled(tenant="acme", le="0.1")] == 2
    assert found[name + "_bucket", labelled(tenant="acme", le="120.0")] == 3
    assert found[name + "_bucket", labelled(tenant="acme", le="+Inf")] == 4
    assert found[name + "_count", labelled(tenant="acme")] == 4
    assert math.isclose(found[name + "_sum", labelled(tenant="acme")], 619.11)
    assert HOLD_BUCKETS_S[-1] == 120


def test_hostile_label_values_stay_one_value() -> None:
    """A quote or a newline in a label ends neither the label nor the line."""
    metrics = Metrics()
    tenant = 'a"} 9\nportero_forged 1\\'
    metrics.wakes_total.add((tenant,))
    found = samples(metrics)
    assert found["portero_wakes_total", labelled(tenant=tenant)] == 1
    assert ("portero_forged", frozenset()) not in found


@pytest.mark.parametrize("family", Metrics().families, ids=lambda f: f.name)
def test_names_follow_the_conventions(family: Counter | Gauge | Histogram) -> None:
    """Prefix, base unit, ``_total`` on counters and on nothing else; no label an outsider could fill."""
    assert family.name.startswith("portero_")
    assert family.name.endswith("_total") == (family.kind == "counter")
    assert "milli" not in family.name
    assert family.help.endswith(".")
    # Functions that the platform has confirmed, and only while somebody waits for them.
    outsiders = set() if family.name == "portero_held_requests_by_function" else {"function"}
    assert not ({"path", "subject", "token", "client_ip", "host"} | outsiders) & set(family.labels)


def test_every_family_is_rendered() -> None:
    """Help and type of each family stand in the text, and the content type is Prometheus' own."""
    metrics = Metrics()
    text = metrics.render().decode()
    for family in metrics.families:
        assert f"# HELP {family.name} {family.help}" in text
    assert CONTENT_TYPE.startswith("text/plain; version=")
    assert "process_resident_memory_bytes" in text
