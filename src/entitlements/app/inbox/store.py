"""The inbox: the stored result of each usage report, and the dead letters (events that could not be
processed).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from msgspec import Struct

from entitlements.app.paging import Page
from entitlements.core.model import AuditEntry, ConsumptionRecord, Receipt
from entitlements.core.reasons import ConsumptionOutcome


class Reason(StrEnum):
    """Why an event became a dead letter."""

    MALFORMED = "malformed"
    UNPRICEABLE = "unpriceable"
    FAILED = "failed"


class LetterState(StrEnum):
    """The state of a dead letter."""

    OPEN = "open"
    REPLAYED = "replayed"
    DROPPED = "dropped"


Headers = tuple[tuple[str, bytes | None], ...]


class DeadLetter(Struct, frozen=True, gc=False, kw_only=True):
    """The raw bytes of an event, and why it was not processed. Unique by its place in a log."""

    id: str
    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    reason: Reason
    detail: str
    died_at: datetime
    state: LetterState = LetterState.OPEN
    closed_at: datetime | None = None


class LettersQuery(Struct, frozen=True, kw_only=True):
    """Filters of the listing, newest first; omitted filters match all. ``after`` is the last letter
    of the previous page.
    """

    state: LetterState | None = None
    topic: str | None = None
    reason: Reason | None = None
    limit: int = 100
    after: str | None = None


class RecordsQuery(Struct, frozen=True, kw_only=True):
    """Filters of the listing, newest first; omitted filters match all. ``after`` is the last record
    of the previous page.
    """

    user_id: str | None = None
    org_id: str | None = None
    metric: str | None = None
    result: ConsumptionOutcome | None = None
    since: datetime | None = None
    until: datetime | None = None
    limit: int = 100
    after: str | None = None


class Inbox(Protocol):
    """Stores both. The ledger writes the records of charges, in the same transaction."""

    async def use_records(self, query: RecordsQuery) -> Page[ConsumptionRecord, str]: ...

    async def add_conflict(self, record: ConsumptionRecord) -> None:
        """Store the conflict of a refused request, once if it is repeated."""

    async def add_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        """Store the letters, except those whose place is stored already."""

    async def dead_letter(self, letter_id: str) -> DeadLetter | None: ...

    async def dead_letters(self, query: LettersQuery) -> Page[DeadLetter, str]: ...

    async def close_dead_letter(
        self,
        letter_id: str,
        state: LetterState,
        at: datetime,
        audit: AuditEntry,
        receipt: Receipt | None = None,
    ) -> bool:
        """Close an open letter. Return False, and write nothing, if it is not open. Raises
        Contended if the receipt's key already has an unexpired receipt.
        """

    async def note_replay(self, letter_id: str, reason: Reason, detail: str) -> None:
        """Store why the replay failed."""

    async def open_dead_letters(self) -> int:
        """Return the number of open letters, counted up to `LETTERS_COUNTED_MAX`."""


LETTERS_COUNTED_MAX = 1_000
