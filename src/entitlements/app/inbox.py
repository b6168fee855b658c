"""What comes in by events, as it is kept: what was made of each report, and the events that
nothing could be made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from msgspec import Struct

from entitlements.app.paging import Page
from entitlements.core.model import AuditEntry, Receipt, UseRecord
from entitlements.core.outcomes import UseResult


class Reason(StrEnum):
    """Why nothing could be made of an event."""

    MALFORMED = "malformed"
    UNPRICEABLE = "unpriceable"
    FAILED = "failed"


class LetterState(StrEnum):
    """What operators have made of a dead letter."""

    OPEN = "open"
    REPLAYED = "replayed"
    DROPPED = "dropped"


Headers = tuple[tuple[str, bytes | None], ...]


class DeadLetter(Struct, frozen=True, gc=False, kw_only=True):
    """An event as it came, byte by byte, and why it was set aside; one for each place in a log."""

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
    """Filters of the listing, newest first; those left out match all. ``after``: the letter a page
    ended with.
    """

    state: LetterState | None = None
    topic: str | None = None
    reason: Reason | None = None
    limit: int = 100
    after: str | None = None


class RecordsQuery(Struct, frozen=True, kw_only=True):
    """Filters of the listing, newest first; those left out match all. ``after``: the record a page
    ended with.
    """

    user_id: str | None = None
    org_id: str | None = None
    metric: str | None = None
    result: UseResult | None = None
    since: datetime | None = None
    until: datetime | None = None
    limit: int = 100
    after: str | None = None


class Inbox(Protocol):
    """Keeps both; records of charges are written by the ledger, with the charge."""

    async def use_records(self, query: RecordsQuery) -> Page[UseRecord, str]: ...

    async def add_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        """Those whose place is known already are left out."""

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
        """False: it is not open any more; then nothing is written. Raises Contended if the key of
        the receipt has one that has not expired.
        """

    async def note_replay(self, letter_id: str, reason: Reason, detail: str) -> None:
        """Why it could not be used this time either."""

    async def open_dead_letters(self) -> int:
        """How many wait for an operator, counted up to `LETTERS_COUNTED_MAX`."""


LETTERS_COUNTED_MAX = 1_000
