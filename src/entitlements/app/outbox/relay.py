"""The relay: publishes outbox events to a sink, at least once and in order per wallet.

A relay reads the waiting events of the buckets it has leased, publishes them to the sink, and marks
those that were taken, provided that its leases are still valid. A relay that was paused for too
long marks nothing and leases again. Each read starts with the first unmarked event of a wallet, so
however often events are sent, the first copies arrive in order.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

import msgspec
from msgspec import Struct

from entitlements.app.outbox.sink import (
    Acked,
    Message,
    NotAcked,
    PublishResult,
    Sink,
    Undeliverable,
)
from entitlements.app.outbox.store import BUS, NO_SINK, Event, Leases, Outbox, Unpublishable
from entitlements.app.ports import Contended, LimitEvent, StoreUnavailable
from entitlements.app.process.backoff import Backoff
from entitlements.app.process.log import EventLog
from entitlements.app.process.outage import postponed
from entitlements.ids import uuid7

log = EventLog(__name__)

LEASE_S: Final = 30.0
POLL_S: Final = 1.0
"""How often a relay looks for events that other processes committed."""
BATCH: Final = 1_000
EACH_MIN: Final = 16
DISCARDED_AT_ONCE: Final = 2_000
"""Per `POLL_S`: events without subscribers have time, and must not slow down other work."""
NO_SUBSCRIBER_GRACE_S = 5.0
"""How long events must have had no subscriber before they are skipped: handlers may still be about
to subscribe.
"""
LIMIT_EVENTS: Final = 200
CLEANED_AT_ONCE: Final = 5_000
CLEAN_S: Final = 10.0
DRAIN_S: Final = 3.0
"""How long a stopping relay still publishes what waits."""
STOP_S: Final = 25.0
"""How long it then waits for the sink; events that were sent but not marked are sent again."""
REASON_MAX: Final = 1_000
_UNKEEPABLE: Final = re.compile("[\0\ud800-\udfff]")
"""Characters that no database accepts as text, though a handler's exception may contain them."""


class Destination(Struct, frozen=True, kw_only=True):
    """The sink of events, and how long published events are kept.

    Events without subscribers are skipped: immediately if there are webhooks to deliver them to,
    else after `NO_SUBSCRIBER_GRACE_S`.
    """

    sink: Sink
    name: str = BUS
    retention_s: float = 86_400.0
    lease_s: float = LEASE_S
    stop_s: float = STOP_S
    has_subscribers: Callable[[], bool] = lambda: True
    has_webhooks: Callable[[], bool] = lambda: False
    on_published: Callable[[], None] = lambda: None
    """Called after events were marked as published."""


class Relay:
    """One of any number of relays. The counters start with the relay."""

    def __init__(self, outbox: Outbox, destination: Destination, *, name: str, source: str) -> None:
        loop = asyncio.get_running_loop()
        self.name = name
        self.published = 0
        self.failed = 0
        self.parked = 0
        self._outbox = outbox
        self._destination = destination
        self._source = source
        self._clock = loop.time
        self._backoff = Backoff(loop.time, random.random)
        self._limits_backoff = Backoff(loop.time, random.random)
        self._is_stuck = False
        self._has_logged_failure = False
        self._held: dict[int, int] = {}
        self._held_until = 0.0
        self._sink_named = NO_SINK
        self._heartbeat_at = 0.0
        self._clean_at = 0.0
        self._limits_at = 0.0
        self._subscribed_at = loop.time()
        self._turn = 0
        self._each = EACH_MIN
        self._stop_by: float | None = None
        self._woken = asyncio.Event()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def buckets(self) -> int:
        """The number of buckets that it has leased."""
        return len(self._held)

    @property
    def is_running(self) -> bool:
        return self._task is not None and not self._task.done()

    @property
    def is_failing(self) -> bool:
        """Whether the sink took no event in the last attempt."""
        is_limits = 0 in self._held and self._limits_backoff.is_failing
        return self._is_stuck or self._backoff.is_failing or is_limits

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    def wake(self) -> None:
        """Signal that events were committed in this process."""
        self._woken.set()

    async def stop(self) -> None:
        """Publish for up to `DRAIN_S`, wait for what was sent, and release all leases."""
        self._stop_by = self._clock() + DRAIN_S
        self._woken.set()
        self._stopping.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=DRAIN_S + self._destination.stop_s)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        """Run rounds until stopped. An error is logged and retried with backoff."""
        failures = Backoff(self._clock, random.random, most_s=5.0)
        rest_s = 0.0
        try:
            while True:
                try:
                    rest_s = await self._round()
                    failures.clear()
                except (StoreUnavailable, Contended) as error:
                    postponed(log, "relay.postponed", error)
                    failures.fail()
                except Exception:
                    log.exception("relay.failed")
                    failures.fail()
                rest_s = failures.pause_s() or rest_s
                if self._stop_by is not None and (rest_s > 0 or self._clock() >= self._stop_by):
                    return
                if rest_s > 0:
                    await self._rest(rest_s, at_least_s=failures.pause_s())
        finally:
            self._held = {}
            await self._release_leases()

    async def _release_leases(self) -> None:
        try:
            await self._outbox.release_leases(self.name)
        except Exception as error:  # noqa: BLE001 - the leases expire by themselves
            log.warning("relay.not_left", reason=str(error))

    async def _rest(self, seconds: float, *, at_least_s: float) -> None:
        """Sleep until events are committed, or until the leases must be renewed. Commits do not end
        the sleep during a backoff or while there are no subscribers.
        """
        seconds = max(at_least_s, min(seconds, self._heartbeat_at - self._clock()))
        is_paused = at_least_s > 0 or self._backoff.pause_s() > 0
        is_wanted = (
            self._destination.has_subscribers() or self._destination.has_webhooks()
        ) and not is_paused
        awaited = self._woken if is_wanted else self._stopping
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await awaited.wait()

    async def _round(self) -> float:
        """Do what is due; return for how many seconds nothing is due."""
        self._woken.clear()
        if self._clock() >= self._heartbeat_at or self._sink() != self._sink_named:
            await self._heartbeat()
        if not self._held:
            return POLL_S
        await self._clean()
        if not self._destination.has_subscribers():
            return await self._discard_unsubscribed()
        self._subscribed_at = self._clock()
        if (pause_s := self._backoff.pause_s()) > 0:
            return min(pause_s, POLL_S)
        await self._publish_limit_events()
        if await self._publish_batch():
            return 0.0
        return self._backoff.soonest_s(POLL_S)

    async def _discard_unsubscribed(self) -> float:
        has_webhooks = self._destination.has_webhooks()
        if not has_webhooks and self._clock() < self._subscribed_at + NO_SUBSCRIBER_GRACE_S:
            return POLL_S
        if has_webhooks:
            await self._publish_limit_events()
        at_most = DISCARDED_AT_ONCE
        discarded = await self._outbox.discard_unsubscribed(self.name, self._held, at_most=at_most)
        self.published += discarded
        if discarded:
            self._destination.on_published()
        return 0.0 if has_webhooks and discarded >= at_most else POLL_S

    async def _heartbeat(self, *, rebalance: bool = True) -> None:
        """Renew the leases; more often while the relay has fewer than its share."""
        asked_at = self._clock()
        lease_s, sink = self._destination.lease_s, self._sink()
        leases: Leases = await self._outbox.heartbeat(
            self.name, sink=sink, lease_s=lease_s, rebalance=rebalance
        )
        self._sink_named = sink
        if rebalance and len(leases.epochs) != len(self._held):
            log.info("relay.leases", held=len(leases.epochs), share=leases.share)
            if leases.share == 0:
                log.warning("relay.leases_withheld", reason="another sink publishes these events")
        self._held = leases.epochs
        self._held_until = asked_at + lease_s
        if rebalance:
            every_s = lease_s / 6
            lacks = len(leases.epochs) < leases.share
            self._heartbeat_at = asked_at + (min(POLL_S, every_s) if lacks else every_s)

    def _sink(self) -> str:
        return self._destination.name if self._destination.has_subscribers() else NO_SINK

    async def _publish_batch(self) -> bool:
        """Publish one batch; return whether there was one."""
        events = await self._read()
        if not events:
            self._is_stuck &= bool(self._backoff.waiting_keys())
            return False
        if self._clock() >= self._held_until:
            # This process was paused for so long that others may have leased these buckets.
            self._heartbeat_at = 0.0
            return True
        results = await self._publish([message(event, self._source) for event in events])
        await self._record_results(events[: len(results)], results)
        return True

    async def _read(self) -> list[Event]:
        """Read from the buckets in turn, so that none waits for another's backlog, and more from
        each bucket if few have events.
        """
        buckets = sorted(self._held)
        self._turn += 1
        at = self._turn % len(buckets)
        events = await self._outbox.unpublished(
            buckets[at:] + buckets[:at],
            each=self._each,
            at_most=BATCH,
            without=self._backoff.waiting_keys(),
        )
        counts: dict[int, int] = {}
        for event in events:
            counts[event.bucket] = counts.get(event.bucket, 0) + 1
        full = sum(count >= self._each for count in counts.values())
        wanted = self._each // 2 if len(events) >= BATCH else BATCH // max(1, full)
        self._each = max(EACH_MIN, wanted)
        return events

    async def _publish(self, messages: Sequence[Message]) -> list[PublishResult]:
        """Publish the messages, renewing the leases until the sink is done."""
        publishing = asyncio.ensure_future(self._destination.sink.publish(messages))
        try:
            while True:
                every_s = self._destination.lease_s / 6
                done, _ = await asyncio.wait({publishing}, timeout=every_s)
                if done:
                    cancelled = publishing.cancelled()
                    gave_up: list[PublishResult] = [NotAcked("cancelled")] * len(messages)
                    return gave_up if cancelled else publishing.result()
                await self._renew()
        except Exception as error:
            log.exception("relay.sink_failed")
            return [NotAcked(str(error))] * len(messages)
        finally:
            if not publishing.done():
                publishing.cancel()
                await asyncio.gather(publishing, return_exceptions=True)

    async def _renew(self) -> None:
        held = self._held
        try:
            await self._heartbeat(rebalance=False)
        except (StoreUnavailable, Contended) as error:
            postponed(log, "relay.postponed", error)
        finally:
            # What was sent is marked under the epochs that it was read under.
            self._held = held

    async def _record_results(
        self, events: Sequence[Event], results: Sequence[PublishResult]
    ) -> None:
        published: list[Event] = []
        refused: list[Unpublishable] = []
        failed: dict[str, str] = {}
        for event, result in zip(events, results, strict=True):
            match result:
                case Acked():
                    published.append(event)
                case Undeliverable(reason=reason):
                    tries = self._backoff.tries(event.key) + 1
                    reason = _UNKEEPABLE.sub("\ufffd", reason[:REASON_MAX])
                    refused.append(Unpublishable(event=event, reason=reason, attempts=tries))
                    self.failed += 1
                case NotAcked(reason=reason):
                    failed.setdefault(event.key, reason)
                    self.failed += 1
        done = {event.key for event in published} | {one.event.key for one in refused}
        self._backoff.note(done, failed)
        self._is_stuck = bool(failed) and not done
        self._log_failures(failed)
        if published or refused:
            await self._mark(published, refused)

    def _log_failures(self, failed: Mapping[str, str]) -> None:
        """Once when keys begin to fail, once when none does any more."""
        if failed and not self._has_logged_failure:
            log.warning("relay.failing", keys=len(failed), reason=next(iter(failed.values())))
            self._has_logged_failure = True
        elif self._has_logged_failure and self._backoff.is_idle:
            log.info("relay.recovered")
            self._has_logged_failure = False

    async def _mark(self, published: Sequence[Event], refused: Sequence[Unpublishable]) -> None:
        touched = {event.bucket for event in published} | {one.event.bucket for one in refused}
        epochs = {bucket: self._held[bucket] for bucket in touched}
        keep = self._destination.retention_s > 0
        held = await self._outbox.mark_published(self.name, epochs, published, refused, keep=keep)
        self.published += sum(event.bucket in held for event in published)
        if published:
            self._destination.on_published()
        for one in refused:
            if one.event.bucket in held:
                self.parked += 1
                log.error("relay.parked", event_id=one.event.event_id, reason=one.reason)
        if lost := touched - held:
            log.warning("relay.leases_lost", buckets=len(lost))
            self._held = {b: epoch for b, epoch in self._held.items() if b not in lost}
            self._heartbeat_at = 0.0

    async def _clean(self) -> None:
        if 0 not in self._held or self._clock() < self._clean_at:
            return
        gone = await self._outbox.clean(
            self.name,
            self._held,
            retention_s=self._destination.retention_s,
            limit=CLEANED_AT_ONCE,
        )
        if gone < CLEANED_AT_ONCE:
            self._clean_at = self._clock() + CLEAN_S

    async def _publish_limit_events(self) -> None:
        """Publish events of limits; unordered, and possibly twice or not at all."""
        if 0 not in self._held or self._clock() < self._limits_at:
            return
        self._limits_at = self._clock() + POLL_S
        events = await self._outbox.limit_events(LIMIT_EVENTS)
        if not events:
            self._limits_backoff.clear()
            return
        results = await self._publish([message(event, self._source) for event in events])
        sent = [
            event
            for event, result in zip(events, results, strict=False)
            if not isinstance(result, NotAcked)
        ]
        self.failed += len(results) - len(sent)
        if not sent:
            # Only their topic may be missing: the others continue.
            self._limits_backoff.fail()
            self._limits_at += self._limits_backoff.pause_s()
        else:
            self._limits_backoff.clear()
            self.published += len(sent)
            await self._outbox.mark_limit_events(sent)
            self._destination.on_published()


def relay_name() -> str:
    """Return a unique name of a relay by which operators can find its process."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid7()[-6:]}"


def message(event: Event | LimitEvent, source: str) -> Message:
    """Return the event as a message for a sink."""
    written = _written(event.payload)
    headers = {
        "event_id": event.event_id,
        "event_type": event.event_type,
        "content_type": "application/json",
        "schema_version": "1",
        "source_service": source,
        "occurred_at": event.created_at.isoformat().replace("+00:00", "Z"),
    }
    if written.correlation_id is not None:
        headers["trace_id"] = written.correlation_id
    span = written.metadata.get("traceparent")
    if span is None and isinstance(event, Event):
        span = event.traceparent  # programs of the previous version store it only in this column
    if span is not None:
        headers["traceparent"] = span
    return Message(
        event_id=event.event_id,
        topic=event.event_type,
        key=event.key,
        payload=event.payload,
        headers=headers,
    )


class _Written(Struct, frozen=True):
    """The envelope fields that headers repeat, as far as they can be read."""

    correlation_id: str | None = None
    metadata: dict[str, str] = {}


_decode: Final = msgspec.json.Decoder(_Written).decode


def _written(payload: str) -> _Written:
    try:
        return _decode(payload)
    except msgspec.DecodeError:
        return _Written()
