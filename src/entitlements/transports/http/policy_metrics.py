"""What Prometheus is told of the policy: how it came here, and whether it is still the one."""

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily as Counter
from prometheus_client.core import GaugeMetricFamily as Gauge
from prometheus_client.registry import Collector

from entitlements.app.policies import Policies
from entitlements.transports.http.tallies import BUCKETS_S

PLACES: Final = ("file", "database")


class Following(Collector):
    """Counted where it happens, from the start of the process on."""

    def __init__(self, policies: Policies) -> None:
        self._policies = policies

    def collect(self) -> Iterator[Counter | Gauge]:
        policies = self._policies
        loads = Counter(
            "entitlements_policy_loads", "Policies taken over, by source.", labels=["source"]
        )
        for source, number in sorted(policies.loads.items()):
            loads.add_metric([source], number)
        yield loads
        yield Counter(
            "entitlements_policy_cache_hits",
            "Looks at the database that found the version known.",
            value=policies.hits,
        )
        yield Counter(
            "entitlements_policy_cache_misses",
            "Looks at the database that found another version.",
            value=policies.misses,
        )
        problems = Gauge(
            "entitlements_policy_problems",
            "1 while the policy there cannot be used.",
            labels=["source"],
        )
        for place in PLACES:
            problems.add_metric([place], place in policies.problems)
        yield problems


def watch(registry: CollectorRegistry, policies: Policies) -> None:
    """From now on the registry tells of the policy, and of the looks to come."""
    registry.register(Following(policies))
    took = Histogram(
        "entitlements_policy_lookup_duration_seconds",
        "How long a look at the policy took, loading another one included.",
        registry=registry,
        buckets=BUCKETS_S,
    )
    policies.look_took = took.observe
