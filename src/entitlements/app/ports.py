"""What the use cases need from a database, stated as guarantees. Two engines keep them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import ClassVar, Final, Literal, NamedTuple, Protocol

from msgspec import Struct

from entitlements.app.paging import Page
from entitlements.core.ledger.book import Book, Changes, Needs
from entitlements.core.model import (
    NEVER,
    AuditEntry,
    Debt,
    Grant,
    Hold,
    HoldStatus,
    Operation,
    Receipt,
    Subject,
    SubjectType,
    UseRecord,
    WalletKey,
)
from entitlements.core.policy import BurnOrder

CHECK_S: Final = 3.0
"""How long the database may take for what a check, a balance or an API key needs."""
LIMITER_LEASE_MAX_S: Final = 60.0
NO_POLICY: Final = ""
"""The version, and the document, that a database without an active policy has."""


Applied = Literal["no", "unknown"]
"""Of a change that failed; unknown only where COMMIT was sent and not answered."""


class Unavailable(Exception):
    """The database cannot be reached, or did not answer in time."""

    def __init__(self, detail: str, *, applied: Applied = "no") -> None:
        super().__init__(detail)
        self.applied: Applied = applied


class NoDatabase(Unavailable):
    """The address leads to no database that lets us in: no such host, database, role or folder, a
    wrong password, another file. It may be there later; waiting alone seldom helps.
    """


class ReadOnly(Unavailable):
    """The database answers, but takes no writes: a standby, or one that was set so."""


class Conflict(Exception):
    """A guard in the database disagreed with what was about to be written; nothing was."""


class Contended(Exception):
    """A rival was faster (lock, deadlock, serialisation, same new key); the same again may pass."""


class Locked(Contended):
    """A foreign transaction keeps a wallet locked for longer than we wait."""


class Unreadable(Exception):
    """Rows of one of these wallets, or of a hold, hold what this program does not know: a newer
    program wrote them, or they are damaged. Nothing was changed.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(f"the records of {', '.join(names)} cannot be read by this program")
        self.names = tuple(names)


class AddressUnusable(ValueError):
    """The URL of a dependency cannot be used; the text holds no secret of it."""

    def __init__(self, dependency: str, why: str) -> None:
        super().__init__(f"the URL of {dependency} {why}")


class Migrated(NamedTuple):
    """The migrations that were applied, by name, and what is left to do."""

    applied: list[str]
    hints: list[str]


class RoleUnusable(Exception):
    """A database role would have less than the service needs, or more than it may have."""


class SchemaMismatch(Exception):
    """The database's tables are not those this program was built for; nothing was changed."""


class OutboxRow(Struct, frozen=True, gc=False):
    """One event, born in the transaction of the operation it announces."""

    wallet: WalletKey
    seq: int
    n: int
    event_id: str
    event_type: str
    key: str
    payload: str
    created_at: datetime
    """Never earlier than those before it in the wallet."""
    traceparent: str | None = None


class LimitExceeded(Struct, frozen=True, gc=False, kw_only=True):
    """An event without an operation: one for each subject, metric and minute since 1970."""

    subject: Subject
    metric: str
    minute: int
    event_id: str
    event_type: str
    key: str
    payload: str
    created_at: datetime


class PastUse(Struct, frozen=True, gc=False):
    """Units that were used in one slice of windows of one length, by one user for one payer.

    Not ``of_user`` or ``of_org``: theirs were reset after.
    """

    user_id: str
    org_id: str | None
    metric: str
    slice: int
    units: int
    of_user: bool = True
    of_org: bool = True


class Batch(Struct, frozen=True, gc=False):
    """Everything one transaction writes."""

    changes: Changes
    outbox: list[OutboxRow]


Decide = Callable[[Book], "Batch | Needs | None"]
"""Chooses what to write from what was loaded; asks for more by answering `Needs`; None: nothing."""


Seal = Callable[[], None]
"""Agrees to a commit, or raises."""


def unsealed() -> None:
    """Agree to every commit."""


AHEAD = 64
"""Starts and expiries to come that an opened book holds of each wallet."""


class Ledger(Protocol):
    """Keeps the books. One `commit` is one transaction, and the only way to change a wallet."""

    async def commit(
        self, needs: Needs, decide: Decide, *, seal: Seal = unsealed, skip_locked: bool = False
    ) -> None:
        """Lock and load what ``needs`` names, let ``decide`` choose, write its batch, commit.

        What is loaded stays true until the commit. ``seal`` is called right before COMMIT is sent;
        what it raises undoes the transaction. With ``skip_locked`` wallets that others hold
        are left out of the book. ``decide`` may be called again, each time with a fresh book.
        Raises Locked, Contended, Conflict, Unreadable, Unavailable; where the latter's `applied` is
        unknown the batch may have been committed, and only its receipts tell.
        """


class AuditQuery(Struct, frozen=True, kw_only=True):
    """Filters of the audit log; those left out match all. ``after``: where a page ended."""

    actor: str | None = None
    client: str | None = None
    action: str | None = None
    subject_type: SubjectType | None = None
    subject_id: str | None = None
    correlation_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    limit: int = 100
    after: Cursor | None = None


class Cursor(Struct, frozen=True):
    """Where a page ended, by time, then id: of debts oldest first, else newest first."""

    created_at: datetime
    id: str


def debts_page(found: list[Debt], limit: int) -> Page[Debt, Cursor]:
    """The page of debts that were read up to one more than it may have."""
    rows = found[:limit]
    more = len(found) > limit
    return Page(
        rows=rows, next=Cursor(rows[-1].created_at, rows[-1].operation_id) if more else None
    )


class OperationsQuery(Struct, frozen=True, kw_only=True):
    """Filters of the ledger's listing; those left out match all. ``limit`` 1-1000.

    ``key`` is the idempotency key of a request, of any client.
    """

    subject_type: SubjectType | None = None
    subject_id: str | None = None
    correlation_id: str | None = None
    key: str | None = None
    hold_id: str | None = None
    metric: str | None = None
    status: str | None = None
    kind: str | None = None
    user_id: str | None = None
    org_id: str | None = None
    batch_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    limit: int = 100
    after: Cursor | None = None


class HoldsQuery(Struct, frozen=True, kw_only=True):
    """Filters of the listing of holds; those left out match all. ``after``: the hold a page ended
    with. ``limit`` 1-1000 parts of holds.
    """

    subject_type: SubjectType | None = None
    subject_id: str | None = None
    status: HoldStatus | None = None
    limit: int = 100
    after: str | None = None


class ApiKey(Struct, frozen=True, kw_only=True):
    """A caller's credential; the secret itself is kept nowhere, only its SHA-256."""

    id: str
    name: str
    role: str
    prefix: str
    secret_sha256: str
    created_at: datetime
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None


class Backlog(Struct, frozen=True, kw_only=True):
    """Events that wait to be shipped, and those that are parked; of more than `COUNTED_MAX` only so
    many are counted.
    """

    COUNTED_MAX: ClassVar[int] = 10_000

    events: int = 0
    oldest_at: datetime | None = None
    parked: int = 0


class Connections(Struct, frozen=True, kw_only=True):
    """How the connections to the database are used."""

    idle: int
    busy: int
    waiting: int
    """Who wants one and has none yet."""
    most: int
    """How many there may be."""


class PolicyVersion(Struct, frozen=True, kw_only=True):
    """One version of the rules, and when it came into force; versions follow in that order."""

    version: str
    activated_at: datetime
    actor: str
    active: bool


class Activation(Struct, frozen=True):
    """What became of a version that was offered: the active one, and whether it is newly so."""

    active: str
    changed: bool


class Records(Protocol):
    """Reads of committed state, and the small tables that no wallet depends on."""

    async def books(self, keys: Sequence[WalletKey], *, expiring: bool = False) -> Book:
        """The wallets with what is due in each, of one moment; those that do not exist are left
        out. `Book.now` is the database's clock. With ``expiring``, `Book.expiring` is filled.
        Raises Unreadable.
        """

    async def opened_books(
        self, keys: Sequence[WalletKey], *, order: BurnOrder, depth: Mapping[WalletKey, int]
    ) -> Book:
        """As `books`, with the first live grants of each wallet in burn order, the usual few or
        as many as ``depth`` says, and the next `AHEAD` that start or expire, or holds that lapse.
        """

    async def operation(self, operation_id: str) -> Operation | None: ...

    async def operation_ids(self, first: str, last: str) -> list[str]:
        """Ids of operations from ``first`` to ``last``, two at most."""

    async def operations(self, query: OperationsQuery) -> Page[Operation, Cursor]:
        """Newest first by time, wallet and number."""

    async def grant(self, grant_id: str) -> Grant | None: ...

    async def hold(self, hold_id: str) -> list[Hold]:
        """Its parts, credits first, then by type; as they are on record, due or not."""

    async def holds_named(self, ids: Sequence[str]) -> list[Hold]:
        """The parts of several holds, in any order; an id of no hold has none.

        Raises Unreadable.
        """

    async def holds(self, query: HoldsQuery) -> Page[Hold, str]:
        """Newest first, as they are on record. The parts of one hold are adjacent; a page may end
        between them, with the id of that hold.
        """

    async def wallet_keys(self, subject_type: str, subject_id: str) -> list[WalletKey]:
        """Every wallet of the subject, in credit type order."""

    async def orgs_of(self, user_id: str, limit: int) -> list[str]:
        """Up to ``limit`` orgs that the user is a member of, by id."""

    async def debt(self, operation_id: str) -> Debt | None: ...

    async def debts(
        self, *, open_only: bool, limit: int, after: Cursor | None = None
    ) -> Page[Debt, Cursor]:
        """Oldest first."""

    async def owing(self, keys: Sequence[WalletKey]) -> dict[WalletKey, int]:
        """What the open debts of each wallet add up to; those without a price count 0."""

    async def unpriced_work(
        self, metrics: Collection[str] | None, limit: int, *, without: Collection[str] = ()
    ) -> list[str]:
        """Operations that filed work of these metrics, or of any, which has no price yet, oldest
        first.
        """

    async def unpriced_total(self, limit: int) -> int:
        """How many debts have no price, counted up to ``limit``."""

    async def due_wallets(
        self, limit: int, *, without: Collection[WalletKey] = ()
    ) -> list[WalletKey]:
        """Wallets in which something has come due, the longest due first."""

    async def api_key(self, secret_sha256: str) -> ApiKey | None: ...

    async def api_keys(self) -> list[ApiKey]: ...

    async def add_api_key(self, key: ApiKey, audit: AuditEntry) -> None: ...

    async def revoke_api_key(self, key_id: str, at: datetime, audit: AuditEntry) -> bool:
        """False: no such key, or revoked before; then nothing is written."""

    async def touch_api_keys(self, used_at: dict[str, datetime]) -> None:
        """Note when keys were last used; losing one is allowed."""

    async def receipt(self, client: str, key: str) -> Receipt | None:
        """Return the receipt of a key, expired or not."""

    async def add_receipt(self, receipt: Receipt) -> None:
        """Raises Contended if the key has a receipt that has not expired."""

    async def add_audit(self, entry: AuditEntry) -> None:
        """Of an act that changes nothing in the database."""

    async def audit(self, query: AuditQuery) -> Page[AuditEntry, Cursor]:
        """Newest first by time, then id."""

    async def activate_policy(self, version: str, content: str, audit: AuditEntry) -> Activation:
        """Make it the active version, unless it was active before.

        Waits for every batch that has loaded the version before, and every later batch loads this
        one, so that nothing is priced by a superseded version. The entry is written only if this
        changed something. Raises Contended if batches do not end in time.
        """

    async def active_policy(self) -> str | None:
        """The version in force; none where no policy was ever activated."""

    async def policy(self, version: str) -> str | None:
        """Its document."""

    async def past_uses(
        self, metrics: Sequence[str], *, window_s: int, since: datetime, until: datetime = NEVER
    ) -> list[PastUse]:
        """What completed consumptions of these metrics used in that time, summed by the slices of
        such windows, oldest first; adjustments are uses of `credit_adjustment` by their actors.
        """

    async def announce_limiter(self, name: str, lease_s: float) -> int:
        """Note that a process counts limits in its own memory, which it does for as long as the
        lease; 0 ends it. Returns how many others do.
        """

    async def add_limit_exceeded(self, events: Sequence[LimitExceeded]) -> None:
        """Those whose subject, metric and minute have one already are left out."""

    async def add_conflict(self, record: UseRecord) -> None:
        """Of a request that was refused; the same again is left out."""

    async def policies(
        self, *, prefix: str = "", before: datetime | None = None, limit: int
    ) -> list[PolicyVersion]:
        """Versions that begin with ``prefix`` and came before a time; the newest, which may be the
        active one, first.
        """

    async def purge(self, limit: int) -> int:
        """Delete up to ``limit`` receipts whose lifetime is over, and as many limit events of
        yesterday; answers how many receipts.
        """

    async def backlog(self) -> Backlog: ...

    async def ping(self) -> None:
        """Raises Unavailable."""
