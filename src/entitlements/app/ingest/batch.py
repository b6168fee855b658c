"""One batch of records from its arrival until its place in the log may be given up."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from entitlements.app import failpoints
from entitlements.app.inbox import DeadLetter, Inbox
from entitlements.app.ingest.intake import Intake, NotNow
from entitlements.app.ingest.letters import kept
from entitlements.app.ingest.records import Arrived
from entitlements.app.ports import Contended, Unavailable

Place = tuple[str, int]
"""(topic, partition)"""


class LetterTopics(Protocol):
    """Carries dead letters to where other systems see them."""

    async def send(self, letters: Sequence[DeadLetter]) -> None:
        """To each one's own dead letter topic, as it came, with the reason beside. Raises
        Unavailable while nobody takes them; one that can never be taken is passed over.
        """


class Batch:
    """Work that may be tried again until it is done, and of which parts may be taken away."""

    def __init__(
        self, intake: Intake, inbox: Inbox, topics: LetterTopics, records: Sequence[Arrived]
    ) -> None:
        self._intake = intake
        self._inbox = inbox
        self._topics = topics
        self._pending = intake.pending(records)
        self._letters: list[DeadLetter] | None = None

    async def work(self) -> None:
        """Charge what can be charged, and set the rest aside where operators see it. Raises NotNow:
        then the same again goes on where it stopped.
        """
        await self._intake.take(self._pending)
        if self._letters is None:
            self._letters = self._intake.letters(self._pending)
        if self._letters:
            await self._bury(self._letters)
        self._intake.tell(self._pending)

    async def _bury(self, letters: Sequence[DeadLetter]) -> None:
        try:
            await self._inbox.add_dead_letters([kept(letter) for letter in letters])
            await self._topics.send(letters)
        except (Unavailable, Contended) as error:
            raise NotNow(str(error)) from error
        failpoints.hit("buried")

    def drop(self, places: Collection[Place]) -> None:
        """Forget what another consumer will read again. What was charged of it, it will find so."""
        self._pending = [
            one for one in self._pending if (one.record.topic, one.record.partition) not in places
        ]
        self._letters = None

    def offsets(self) -> dict[Place, int]:
        """Where to read on."""
        ends: dict[Place, int] = {}
        for one in self._pending:
            place = (one.record.topic, one.record.partition)
            ends[place] = max(ends.get(place, 0), one.record.offset + 1)
        return ends


Begin = Callable[[Sequence[Arrived]], Batch]
