"""The database ports: what the use cases need from a database. Both engines implement them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Any, ClassVar, Final, Literal, NamedTuple, Protocol

from msgspec import Struct

from entitlements.app.paging import Page
from entitlements.core.commands import AnyCommand
from entitlements.core.ledger.book import Book, Changes, Needs
from entitlements.core.model import (
    NEVER,
    AuditEntry,
    Debt,
    Hold,
    Member,
    Membership,
    Operation,
    Receipt,
    StoredGrant,
    Subject,
    WalletKey,
)
from entitlements.core.outcomes import AnyOutcome, Refusal
from entitlements.core.reasons import EntitlementType, GrantStatus, HoldStatus, SubjectType
from entitlements.core.subscription import LifecycleCall, Subscription, SubscriptionStatus
from entitlements.core.windows import WindowKey

CHECK_S: Final = 3.0
"""The database timeout for what a check, a balance or an API key needs."""
LIMITER_LEASE_MAX_S: Final = 60.0
LIMIT_EVENTS_KEPT: Final = timedelta(days=1)
"""How long events of limits are stored; those of near limits that long after their window."""
NO_POLICY: Final = ""
"""The version and the document of a database without an active policy."""


Applied = Literal["no", "unknown"]
"""Whether a failed change was applied; unknown only if COMMIT was sent and not answered."""


class Transient(Exception):
    """The work can succeed later without a change; retry."""


class StoreUnavailable(Transient):
    """The database cannot be reached, or did not respond in time."""

    def __init__(self, detail: str, *, applied: Applied = "no") -> None:
        super().__init__(detail)
        self.applied: Applied = applied


class NoDatabase(StoreUnavailable):
    """The address leads to no usable database: wrong host, database, role, folder, password or
    file. Waiting alone seldom helps.
    """


class ReadOnly(StoreUnavailable):
    """The database responds but is read-only: a standby, or set to read-only."""


class WriteRejected(Exception):
    """A constraint or guard in the database rejected the write; nothing was written."""


class Contended(Transient):
    """A concurrent transaction won (lock, deadlock, serialisation, same new key). Retry."""


class Locked(Contended):
    """Another transaction has locked a wallet for longer than the service waits."""


class Unreadable(Exception):
    """Rows of a wallet or hold contain values that this program does not know: a newer program
    wrote them, or they are damaged. Nothing was changed.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(f"the records of {', '.join(names)} cannot be read by this program")
        self.names = tuple(names)


class AddressUnusable(ValueError):
    """The URL of a dependency cannot be used. The text contains no secret from the URL."""

    def __init__(self, dependency: str, why: str) -> None:
        super().__init__(f"the URL of {dependency} {why}")


class Migrated(NamedTuple):
    """The names of the applied migrations, and the remaining manual steps."""

    applied: list[str]
    hints: list[str]


class RoleUnusable(Exception):
    """The database role has fewer rights than the service needs, or more than it may have."""


class SchemaMismatch(Exception):
    """The database's schema is not the one this program needs; nothing was changed."""


class OutboxRow(Struct, frozen=True, gc=False):
    """An event, written in the transaction of the operation it announces."""

    wallet: WalletKey
    seq: int
    n: int
    event_id: str
    event_type: str
    key: str
    payload: str
    created_at: datetime
    """Never earlier than those of earlier events of the wallet."""
    traceparent: str | None = None


class LimitEvent(Struct, frozen=True, gc=False, kw_only=True):
    """An event of a limit, which has no operation."""

    event_id: str
    event_type: str
    key: str
    payload: str
    created_at: datetime


class LimitExceeded(LimitEvent, frozen=True, gc=False, kw_only=True):
    """A limit denied a request: one event per subject, metric and minute since 1970."""

    subject: Subject
    metric: str
    minute: int


class LimitNear(LimitEvent, frozen=True, gc=False, kw_only=True):
    """A limit is near: one event per subject, metric and window length in the window's time."""

    subject: Subject
    metric: str
    window_s: int

    @property
    def window(self) -> WindowKey:
        return WindowKey(self.subject, self.metric, self.window_s)


class PastUse(Struct, frozen=True, gc=False):
    """Units used in one slice of the windows of one length, by one user for one payer.

    ``of_user`` and ``of_org`` are false if the windows of the user or org were reset afterwards.
    """

    user_id: str
    org_id: str | None
    metric: str
    slice: int
    units: int
    of_user: bool = True
    of_org: bool = True


class Batch(Struct, frozen=True, gc=False):
    """All writes of one transaction."""

    changes: Changes
    outbox: list[OutboxRow]
    calls: list[LifecycleCall] = []


Decide = Callable[[Book], "Batch | Needs | None"]
"""Decides on a loaded book: returns the batch to write, `Needs` to load more, or None."""


Seal = Callable[[], None]
"""Called right before COMMIT; raises to roll back."""


def unsealed() -> None:
    """Allow every commit."""


AHEAD = 64
"""The number of upcoming starts and expiries per wallet in an opened book."""


class Ledger(Protocol):
    """The ledger. One `commit` is one transaction, and the only way to change a wallet."""

    async def commit(
        self, needs: Needs, decide: Decide, *, seal: Seal = unsealed, skip_locked: bool = False
    ) -> None:
        """Lock and load what ``needs`` names, call ``decide``, write its batch, commit.

        What is loaded cannot change until the commit. ``seal`` is called right before COMMIT is
        sent; if it raises, the transaction is rolled back. With ``skip_locked``, wallets that
        others have locked are left out of the book. ``decide`` can be called several times, each
        time with a fresh book. Raises Locked, Contended, WriteRejected, Unreadable,
        StoreUnavailable. If `applied` of a StoreUnavailable is unknown, the batch may have been
        committed; only its receipts show whether it was.
        """


class OpenTransaction(Ledger, Protocol):
    """A transaction that a caller ends. Each `commit` in it is kept or undone as a whole, and is
    durable only once the transaction is committed.
    """

    async def execute(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run a statement of the caller and return its rows. Raises the driver's errors.

        This and `commit` raise TransactionOver.
        """


class Transactions(Protocol):
    """Transactions in which commands and statements of a caller are committed together."""

    def begin(self) -> AbstractAsyncContextManager[OpenTransaction]:
        """Begin a transaction, which commits at the end of the block unless the block raises.

        Errors of the block pass unchanged. Raises TransactionOver, and StoreUnavailable; if its
        `applied` is unknown, the transaction may have been committed.
        """

    def join(self, connection: Any) -> AbstractAsyncContextManager[OpenTransaction]:
        """Return the transaction that is open on the caller's connection; the caller ends it.

        Raises ConnectionUnusable.
        """


class ConnectionUnusable(ValueError):
    """A caller's connection that cannot be joined: no transaction, another database or driver."""


class TransactionOver(Exception):
    """A transaction that a statement of its caller has ended or aborted before its block ended."""

    def __init__(self, reason: str = "was ended by a statement before its block ended") -> None:
        super().__init__(reason)


class Submitter(Protocol):
    """Decides commands."""

    async def submit(
        self, command: AnyCommand, *, deadline_s: float | None = None
    ) -> AnyOutcome | Refusal:
        """Return the command's outcome. Raises StoreUnavailable if it has none in time."""


class AuditQuery(Struct, frozen=True, kw_only=True):
    """Filters of the audit log; omitted filters match all. ``after``: the end of the last page."""

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
    """The last row of a page, by time, then id. Debts are oldest first, all others newest first."""

    created_at: datetime
    id: str


def debts_page(found: list[Debt], limit: int) -> Page[Debt, Cursor]:
    """Return the page from a query with a limit of one row more than the page."""
    rows = found[:limit]
    more = len(found) > limit
    return Page(
        rows=rows, next=Cursor(rows[-1].created_at, rows[-1].operation_id) if more else None
    )


def members_page(found: list[Member], limit: int) -> Page[Member, str]:
    """Return the page from a query with a limit of one row more than the page."""
    rows = found[:limit]
    return Page(rows=rows, next=rows[-1].user_id if len(found) > limit else None)


class OperationsQuery(Struct, frozen=True, kw_only=True):
    """Filters of the ledger's listing; omitted filters match all. ``limit`` 1-1000.

    ``key`` is the idempotency key of a request, of any client.
    """

    subject_type: SubjectType | None = None
    subject_id: str | None = None
    correlation_id: str | None = None
    key: str | None = None
    hold_id: str | None = None
    group_id: str | None = None
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


class ImportedOperation(Struct, frozen=True, gc=False, kw_only=True):
    """An operation of an older service's history: no line of the ledger."""

    id: str
    subject: Subject
    credit_type: str
    metric: str
    amount: int
    batch_id: str | None
    consumed_from: str | None
    correlation_id: str | None
    status: str
    created_at: datetime


class ImportedOperationsQuery(Struct, frozen=True, kw_only=True):
    """Filters of the older service's history; omitted filters match all. ``limit`` 1-1000."""

    subject_type: SubjectType | None = None
    subject_id: str | None = None
    correlation_id: str | None = None
    metric: str | None = None
    status: str | None = None
    batch_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    limit: int = 100
    after: Cursor | None = None


class GrantsQuery(Struct, frozen=True, kw_only=True):
    """Filters of the listing of grants; omitted filters match all. ``status`` is that at ``now``.
    ``after`` is the last grant of the previous page. ``limit`` 1-1000.
    """

    subject_type: SubjectType | None = None
    subject_id: str | None = None
    entitlement_type: EntitlementType | None = None
    status: GrantStatus | None = None
    reference_id: str | None = None
    now: datetime
    limit: int = 100
    after: str | None = None


class SubscriptionsQuery(Struct, frozen=True, kw_only=True):
    """Filters of the listing of subscriptions; omitted filters match all. ``status`` is that at
    ``now``. ``after`` is the own grant of the last one of the previous page. ``limit`` 1-1000.
    """

    subject_type: SubjectType | None = None
    subject_id: str | None = None
    plan_id: str | None = None
    status: SubscriptionStatus | None = None
    now: datetime
    limit: int = 100
    after: str | None = None


class WalletsQuery(Struct, frozen=True, kw_only=True):
    """Filters of the listing of wallets; omitted filters match all. ``after`` is the last wallet of
    the previous page. ``limit`` 1-1000.
    """

    subject_type: SubjectType | None = None
    subject_id: str | None = None
    credit_type: str | None = None
    limit: int = 100
    after: WalletKey | None = None


class HoldsQuery(Struct, frozen=True, kw_only=True):
    """Filters of the listing of holds; omitted filters match all. ``after`` is the last hold of the
    previous page. ``limit`` 1-1000 parts of holds.
    """

    subject_type: SubjectType | None = None
    subject_id: str | None = None
    status: HoldStatus | None = None
    limit: int = 100
    after: str | None = None


class ApiKey(Struct, frozen=True, kw_only=True):
    """A caller's credential; of the secret only the SHA-256 is stored."""

    id: str
    name: str
    role: str
    prefix: str
    secret_sha256: str
    created_at: datetime
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None


class Backlog(Struct, frozen=True, kw_only=True):
    """The number of events that wait to be published, and of parked ones, each counted up to
    `COUNTED_MAX`.
    """

    COUNTED_MAX: ClassVar[int] = 10_000

    events: int = 0
    oldest_at: datetime | None = None
    parked: int = 0


class Connections(Struct, frozen=True, kw_only=True):
    """The usage of the database connections."""

    idle: int
    busy: int
    waiting: int
    """Requests that wait for a connection."""
    most: int
    """The maximum number of connections."""


class PolicyVersion(Struct, frozen=True, kw_only=True):
    """A version of the policy and its activation time, which orders the versions."""

    version: str
    activated_at: datetime
    actor: str
    active: bool


class Activation(Struct, frozen=True):
    """The result of an activation: the active version, and whether the call changed it."""

    active: str
    changed: bool


GrantsOf = tuple[Subject, EntitlementType]
"""The grants of a subject of one type."""


class LedgerReads(Protocol):
    """Reads of the ledger's committed state."""

    async def books(
        self,
        keys: Sequence[WalletKey],
        *,
        owing: Collection[WalletKey] = (),
        members: Collection[Membership] = (),
        expiring: bool = False,
    ) -> Book:
        """Return the wallets with their due effects, read at one moment; wallets that do not exist
        are left out. `Book.now` is the database's clock. ``owing``, ``members`` and ``expiring``
        fill `Book.owing`, in which debts without a price count as 0, `Book.members` and
        `Book.expiring`. Raises Unreadable.
        """

    async def opened_books(self, needs: Needs) -> Book:
        """As `books`, for the ``wallets`` of the needs, with the first live grants of each in burn
        order, the next `AHEAD` starts, expiries and lapses of holds, and the ``owing`` and
        ``oldest_debts`` of the needs.
        """

    async def operation(self, operation_id: str) -> Operation | None: ...

    async def operation_ids(self, first: str, last: str) -> list[str]:
        """Return ids of operations from ``first`` to ``last``, at most two."""

    async def operations(self, query: OperationsQuery) -> Page[Operation, Cursor]:
        """Return operations, newest first by time, wallet and number."""

    async def grant(self, grant_id: str) -> StoredGrant | None: ...

    async def grant_ids(self, first: str, last: str) -> list[str]:
        """Return ids of grants from ``first`` to ``last``, at most two."""

    async def grants(self, query: GrantsQuery) -> Page[StoredGrant, str]:
        """Return grants, newest first, as stored, due or not."""

    async def current_grants(self, wanted: Sequence[GrantsOf], limit: int) -> list[StoredGrant]:
        """Return what gives subjects something, now or later, as stored: of each subject and type
        the first ``limit`` grants by priority, expiry, start and id. Those that have expired are
        left out, also if that is not on record yet.
        """

    async def used_totals(self, subject: Subject) -> dict[str, int]:
        """Return the used quantity of all consumable grants, by their wallets' credit type."""

    async def subscription(self, subscription_id: str) -> Subscription | None: ...

    async def subscriptions(self, query: SubscriptionsQuery) -> Page[Subscription, str]:
        """Return subscriptions, the newest activation first, as stored."""

    async def hold(self, hold_id: str) -> list[Hold]:
        """Return the parts of a hold, credits first, then by type, as stored, due or not."""

    async def holds_named(self, ids: Sequence[str]) -> list[Hold]:
        """Return the parts of several holds, in any order; unknown ids are left out.

        Raises Unreadable.
        """

    async def holds(self, query: HoldsQuery) -> Page[Hold, str]:
        """Return parts of holds, newest first, as stored. The parts of a hold are adjacent; if a
        page ends between them, its cursor is that hold.
        """

    async def wallet_keys(self, subject_type: str, subject_id: str) -> list[WalletKey]:
        """Return every wallet of the subject, ordered by credit type."""

    async def member(self, key: Membership) -> Member | None:
        """Return the membership, also one that has ended."""

    async def members_of(self, org_id: str, *, after: str | None, limit: int) -> Page[Member, str]:
        """Return the org's members by user id, after a user id."""

    async def wallets(self, query: WalletsQuery) -> Page[WalletKey, WalletKey]:
        """Return wallets by subject type, subject id and credit type, all descending."""

    async def orgs_of(self, user_id: str, limit: int) -> list[str]:
        """Return up to ``limit`` orgs that the user is a member of, ordered by id."""

    async def debt(self, operation_id: str) -> Debt | None: ...

    async def debts(
        self, *, open_only: bool, limit: int, after: Cursor | None = None
    ) -> Page[Debt, Cursor]:
        """Return debts, oldest first."""

    async def unpriced_work(
        self, metrics: Collection[str] | None, limit: int, *, without: Collection[str] = ()
    ) -> list[str]:
        """Return operations that filed work without a price and still have none, oldest first; of
        these metrics, or of any if None.
        """

    async def unpriced_total(self, limit: int) -> int:
        """Return the number of debts without a price, counted up to ``limit``."""

    async def due_wallets(
        self, limit: int, *, without: Collection[WalletKey] = ()
    ) -> list[WalletKey]:
        """Return wallets with due effects, the longest due first."""


class ImportedHistory(Protocol):
    """The operations of an older service."""

    async def add(self, operations: Sequence[ImportedOperation]) -> int:
        """Store the operations, except those stored before; return how many are new."""

    async def known(self, operations: Sequence[ImportedOperation]) -> int:
        """Return how many of the operations are stored."""

    async def operations(self, query: ImportedOperationsQuery) -> Page[ImportedOperation, Cursor]:
        """Return operations, newest first by time, then id."""


class Acts(Protocol):
    """Receipts and audit entries of acts that do not change the ledger."""

    async def receipt(self, client: str, key: str) -> Receipt | None:
        """Return the receipt of a key, expired or not."""

    async def receipts(self, client: str, keys: Sequence[str]) -> list[Receipt]:
        """Return the receipts of the keys that have one, expired or not, in any order."""

    async def add_receipt(self, receipt: Receipt) -> None:
        """Store a receipt. Raises Contended if the key has an unexpired one."""

    async def add_audit(self, entry: AuditEntry) -> None:
        """Store the audit entry of an act that changes nothing in the database."""

    async def audit(self, query: AuditQuery) -> Page[AuditEntry, Cursor]:
        """Return entries, newest first by time, then id."""

    async def purge(self, limit: int) -> int:
        """Delete up to ``limit`` expired receipts; return how many."""


class ApiKeys(Protocol):
    """The API keys. Of a secret only the SHA-256 is known."""

    async def find(self, secret_sha256: str) -> ApiKey | None: ...

    async def all(self) -> list[ApiKey]: ...

    async def add(self, key: ApiKey, audit: AuditEntry) -> None: ...

    async def revoke(self, key_id: str, at: datetime, audit: AuditEntry) -> bool:
        """Revoke a key. Return False, and write nothing, if it is unknown or already revoked."""

    async def touch(self, used_at: dict[str, datetime]) -> None:
        """Store when keys were last used. Such a write may be lost."""


class PolicyVersions(Protocol):
    """The versions of the policy document; at most one is active."""

    async def activate(self, version: str, content: str, audit: AuditEntry) -> Activation:
        """Make the version active, unless it was active before.

        Waits for every batch that has loaded the previous version; later batches load the new one.
        So no operation is priced by a superseded version. The audit entry is written only if the
        active version changed. Raises Contended if batches do not end in time.
        """

    async def active(self) -> str | None:
        """Return the active version; None if no policy was ever activated."""

    async def allowances(self) -> frozenset[str]:
        """Return the metrics that allowances were granted for."""

    async def content(self, version: str) -> str | None:
        """Return the version's document."""

    async def versions(
        self, *, prefix: str = "", before: datetime | None = None, limit: int
    ) -> list[PolicyVersion]:
        """Return versions that start with ``prefix`` and were activated before ``before``, newest
        first; the active one included.
        """


class LimitStore(Protocol):
    """What rate limits need from a database: past usage, limiters and events."""

    async def past_uses(
        self, metrics: Sequence[str], *, window_s: int, since: datetime, until: datetime = NEVER
    ) -> list[PastUse]:
        """Return the units that completed consumptions of these metrics used in the time, summed by
        window slice, oldest first. An adjustment is a use of `credit_adjustment` by its actor.
        """

    async def announce_limiter(self, name: str, lease_s: float) -> int:
        """Record for ``lease_s`` that a process counts limits in its own memory; 0 ends that.
        Return the number of other such processes.
        """

    async def add_limit_exceeded(self, events: Sequence[LimitExceeded]) -> None:
        """Store the events, except those whose subject, metric and minute have one already."""

    async def add_limit_near(self, events: Sequence[LimitNear]) -> dict[WindowKey, datetime]:
        """Store the events, except those whose window has had one for less than its length. An
        event replaces the last one of its window, even if that is not published yet.

        Return when each of the windows may have its next event.
        """

    async def purge(self, limit: int) -> None:
        """Delete up to ``limit`` events of each kind that are older than `LIMIT_EVENTS_KEPT`; those
        of near limits that long after their window's time.
        """
