"""A batch of records, from its arrival until its offsets can be committed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from entitlements.app.inbox.dead_letters import kept
from entitlements.app.inbox.intake import EventProcessor, RetryLater
from entitlements.app.inbox.records import ConsumerRecord
from entitlements.app.inbox.store import DeadLetter, Inbox
from entitlements.app.ports import Contended, StoreUnavailable
from entitlements.app.process import failpoints

Place = tuple[str, int]
"""(topic, partition)"""


class DeadLetterPublisher(Protocol):
    """Publishes dead letters for other systems."""

    async def send(self, letters: Sequence[DeadLetter]) -> None:
        """Send each letter unchanged to the dead letter topic of its topic, with the reason in
        headers. Raises StoreUnavailable on transient errors; a letter that can never be sent is
        skipped.
        """


class PolledRecords:
    """A batch that can be retried until it is done, and from which partitions can be dropped."""

    def __init__(
        self,
        intake: EventProcessor,
        inbox: Inbox,
        topics: DeadLetterPublisher,
        records: Sequence[ConsumerRecord],
    ) -> None:
        self._intake = intake
        self._inbox = inbox
        self._topics = topics
        self._pending = intake.pending(records)
        self._letters: list[DeadLetter] | None = None

    async def work(self) -> None:
        """Charge the batch, and store the rest as dead letters. Raises RetryLater; the next call
        continues where this one stopped.
        """
        await self._intake.process(self._pending)
        if self._letters is None:
            self._letters = self._intake.letters(self._pending)
        if self._letters:
            await self._store_dead_letters(self._letters)
        self._intake.log_results(self._pending)

    async def _store_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        try:
            await self._inbox.add_dead_letters([kept(letter) for letter in letters])
            await self._topics.send(letters)
        except (StoreUnavailable, Contended) as error:
            raise RetryLater(str(error)) from error
        failpoints.hit("buried")

    def drop(self, places: Collection[Place]) -> None:
        """Drop records that another consumer will read; it recognises those already charged."""
        self._pending = [
            one for one in self._pending if (one.record.topic, one.record.partition) not in places
        ]
        self._letters = None

    def offsets(self) -> dict[Place, int]:
        """Return the offsets to commit."""
        ends: dict[Place, int] = {}
        for one in self._pending:
            place = (one.record.topic, one.record.partition)
            ends[place] = max(ends.get(place, 0), one.record.offset + 1)
        return ends


Begin = Callable[[Sequence[ConsumerRecord]], PolledRecords]
