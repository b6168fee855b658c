"""What Prometheus is told of the events that come in."""

from collections import Counter as Tally
from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client.core import CounterMetricFamily as Counter
from prometheus_client.core import GaugeMetricFamily as Gauge
from prometheus_client.registry import Collector

from entitlements.app.conflicts import Conflicts
from entitlements.app.engine import Watch
from entitlements.app.ingest.intake import Intake
from entitlements.app.ingest.state import State, Status

REPEATS: Final = ("repeated", "duplicate")


class Events(Collector):
    """The consumer of this process, and what it made of what it read. A scrape waits for nobody."""

    def __init__(self, intake: Intake, conflicts: Conflicts, watch: Watch) -> None:
        self._tallies = intake.tallies
        self._conflicts = conflicts
        self._watch = watch

    def collect(self) -> Iterator[Gauge | Counter]:
        consumer = self._watch.consumer
        yield from _standing(consumer.state if consumer is not None else None)
        yield from self._counted()
        waiting = Gauge(
            "entitlements_dead_letters_open",
            "Events that wait for an operator, counted up to 1000.",
        )
        if self._watch.open_letters is not None:
            waiting.add_metric([], self._watch.open_letters)
        yield waiting

    def _counted(self) -> Iterator[Counter]:
        tallies = self._tallies
        yield _by(
            "entitlements_consumer_events",
            "Events taken, by what they ended in.",
            ("resource_type", "outcome"),
            tallies.events,
        )
        repeats: Tally[tuple[str, ...]] = Tally()
        for (resource_type, outcome), count in tallies.events.items():
            if outcome in REPEATS:
                repeats[resource_type,] += count
        yield _by(
            "entitlements_consumer_duplicates",
            "Events that came again, and jobs that came under another event.",
            ("resource_type",),
            repeats,
        )
        yield _by(
            "entitlements_consumer_dead_letters",
            "Events that nothing could be made of.",
            ("resource_type", "reason"),
            tallies.rejected,
        )
        yield _by(
            "entitlements_consumer_errors",
            "Events that could not be worked on for a reason of ours, each try.",
            ("resource_type",),
            Tally({(name,): count for name, count in tallies.errors.items()}),
        )
        yield _by(
            "entitlements_consumption_conflicts",
            "Jobs that came with another quantity, by events or requests. Somebody must look.",
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
        "Events of a partition that this process reads and that it has not taken yet.",
        labels=["topic", "partition"],
    )
    running = Gauge(
        "entitlements_consumer_running", "1 while events are read; 0 while it is held up."
    )
    restarts = Counter("entitlements_consumer_restarts", "How often the consumer began anew.")
    if state is not None:
        running.add_metric([], int(state.status is Status.RUNNING))
        restarts.add_metric([], state.restarts)
        for one in state.partitions:
            if one.lag is not None:
                lag.add_metric([one.topic, str(one.partition)], one.lag)
    yield from (lag, running, restarts)
