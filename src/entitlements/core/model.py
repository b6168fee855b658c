"""The values of the ledger: wallets, grants, operations, receipts.

Credits and units are whole numbers up to `policy.AMOUNT_MAX`; times are aware UTC datetimes.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, Literal, NamedTuple

from msgspec import Struct

from entitlements.core.outcomes import UNPRICED, HoldChanged, StoredOutcome, UseResult
from entitlements.core.policy import Cost

NEVER = datetime.max.replace(tzinfo=UTC)

SubjectType = Literal["org", "user"]


class Subject(NamedTuple):
    """Who holds credits."""

    type: SubjectType
    id: str

    def __str__(self) -> str:
        return f"{self.type}:{self.id}"


class WalletKey(NamedTuple):
    """Names a wallet; sorts in the order in which wallets are locked."""

    subject_type: SubjectType
    subject_id: str
    credit_type: str

    @property
    def subject(self) -> Subject:
        return Subject(self.subject_type, self.subject_id)


LEFT_NOTHING: Final = -1
"""In `Wallet.balance_at_grant`: the last grant only repaid an overdraft."""


class Wallet(Struct, frozen=True, gc=False, kw_only=True):
    """Totals of one subject's credits of one type, exact while ``now < next_due_at``."""

    key: WalletKey
    balance: int = 0
    held: int = 0
    overdraft: int = 0
    version: int = 0
    next_due_at: datetime | None = None
    updated_at: datetime
    balance_at_grant: int = 0
    """What it held right after its last grant, 0 if it had none."""

    @property
    def available(self) -> int:
        return self.balance - self.held

    def is_due(self, now: datetime) -> bool:
        """Whether a start, expiry or lapse may have come that the totals do not show yet."""
        return self.next_due_at is not None and self.next_due_at <= now


class GrantReason(StrEnum):
    """Why a grant was given."""

    PURCHASE = "purchase"
    SUBSCRIPTION = "subscription"
    PROMOTION = "promotion"
    BONUS = "bonus"
    TRIAL = "trial"
    MANUAL = "manual"
    ENTERPRISE_CONTRACT = "enterprise_contract"
    SIGNUP_BONUS = "signup_bonus"
    REFUND = "refund"
    SUBSCRIPTION_CANCELLED = "subscription_cancelled"
    MANUAL_ADJUSTMENT = "manual_adjustment"


class Grant(Struct, frozen=True, gc=False, kw_only=True):
    """Credits given to a wallet; they pay in ``[granted_at, expires_at)``.

    ``started`` and ``ended_at`` tell what the ledger has recorded, not what the clock says.
    """

    id: str
    wallet: WalletKey
    quantity: int
    remaining: int
    held: int = 0
    priority: int = 50
    granted_at: datetime
    expires_at: datetime | None = None
    reason: GrantReason
    started: bool = True
    ended_at: datetime | None = None
    end_reason: str | None = None

    @property
    def is_live(self) -> bool:
        """Whether it can pay, as far as the ledger has recorded."""
        return self.started and self.ended_at is None and self.remaining > 0

    @property
    def due_at(self) -> datetime | None:
        """When the ledger must next record something of it: its start, or its expiry."""
        if self.ended_at is not None:
            return None
        if not self.started:
            return self.granted_at
        return self.expires_at if self.remaining > 0 else None


class Expiry(NamedTuple):
    """What a wallet loses, and when, unless it is spent before."""

    at: datetime
    credits: int


class GrantDetails(Struct, frozen=True, gc=False, kw_only=True):
    """What is kept of a grant for people; no rule reads it."""

    granted_by: str
    reference_id: str | None = None
    cost_microcents: int | None = None
    notes: str | None = None
    metadata: str = "{}"
    """A JSON object as text."""


class Draw(NamedTuple):
    """What one grant pays of an operation; negative: what it is given."""

    grant_id: str
    quantity: int


class OperationKind(StrEnum):
    """What an operation records."""

    CONSUME = "consume"
    GRANT = "grant"
    ACTIVATION = "activation"
    EXPIRY = "expiry"
    REVOCATION = "revocation"
    ADJUSTMENT = "manual_adjustment"
    REVERSAL = "reversal"
    SETTLEMENT = "settlement"
    WRITE_OFF = "write_off"
    HOLD = "hold"
    EXTENSION = "extension"
    RELEASE = "release"
    LAPSE = "lapse"


class OperationStatus(StrEnum):
    """Whether an operation did what it was asked to."""

    COMPLETED = "completed"
    FAILED = "failed"
    PENDING = "pending"


class Crossing(NamedTuple):
    """The balance went below a threshold, or is no longer below it."""

    threshold: int
    direction: Literal["below", "above"]


ConsumedFrom = Literal["org", "user", "none"]


class Operation(Struct, frozen=True, gc=False, kw_only=True):
    """One immutable line of the ledger. ``seq`` is gapless per wallet and its commit order.

    ``amount`` is in credits and never negative, of failed work what it would have cost; ``delta``
    is what the balance changed by, so for a consumption ``delta == -amount``, for a failed or free
    operation 0.
    """

    id: str
    seq: int
    kind: OperationKind
    wallet: WalletKey
    user_id: str | None = None
    org_id: str | None = None
    metric: str | None = None
    quantity: int = 0
    amount: int = 0
    delta: int = 0
    balance_after: int
    owed: int = 0
    draws: tuple[Draw, ...] = ()
    batch_id: str | None = None
    consumed_from: ConsumedFrom = "none"
    correlation_id: str
    status: OperationStatus = OperationStatus.COMPLETED
    reason: str | None = None
    policy_version: str
    actor: str
    client: str
    reverses: str | None = None
    hold_id: str | None = None
    counted: int | None = None
    """Units that count against limits, where not all of ``quantity`` do."""
    created_at: datetime
    effective_at: datetime
    overdraft_after: int | None = None
    """The wallet's overdraft right after it, where it changed that."""
    traceparent: str | None = None
    """Of the request, for its events; not kept with the operation."""
    crossings: tuple[Crossing, ...] = ()
    """For its events; not kept with the operation."""

    reverses_seq: int | None = None
    """Of a reversal, the number of what it reversed; not kept with the operation."""

    @property
    def is_unpriced(self) -> bool:
        """Whether it filed work of a metric that had no price."""
        has_failed = self.status is OperationStatus.FAILED
        return has_failed and self.reason == UNPRICED and not self.owed


class HoldStatus(StrEnum):
    """What has become of a hold; a lapsed one may still be settled for a day."""

    OPEN = "open"
    SETTLED = "settled"
    RELEASED = "released"
    LAPSED = "lapsed"


class Closing(Struct, frozen=True, gc=False, kw_only=True):
    """The request that closed a hold, and its answer: the same again gets the same."""

    by: Literal["requirements", "credits", "release"]
    asked: dict[str, int] = {}
    outcome: HoldChanged


class Billed(NamedTuple):
    """What the parts of a hold were charged for one metric: units so far, and their credits."""

    credit_type: str
    units: int
    credits: int


class Hold(Struct, frozen=True, gc=False, kw_only=True):
    """One wallet's part of a hold: credits set aside, and the grants that back them.

    All parts of a hold have one id, one payer, one status and one time, and differ in their
    credit type. ``taken`` is always what is still ``held``, was ``charged`` of it, or ``returned``.
    """

    id: str
    wallet: WalletKey
    user_id: str
    org_id: str | None = None
    requirements: dict[str, int] | None = None
    """Units by metric it was taken for; none where it was taken for credits."""
    taken: int
    held: int
    charged: int = 0
    returned: int = 0
    backing: tuple[Draw, ...] = ()
    """What is still held of which grant, in the order in which it will pay."""
    status: HoldStatus = HoldStatus.OPEN
    expires_at: datetime
    costs: dict[str, Cost] = {}
    """By metric, what the units it was taken for cost then."""
    settled: dict[str, int] = {}
    """Units by metric that were settled so far."""
    billed: dict[str, Billed] = {}
    """By metric, what was charged for these units; debts count as charged."""
    closing: Closing | None = None
    correlation_id: str
    policy_version: str
    actor: str
    client: str
    created_at: datetime
    closed_at: datetime | None = None

    @property
    def settled_late(self) -> HoldChanged | None:
        """Return what a settlement after its lapse came to: a consumption that it did not pay."""
        is_late = self.closing is not None and self.closing.outcome.lapsed
        return self.closing.outcome if self.closing is not None and is_late else None

    @property
    def due_at(self) -> datetime | None:
        """When it lapses, unless something ends it before."""
        return self.expires_at if self.status is HoldStatus.OPEN else None


class HoldFacts(Struct, frozen=True, gc=False, kw_only=True):
    """What never changes of a hold, whatever becomes of it."""

    id: str
    user_id: str
    org_id: str | None
    wallets: tuple[WalletKey, ...]
    """Of its parts, the first one first."""
    correlation_id: str


def facts_of(parts: Sequence[Hold]) -> HoldFacts:
    """Of a hold whose parts were read, in their order."""
    first = parts[0]
    return HoldFacts(
        id=first.id,
        user_id=first.user_id,
        org_id=first.org_id,
        wallets=tuple(part.wallet for part in parts),
        correlation_id=first.correlation_id,
    )


class Receipt(Struct, frozen=True, gc=False, kw_only=True):
    """The stored answer of a keyed request."""

    client: str
    key: str
    fingerprint: str
    outcome: StoredOutcome
    created_at: datetime
    expires_at: datetime


class JobKey(NamedTuple):
    """Names one finished piece of work, over HTTP and events together.

    ``batch_id`` is empty where none is named: services may number their work from 1 again in
    another batch.
    """

    user_id: str
    service_name: str
    processing_id: str
    metric: str
    batch_id: str = ""


class JobRecord(Struct, frozen=True, gc=False, kw_only=True):
    """The job as first consumed: its units, and the answer it got."""

    key: JobKey
    units: int
    outcome: StoredOutcome


class Report(Struct, frozen=True, gc=False, kw_only=True):
    """A use as a service reported it: who used how much of what, and which event said so.

    ``user_id`` is empty where the use is an org's alone. (user, event) name the report.
    """

    user_id: str
    event_id: str
    event_type: str
    source_service: str
    org_id: str | None = None
    metric: str
    units: int
    service_name: str | None = None
    processing_id: str | None = None
    batch_id: str | None = None
    hold_id: str | None = None
    trace_id: str | None = None
    reported_at: datetime | None = None
    consumed_at: datetime | None = None

    @property
    def key(self) -> ReportKey:
        return (self.user_id, self.event_id)

    @property
    def job(self) -> JobKey | None:
        """The piece of work it speaks of, where it names one."""
        if self.service_name is None or self.processing_id is None:
            return None
        return JobKey(
            self.user_id, self.service_name, self.processing_id, self.metric, self.batch_id or ""
        )


ReportKey = tuple[str, str]
"""(user, event)"""


class UseRecord(Struct, frozen=True, gc=False, kw_only=True):
    """What was made of a report, for ever. ``operation_id`` of a duplicate or conflict is the
    operation that it repeats.
    """

    id: str
    report: Report
    result: UseResult
    operation_id: str | None = None
    credits: int = 0
    owed: int = 0
    reason: str | None = None
    correlation_id: str
    recorded_at: datetime

    @property
    def is_unpriced(self) -> bool:
        """Whether the work was filed without a price."""
        return self.result is UseResult.FAILED and self.reason == UNPRICED and not self.owed


class Membership(NamedTuple):
    """A user belongs to an org; it says nothing of who pays."""

    org_id: str
    user_id: str


DebtAge = tuple[datetime, str]
"""(when it was made, its operation): the order in which debts are settled."""


class Debt(Struct, frozen=True, gc=False, kw_only=True):
    """Work nobody could pay: the failed operation and what it still owes, None without a price.

    Once it is closed, ``owed`` is what the operation that closed it settled or wrote off.
    """

    operation_id: str
    wallet: WalletKey
    """Of the debtor. Work without a price is filed in the default type, and moves to its own."""
    owed: int | None
    metric: str
    created_at: datetime
    closed_by: str | None = None
    """The settlement, write-off or, of work that had no price, charge that ended it."""

    @property
    def is_unpriced(self) -> bool:
        return self.owed is None and self.closed_by is None

    @property
    def still_owed(self) -> int:
        """Credits that are open; without a price none."""
        return 0 if self.owed is None or self.closed_by is not None else self.owed

    @property
    def age(self) -> DebtAge:
        return (self.created_at, self.operation_id)


class AuditEntry(Struct, frozen=True, gc=False, kw_only=True):
    """One administrative act."""

    id: str
    at: datetime
    actor: str
    client: str
    action: str
    subject: Subject | None
    reason: str | None
    detail: dict[str, Any]
    """What was asked: JSON values."""
    correlation_id: str
