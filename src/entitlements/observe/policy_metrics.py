"""Prometheus metrics of the policy: loads, lookups and problems."""

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily as Counter
from prometheus_client.core import GaugeMetricFamily as Gauge
from prometheus_client.registry import Collector

from entitlements.app.policy.active import Policies
from entitlements.observe.tallies import BUCKETS_S

PLACES: Final = ("file", "database")


class Following(Collector):
    """The counts that `Policies` has kept since the start of the process."""

    def __init__(self, policies: Policies) -> None:
        self._policies = policies

    def collect(self) -> Iterator[Counter | Gauge]:
        policies = self._policies
        loads = Counter("entitlements_policy_loads", "Policy loads, by source.", labels=["source"])
        for source, number in sorted(policies.loads.items()):
            loads.add_metric([source], number)
        yield loads
        yield Counter(
            "entitlements_policy_cache_hits",
            "Policy lookups in the database that found the known version.",
            value=policies.hits,
        )
        yield Counter(
            "entitlements_policy_cache_misses",
            "Policy lookups in the database that found another version.",
            value=policies.misses,
        )
        problems = Gauge(
            "entitlements_policy_problems",
            "1 while the policy from this source cannot be used.",
            labels=["source"],
        )
        for place in PLACES:
            problems.add_metric([place], place in policies.problems)
        yield problems


def watch(registry: CollectorRegistry, policies: Policies) -> None:
    """Register the metrics of the policy, and observe its lookups from now on."""
    registry.register(Following(policies))
    took = Histogram(
        "entitlements_policy_lookup_duration_seconds",
        "Duration of a policy lookup, including the load of another version.",
        registry=registry,
        buckets=BUCKETS_S,
    )
    policies.on_refresh = took.observe
