"""Processes usage events: records that arrive together are charged in one commit."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from msgspec.structs import replace

from entitlements.app.credits.committer import Committer, Overloaded
from entitlements.app.credits.holds import Holds
from entitlements.app.inbox.conflicts import OTHER, Conflicts
from entitlements.app.inbox.parsing import ParsedCommand, Parser
from entitlements.app.inbox.records import ConsumerRecord, DeadLettered, IngestResult
from entitlements.app.inbox.store import DeadLetter, Reason
from entitlements.app.policy.active import Policies, PolicyUnusable
from entitlements.app.ports import Contended, StoreUnavailable
from entitlements.app.process import failpoints
from entitlements.app.process.log import EventLog
from entitlements.core.commands import IngestUsage
from entitlements.core.outcomes import AccountOpened, Refusal, UsageIngested
from entitlements.core.reasons import ConsumptionOutcome

log = EventLog(__name__)

TRIES_MAX: Final = 3
"""The number of attempts for an event that fails with an unknown error."""
DECIDED_S: Final = 5.0
"""The deadline of a command. Then the batch is retried, so that the consumer can poll its group."""
NONE: Final = "none"
CONSUMED: Final = (ConsumptionOutcome.CHARGED, ConsumptionOutcome.FREE, ConsumptionOutcome.FAILED)
"""The results of a consumption; those of a settlement are the hold's."""
TRANSIENT: Final = (StoreUnavailable, Contended, Overloaded, PolicyUnusable)
"""Transient errors, which are never the event's fault."""


class RetryLater(Exception):
    """Some records of the batch are not decided yet; a retry continues where it stopped."""


class PendingRecord:
    """A record in progress; its command keeps its id over all attempts."""

    __slots__ = ("command", "record", "result", "tries")

    def __init__(self, record: ConsumerRecord, command: ParsedCommand | DeadLettered) -> None:
        self.record = record
        self.command = command
        self.result: IngestResult | None = command if isinstance(command, DeadLettered) else None
        self.tries = 0


class Tallies:
    """Counters of results of events, by resource type."""

    def __init__(self) -> None:
        self.events: Counter[tuple[str, ...]] = Counter()
        """(resource type, result)"""
        self.errors: Counter[str] = Counter()
        """Attempts that failed with an unknown error, by resource type."""
        self.rejected: Counter[tuple[str, ...]] = Counter()
        """(resource type, reason)"""
        self.consumptions: Counter[tuple[str, ...]] = Counter()
        """(metric, payer) of charged work, reported by events or requests"""


class EventProcessor:
    """Processes batches of records. A record that is delivered again is not charged again."""

    def __init__(
        self,
        parser: Parser,
        *,
        committer: Committer,
        holds: Holds,
        policies: Policies,
        conflicts: Conflicts,
        clock: Callable[[], datetime],
        new_id: Callable[[], str],
    ) -> None:
        self.parser = parser
        self.tallies = Tallies()
        self._committer = committer
        self._holds = holds
        self._policies = policies
        self._conflicts = conflicts
        self._clock = clock
        self._new_id = new_id

    def pending(self, records: Sequence[ConsumerRecord]) -> list[PendingRecord]:
        """Parse the records; those that cannot be parsed are rejected."""
        return [PendingRecord(record, self._parsed(record)) for record in records]

    def _parsed(self, record: ConsumerRecord) -> ParsedCommand | DeadLettered:
        """Parse the record; an unknown error rejects it, so that it does not block others."""
        try:
            return self.parser.parse(record)
        except Exception as error:
            log.exception("event.unread", place=_place(record))
            return _failed(error)

    async def process(self, batch: Sequence[PendingRecord]) -> list[IngestResult]:
        """Return the result of each record, once all are durable.

        Raises RetryLater while the database or the committer is unavailable; a retry with the same
        batch repeats nothing.
        """
        waiting = [one for one in batch if one.result is None]
        while waiting:
            errors = await asyncio.gather(*map(self._decide, waiting))
            if passing := next((error for error in errors if isinstance(error, TRANSIENT)), None):
                raise RetryLater(str(passing))
            waiting = [one for one in waiting if one.result is None]
        results = []
        for one in batch:
            assert one.result is not None, one
            results.append(one.result)
        failpoints.hit("charged")
        return results

    def letters(self, batch: Sequence[PendingRecord]) -> list[DeadLetter]:
        """Return the dead letters of a batch."""
        now = self._clock()
        return [
            DeadLetter(
                id=self._new_id(),
                topic=one.record.topic,
                partition=one.record.partition,
                offset=one.record.offset,
                key=one.record.key,
                value=one.record.value,
                headers=one.record.headers,
                reason=one.result.reason,
                detail=one.result.detail,
                died_at=now,
            )
            for one in batch
            if isinstance(one.result, DeadLettered)
        ]

    async def _decide(self, one: PendingRecord) -> Exception | None:
        """Decide the record; return the error if that failed."""
        try:
            one.result = await self._ingest(one.command)
        except TRANSIENT as error:
            return error
        except Exception as error:
            one.tries += 1
            self.tallies.errors[self._resource_type(one)] += 1
            log.exception("event.failed", place=_place(one.record), tries=one.tries)
            if one.tries >= TRIES_MAX:
                one.result = _failed(error)
            return error
        return None

    async def _ingest(self, command: ParsedCommand | DeadLettered) -> IngestResult:
        assert not isinstance(command, DeadLettered), command
        if isinstance(command, IngestUsage) and command.report.hold_id is not None:
            hold = await self._holds.find(command.report.hold_id)
            if hold is None:
                return DeadLettered(reason=Reason.UNPRICEABLE, detail="no such hold")
            command = replace(command, hold=hold)
        outcome = await self._committer.submit(command, deadline_s=DECIDED_S)
        if isinstance(outcome, Refusal):
            return DeadLettered(reason=Reason.UNPRICEABLE, detail=outcome.detail)
        assert isinstance(outcome, UsageIngested | AccountOpened), outcome
        return outcome

    def log_results(self, batch: Sequence[PendingRecord]) -> None:
        """Count the results, and log what operators should look at. Called once per batch."""
        for one in batch:
            resource_type = self._resource_type(one)
            if isinstance(one.result, DeadLettered):
                self.tallies.rejected[resource_type, one.result.reason] += 1
                log.warning(
                    "event.rejected",
                    place=_place(one.record),
                    reason=one.result.reason,
                    detail=one.result.detail,
                )
            if isinstance(one.result, UsageIngested):
                self._log_ingested(one, one.result, resource_type)
            if isinstance(one.result, AccountOpened):
                ingested = (
                    "opened" if one.result.created and not one.result.replayed else "repeated"
                )
                self.tallies.events[NONE, ingested] += 1

    def _log_ingested(
        self, one: PendingRecord, ingested: UsageIngested, resource_type: str
    ) -> None:
        self.tallies.events[
            resource_type, "repeated" if ingested.replayed else ingested.result.value
        ] += 1
        assert isinstance(one.command, IngestUsage), one
        if one.command.is_charged and ingested.result in CONSUMED and not ingested.replayed:
            self.tallies.consumptions[resource_type, ingested.consumed_from] += 1
        if ingested.result is ConsumptionOutcome.CONFLICT and not ingested.replayed:
            self._conflicts.count(one.command.report.metric)
            log.error(
                "event.conflict",
                user_id=one.command.report.user_id,
                correlation_id=one.command.origin.correlation_id,
                event_id=one.command.report.event_id,
                operation_id=ingested.operation_id,
                reason=ingested.reason,
            )

    def _resource_type(self, one: PendingRecord) -> str:
        """Return a bounded label: metrics that the policy does not know share one."""
        if isinstance(one.command, IngestUsage):
            return self._known(one.command.report.metric)
        return NONE

    def _known(self, metric: str) -> str:
        return metric if self._policies.active.knows(metric) else OTHER


def _place(record: ConsumerRecord) -> str:
    return f"{record.topic}/{record.partition}/{record.offset}"


def _failed(error: Exception) -> DeadLettered:
    """Return the rejection after an unknown error, without its text, which may quote the event."""
    detail = f"unexpected error: {type(error).__name__}"
    return DeadLettered(reason=Reason.FAILED, detail=detail)
