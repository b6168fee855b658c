"""Conflicts: jobs reported twice with different quantities. The second is listed, not charged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import datetime
from hashlib import sha256
from typing import Final

import msgspec

from entitlements.app.inbox.store import Inbox
from entitlements.app.policy.active import Policies
from entitlements.app.ports import Contended, StoreUnavailable, WriteRejected
from entitlements.app.process.log import EventLog
from entitlements.core.commands import Consume
from entitlements.core.model import ConsumptionRecord, UsageReport
from entitlements.core.outcomes import Refusal
from entitlements.core.reasons import ConsumptionOutcome

log = EventLog(__name__)

REQUEST: Final = "request"
"""The event type, and prefix of the event id, in a record that comes from a request."""
OTHER: Final = "other"


class Conflicts:
    """Counts conflicts, and records those of requests. Conflicts of events are recorded with their
    batch.
    """

    def __init__(
        self,
        inbox: Inbox,
        policies: Policies,
        clock: Callable[[], datetime],
        new_id: Callable[[], str],
    ) -> None:
        self._inbox = inbox
        self._policies = policies
        self._clock = clock
        self._new_id = new_id
        self.by_metric: Counter[str] = Counter()

    def count(self, metric: str) -> None:
        self.by_metric[metric if self._policies.active.knows(metric) else OTHER] += 1

    async def note(self, command: Consume, refused: Refusal) -> None:
        """Record the conflict of a request, once however often it is repeated. The caller gets the
        refusal even if it cannot be recorded.
        """
        assert command.job is not None, command
        self.count(command.metric)
        log.error(
            "consumption.conflict",
            user_id=command.user_id,
            correlation_id=command.origin.correlation_id,
            operation_id=refused.data["operation_id"],
            reason=refused.detail,
        )
        try:
            await self._inbox.add_conflict(self._record(command, refused))
        except (StoreUnavailable, Contended, WriteRejected) as error:
            log.warning("consumption.conflict_unlisted", reason=str(error))

    def _record(self, command: Consume, refused: Refusal) -> ConsumptionRecord:
        assert command.job is not None, command
        words = msgspec.json.encode((*command.job, command.units))
        report = UsageReport(
            user_id=command.user_id,
            event_id=f"{REQUEST}:{sha256(words).hexdigest()}",
            event_type=REQUEST,
            source_service=command.origin.client,
            org_id=command.org_id,
            metric=command.metric,
            units=command.units,
            service_name=command.job.service_name,
            processing_id=command.job.processing_id,
            batch_id=command.batch_id,
        )
        return ConsumptionRecord(
            id=self._new_id(),
            report=report,
            result=ConsumptionOutcome.CONFLICT,
            operation_id=refused.data["operation_id"],
            reason=refused.detail,
            correlation_id=command.origin.correlation_id,
            recorded_at=self._clock(),
        )
