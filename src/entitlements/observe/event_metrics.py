"""Prometheus metrics of the event consumer."""

from collections import Counter as Tally
from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client.core import CounterMetricFamily as Counter
from prometheus_client.core import GaugeMetricFamily as Gauge
from prometheus_client.registry import Collector

from entitlements.app.engine import ProcessStats
from entitlements.app.inbox.conflicts import Conflicts
from entitlements.app.inbox.intake import EventProcessor
from entitlements.app.inbox.status import State, Status

REPEATS: Final = ("repeated", "duplicate")


class Events(Collector):
    """The state of this process's consumer and its results. A scrape does no I/O."""

    def __init__(self, intake: EventProcessor, conflicts: Conflicts, watch: ProcessStats) -> None:
        self._tallies = intake.tallies
        self._conflicts = conflicts
        self._watch = watch

    def collect(self) -> Iterator[Gauge | Counter]:
        consumer = self._watch.consumer
        yield from _standing(consumer.state if consumer is not None else None)
        yield from self._counted()
        waiting = Gauge(
            "entitlements_dead_letters_open",
            "Open dead letters, counted up to 1000.",
        )
        if self._watch.open_letters is not None:
            waiting.add_metric([], self._watch.open_letters)
        yield waiting

    def _counted(self) -> Iterator[Counter]:
        tallies = self._tallies
        yield _by(
            "entitlements_consumer_events",
            "Processed events, by outcome.",
            ("resource_type", "outcome"),
            tallies.events,
        )
        repeats: Tally[tuple[str, ...]] = Tally()
        for (resource_type, outcome), count in tallies.events.items():
            if outcome in REPEATS:
                repeats[resource_type,] += count
        yield _by(
            "entitlements_consumer_duplicates",
            "Events that were delivered again, and jobs that another event had reported.",
            ("resource_type",),
            repeats,
        )
        yield _by(
            "entitlements_consumer_dead_letters",
            "Dead-lettered events.",
            ("resource_type", "reason"),
            tallies.rejected,
        )
        yield _by(
            "entitlements_consumer_errors",
            "Attempts to process an event that failed with an internal error.",
            ("resource_type",),
            Tally({(name,): count for name, count in tallies.errors.items()}),
        )
        yield _by(
            "entitlements_consumption_conflicts",
            "Jobs reported again with another quantity, by events or requests. Review each one.",
            ("metric",),
            Tally({(name,): count for name, count in self._conflicts.by_metric.items()}),
        )


def _by(
    name: str, says: str, labels: tuple[str, ...], counts: Mapping[tuple[str, ...], int]
) -> Counter:
    family = Counter(name, says, labels=labels)
    for values, count in counts.items():
        family.add_metric(values, count)
    return family


def _standing(state: State | None) -> Iterator[Gauge | Counter]:
    lag = Gauge(
        "entitlements_consumer_lag",
        "Events of a partition of this process that are not processed yet.",
        labels=["topic", "partition"],
    )
    running = Gauge("entitlements_consumer_running", "1 while the consumer runs, else 0.")
    restarts = Counter("entitlements_consumer_restarts", "Restarts of the consumer.")
    if state is not None:
        running.add_metric([], int(state.status is Status.RUNNING))
        restarts.add_metric([], state.restarts)
        for one in state.partitions:
            if one.lag is not None:
                lag.add_metric([one.topic, str(one.partition)], one.lag)
    yield from (lag, running, restarts)
