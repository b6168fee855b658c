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
from entitlements.app.inbox.parsing import Asked, Parser
from entitlements.app.inbox.records import Arrived, Fate, Rejected
from entitlements.app.inbox.store import DeadLetter, Reason
from entitlements.app.policy.active import Policies, PolicyUnusable
from entitlements.app.ports import Contended, Unavailable
from entitlements.app.process import failpoints
from entitlements.app.process.log import EventLog
from entitlements.core.commands import ReportUse
from entitlements.core.outcomes import AccountOpened, Refused, Reported
from entitlements.core.reasons import UseResult

log = EventLog(__name__)

TRIES_MAX: Final = 3
"""The number of attempts for an event that fails with an unknown error."""
DECIDED_S: Final = 5.0
"""The deadline of a command. Then the batch is retried, so that the consumer can poll its group."""
NONE: Final = "none"
CONSUMED: Final = (UseResult.CHARGED, UseResult.FREE, UseResult.FAILED)
"""The results of a consumption; those of a settlement are the hold's."""
NOT_NOW: Final = (Unavailable, Contended, Overloaded, PolicyUnusable)
"""Transient errors, which are never the event's fault."""


class NotNow(Exception):
    """Some records of the batch are not decided yet; a retry continues where it stopped."""


class Pending:
    """A record in progress; its command keeps its id over all attempts."""

    __slots__ = ("asked", "fate", "record", "tries")

    def __init__(self, record: Arrived, asked: Asked | Rejected) -> None:
        self.record = record
        self.asked = asked
        self.fate: Fate | None = asked if isinstance(asked, Rejected) else None
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


class Intake:
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

    def pending(self, records: Sequence[Arrived]) -> list[Pending]:
        """Parse the records; those that cannot be parsed are rejected."""
        return [Pending(record, self._parsed(record)) for record in records]

    def _parsed(self, record: Arrived) -> Asked | Rejected:
        """Parse the record; an unknown error rejects it, so that it does not block others."""
        try:
            return self.parser.parse(record)
        except Exception as error:
            log.exception("event.unread", place=_place(record))
            return _failed(error)

    async def take(self, batch: Sequence[Pending]) -> list[Fate]:
        """Return the result of each record, once all are durable.

        Raises NotNow while the database or the committer is unavailable; a retry with the same
        batch repeats nothing.
        """
        waiting = [one for one in batch if one.fate is None]
        while waiting:
            errors = await asyncio.gather(*map(self._decide, waiting))
            if passing := next((error for error in errors if isinstance(error, NOT_NOW)), None):
                raise NotNow(str(passing))
            waiting = [one for one in waiting if one.fate is None]
        fates = []
        for one in batch:
            assert one.fate is not None, one
            fates.append(one.fate)
        failpoints.hit("charged")
        return fates

    def letters(self, batch: Sequence[Pending]) -> list[DeadLetter]:
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
                reason=one.fate.reason,
                detail=one.fate.detail,
                died_at=now,
            )
            for one in batch
            if isinstance(one.fate, Rejected)
        ]

    async def _decide(self, one: Pending) -> Exception | None:
        """Decide the record; return the error if that failed."""
        try:
            one.fate = await self._fate(one.asked)
        except NOT_NOW as error:
            return error
        except Exception as error:
            one.tries += 1
            self.tallies.errors[self._resource_type(one)] += 1
            log.exception("event.failed", place=_place(one.record), tries=one.tries)
            if one.tries >= TRIES_MAX:
                one.fate = _failed(error)
            return error
        return None

    async def _fate(self, asked: Asked | Rejected) -> Fate:
        assert not isinstance(asked, Rejected), asked
        if isinstance(asked, ReportUse) and asked.report.hold_id is not None:
            hold = await self._holds.find(asked.report.hold_id)
            if hold is None:
                return Rejected(reason=Reason.UNPRICEABLE, detail="no such hold")
            asked = replace(asked, hold=hold)
        outcome = await self._committer.submit(asked, deadline_s=DECIDED_S)
        if isinstance(outcome, Refused):
            return Rejected(reason=Reason.UNPRICEABLE, detail=outcome.detail)
        assert isinstance(outcome, Reported | AccountOpened), outcome
        return outcome

    def tell(self, batch: Sequence[Pending]) -> None:
        """Count the results, and log what operators should look at. Called once per batch."""
        for one in batch:
            resource_type = self._resource_type(one)
            if isinstance(one.fate, Rejected):
                self.tallies.rejected[resource_type, one.fate.reason] += 1
                log.warning(
                    "event.rejected",
                    place=_place(one.record),
                    reason=one.fate.reason,
                    detail=one.fate.detail,
                )
            if isinstance(one.fate, Reported):
                self._tell_reported(one, one.fate, resource_type)
            if isinstance(one.fate, AccountOpened):
                became = "opened" if one.fate.created and not one.fate.replayed else "repeated"
                self.tallies.events[NONE, became] += 1

    def _tell_reported(self, one: Pending, became: Reported, resource_type: str) -> None:
        self.tallies.events[
            resource_type, "repeated" if became.replayed else became.result.value
        ] += 1
        assert isinstance(one.asked, ReportUse), one
        if one.asked.is_charged and became.result in CONSUMED and not became.replayed:
            self.tallies.consumptions[resource_type, became.consumed_from] += 1
        if became.result is UseResult.CONFLICT and not became.replayed:
            self._conflicts.count(one.asked.report.metric)
            log.error(
                "event.conflict",
                user_id=one.asked.report.user_id,
                correlation_id=one.asked.origin.correlation_id,
                event_id=one.asked.report.event_id,
                operation_id=became.operation_id,
                reason=became.reason,
            )

    def _resource_type(self, one: Pending) -> str:
        """Return a bounded label: metrics that the policy does not know share one."""
        if isinstance(one.asked, ReportUse):
            return self._known(one.asked.report.metric)
        return NONE

    def _known(self, metric: str) -> str:
        return metric if self._policies.active.knows(metric) else OTHER


def _place(record: Arrived) -> str:
    return f"{record.topic}/{record.partition}/{record.offset}"


def _failed(error: Exception) -> Rejected:
    """Return the rejection after an unknown error, without its text, which may quote the event."""
    detail = f"unexpected error: {type(error).__name__}"
    return Rejected(reason=Reason.FAILED, detail=detail)
