"""Prometheus metrics of the current state, read from memory at each scrape."""

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Final

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily as Counter
from prometheus_client.core import GaugeMetricFamily as Gauge
from prometheus_client.registry import Collector

from entitlements.app.engine import UNPRICED_MAX, Engine
from entitlements.app.outbox.relay import Relay
from entitlements.app.ports import Backlog
from entitlements.app.verify.findings import FINDINGS_MAX
from entitlements.app.verify.schedule import Verifier
from entitlements.app.webhooks.deliverer import RESULTS, Deliverer
from entitlements.app.webhooks.store import DeliveryBacklog as Waiting

SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Present(Collector):
    """The queue, the connection pool and the limiter. A scrape does not query the database."""

    def __init__(self, engine: Engine, verifier: Verifier) -> None:
        self._engine = engine
        self._verifier = verifier

    def collect(self) -> Iterator[Gauge | Counter]:
        yield Gauge(
            "entitlements_commands_waiting",
            "Accepted commands that are not committed yet.",
            value=self._engine.committer.depth,
        )
        yield Gauge(
            "entitlements_records_unreadable",
            "Wallets that this process could not read in the last ten minutes.",
            value=self._engine.unreadable.count,
        )
        yield Gauge(
            "entitlements_wallets_ahead",
            "Wallets whose last change is later than the database's clock.",
            value=self._engine.ahead.count,
        )
        unpriced = Gauge(
            "entitlements_work_unpriced",
            f"Finished work without a price, counted up to {UNPRICED_MAX}.",
        )
        if self._engine.watch.unpriced is not None:
            unpriced.add_metric([], self._engine.watch.unpriced)
        yield unpriced
        oldest = self._engine.watch.oldest_call
        waits = (self._engine.clock() - oldest.created_at).total_seconds() if oldest else 0
        yield Gauge(
            "entitlements_lifecycle_call_age_seconds",
            "How long the oldest call of a lifecycle handler has waited.",
            value=max(0, waits),
        )
        yield from self._pool()
        yield from self._limiter()
        yield from self._verification()

    def _verification(self) -> Iterator[Gauge]:
        verifier = self._verifier
        violations = Gauge(
            "entitlements_invariant_violations",
            f"Violations that the last verification found, counted up to {FINDINGS_MAX} each.",
            labels=["check"],
        )
        proved = Gauge(
            "entitlements_books_proved_timestamp_seconds",
            "When this process last verified the ledger.",
        )
        for check, found in (verifier.violations or {}).items():
            violations.add_metric([check], found)
        if verifier.verified_at is not None:
            proved.add_metric([], verifier.verified_at.timestamp())
        yield from (violations, proved)

    def _limiter(self) -> Iterator[Gauge | Counter]:
        limits, events = self._engine.limits, self._engine.limit_events
        yield Gauge(
            "entitlements_limiter_degraded",
            "1 while the shared limiter is unreachable.",
            value=int(limits.is_degraded),
        )
        peers = self._engine.peers
        yield Gauge(
            "entitlements_limiter_peers_apart",
            "Other processes on this database that count rate limits in their own memory.",
            value=peers.others if peers else 0,
        )
        yield Counter(
            "entitlements_limiter_failures",
            "How often the shared limiter became unreachable.",
            value=limits.failures,
        )
        yield Counter(
            "entitlements_limiter_dropped_uses",
            "Uses that the shared limiter may not have counted.",
            value=limits.dropped_uses,
        )
        yield Counter(
            "entitlements_limit_events_dropped",
            "Rate-limit events that were lost.",
            value=events.dropped,
        )

    def _pool(self) -> Iterator[Gauge]:
        used = self._engine.store.connections()
        states = Gauge(
            "entitlements_database_pool_connections",
            "Open connections to PostgreSQL, by state.",
            labels=["state"],
        )
        waiting = Gauge(
            "entitlements_database_pool_waiting", "Requests that wait for a database connection."
        )
        most = Gauge("entitlements_database_pool_max", "The maximum number of connections.")
        if used is not None:
            states.add_metric(["idle"], used.idle)
            states.add_metric(["busy"], used.busy)
            waiting.add_metric([], used.waiting)
            most.add_metric([], used.most)
        yield from (states, waiting, most)


class WebhookMetrics(Collector):
    """The last known backlog of all deliverers, and the results of this process's deliverer."""

    def __init__(self, deliverer: Deliverer) -> None:
        self._deliverer = deliverer

    def collect(self) -> Iterator[Gauge | Counter]:
        attempts = Counter(
            "entitlements_webhook_deliveries",
            "Webhook delivery attempts, by result.",
            labels=["result"],
        )
        for result in RESULTS:
            attempts.add_metric([result], self._deliverer.results[result])
        pending = Gauge(
            "entitlements_webhook_deliveries_pending",
            f"Pending webhook deliveries, counted up to {Waiting.COUNTED_MAX}.",
        )
        failing = Gauge("entitlements_webhooks_failing", "Active webhooks with failing deliveries.")
        if (backlog := self._deliverer.backlog) is not None:
            pending.add_metric([], backlog.pending)
            failing.add_metric([], backlog.failing)
        yield from (attempts, pending, failing)


class OutboxMetrics(Collector):
    """The last known backlog of all relays, and the results of this process's relay."""

    def __init__(
        self,
        backlog: Callable[[], Backlog | None],
        relay: Relay | None,
        clock: Callable[[], datetime],
    ) -> None:
        self._backlog = backlog
        self._relay = relay
        self._clock = clock

    def collect(self) -> Iterator[Gauge | Counter]:
        yield from self._waiting()
        if self._relay is None:
            return
        yield Counter(
            "entitlements_outbox_published",
            "Events that this process published.",
            value=self._relay.published,
        )
        yield Counter(
            "entitlements_outbox_failed",
            "Failed or refused attempts of this process to publish an event.",
            value=self._relay.failed,
        )
        yield Gauge(
            "entitlements_outbox_buckets",
            "Outbox buckets (of 64) that this process leases.",
            value=self._relay.buckets,
        )

    def _waiting(self) -> Iterator[Gauge]:
        backlog = self._backlog()
        depth = Gauge(
            "entitlements_outbox_depth",
            f"Unpublished events, counted up to {Backlog.COUNTED_MAX}.",
        )
        age = Gauge("entitlements_outbox_age_seconds", "Age of the oldest unpublished event.")
        parked = Gauge(
            "entitlements_outbox_parked",
            f"Parked events, counted up to {Backlog.COUNTED_MAX}.",
        )
        if backlog is not None:
            now = self._clock()
            depth.add_metric([], backlog.events)
            age.add_metric([], (now - (backlog.oldest_at or now)).total_seconds())
            parked.add_metric([], backlog.parked)
        yield from (depth, age, parked)


def watch(
    registry: CollectorRegistry, engine: Engine, verifier: Verifier, deliverer: Deliverer
) -> None:
    """Register the metrics of the current state, and observe batch sizes from now on."""
    registry.register(Present(engine, verifier))
    registry.register(OutboxMetrics(lambda: engine.watch.backlog, engine.relay, engine.clock))
    registry.register(WebhookMetrics(deliverer))
    sizes = Histogram(
        "entitlements_batch_size", "Commands per committed batch.", registry=registry, buckets=SIZES
    )
    engine.committer.batch_sizes = sizes.observe
