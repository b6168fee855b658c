"""The values of the ledger: wallets, grants, operations, receipts.

Credits and units are whole numbers up to `policy.AMOUNT_MAX`; times are aware UTC datetimes.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal, NamedTuple

from msgspec import Struct

from entitlements.core.outcomes import HoldChanged, StoredOutcome
from entitlements.core.policy import AMOUNT_MAX, DEFAULT_CREDIT_TYPE, Cost
from entitlements.core.reasons import (
    ConsumedFrom,
    ConsumptionOutcome,
    ConsumptionType,
    DenialReason,
    EntitlementType,
    GrantReason,
    GrantStatus,
    HoldStatus,
    OperationKind,
    OperationStatus,
    SubjectType,
)
from entitlements.core.renewals import Period, renewal, renewals_until

NEVER = datetime.max.replace(tzinfo=UTC)
EXPIRED: Final = "expired"
REVOKED: Final = "revoked"
"""Reasons for the end of a grant."""


class Subject(NamedTuple):
    """An org or a user that holds credits."""

    type: SubjectType
    id: str

    def __str__(self) -> str:
        return f"{self.type}:{self.id}"


class WalletKey(NamedTuple):
    """The identity of a wallet. Keys sort in the order in which wallets are locked."""

    subject_type: SubjectType
    subject_id: str
    credit_type: str

    @property
    def subject(self) -> Subject:
        return Subject(self.subject_type, self.subject_id)

    @property
    def is_of_allowances(self) -> bool:
        """Return whether it keeps units of a metric, not credits."""
        return self.credit_type.startswith(UNITS)


UNITS: Final = "units:"
"""How the credit types of allowances begin; the rest is the metric, or nothing. Callers cannot name
them.
"""


def allowance_type(metric: str | None) -> str:
    """Return the credit type of the wallets that keep allowances of the metric."""
    return f"{UNITS}{metric or ''}"


def is_units(credit_type: str) -> bool:
    """Return whether wallets of the type keep allowances."""
    return credit_type.startswith(UNITS)


def metric_of(credit_type: str) -> str:
    """Return the metric of an allowance's credit type."""
    return credit_type.removeprefix(UNITS)


def wallet_of_grant(
    subject: Subject, kind: EntitlementType, credit_type: str | None, metric: str | None
) -> WalletKey:
    """Return the wallet that keeps a subject's grants of this type."""
    if kind is EntitlementType.USAGE_ALLOWANCE:
        return WalletKey(*subject, allowance_type(metric))
    return WalletKey(*subject, credit_type or DEFAULT_CREDIT_TYPE)


LEFT_NOTHING: Final = -1
"""In `Wallet.balance_at_grant`: the last grant only repaid an overdraft."""


class Wallet(Struct, frozen=True, gc=False, kw_only=True):
    """One subject's totals for one credit type, exact while ``now < next_due_at``."""

    key: WalletKey
    balance: int = 0
    held: int = 0
    overdraft: int = 0
    version: int = 0
    next_due_at: datetime | None = None
    updated_at: datetime
    balance_at_grant: int = 0
    """The balance right after the last grant; 0 if the wallet never had a grant."""
    unlimited: int = 0
    """How many unlimited grants are live; they add nothing to the balance."""
    promised: int = 0
    """The credits of scheduled grants. With the balance, they never exceed ``AMOUNT_MAX``."""

    @property
    def available(self) -> int:
        """Return the credits that can be spent now; ``AMOUNT_MAX`` with an unlimited grant."""
        return AMOUNT_MAX if self.unlimited else self.counted

    @property
    def counted(self) -> int:
        """Return the credits that can be spent without unlimited grants."""
        return self.balance - self.held

    def is_due(self, now: datetime) -> bool:
        """Return whether a start, expiry or lapse can be due that the totals do not show yet.

        A wallet's time never goes back: it is no earlier than its last change.
        """
        return self.next_due_at is not None and self.next_due_at <= max(now, self.updated_at)


class Grant(Struct, frozen=True, gc=False, kw_only=True):
    """An entitlement of a wallet's subject, in ``[granted_at, expires_at)``.

    Credits are in the wallet of their type, allowances in that of `allowance_type`; a grant that
    cannot be consumed has no quantity, and is in the subject's wallet of ``credits``. ``started``
    and ``ended_at`` are the recorded state, which can lag behind the clock.
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
    entitlement_type: EntitlementType = EntitlementType.CREDIT_GRANT
    consumption: ConsumptionType = ConsumptionType.DECREMENTAL
    unlimited: bool = False
    """Whether it pays any amount; ``quantity`` and ``remaining`` are then 0."""
    used: int | None = 0
    """All draws less reversals; None: a row of an earlier version, not changed since."""
    period: Period | None = None
    """When a renewable or accumulative grant is renewed."""
    renews_at: datetime | None = None
    """The next renewal, if it is renewed."""
    used_before: int = 0
    """The draws before its current period. Below 0 in the first period of a grant that replaces
    another, of which that much was used.
    """

    @property
    def is_live(self) -> bool:
        """Return whether the grant can pay, according to its recorded state."""
        return self.started and self.ended_at is None and (self.remaining > 0 or self.unlimited)

    @property
    def spent(self) -> int:
        """Return the used quantity. An ended grant of an earlier version counts as used up."""
        return self.quantity - self.remaining if self.used is None else self.used

    @property
    def has_quantity(self) -> bool:
        """Return whether it has a limited quantity."""
        return self.entitlement_type.is_consumable and not self.unlimited

    @property
    def gives_something(self) -> bool:
        """Return whether its expiry would take something away."""
        is_used_up = self.remaining == 0 and not self.unlimited
        return self.consumption is ConsumptionType.NONE or not is_used_up

    @property
    def period_starts(self) -> datetime:
        """Return when its current period began; a grant without periods has one."""
        if self.period is None or self.renews_at is None:
            return self.granted_at
        number = renewals_until(self.period, self.granted_at, self.renews_at) - 1
        began = renewal(self.period, self.granted_at, number) if number > 0 else None
        return began or self.granted_at

    def status(self, now: datetime) -> GrantStatus:
        if self.ended_at is not None and self.end_reason == REVOKED:
            return GrantStatus.REVOKED
        if self.ended_at is not None or (self.expires_at or NEVER) <= now:
            return GrantStatus.EXPIRED
        if self.granted_at > now and not self.started:
            return GrantStatus.SCHEDULED
        return GrantStatus.ACTIVE if self.gives_something else GrantStatus.EXHAUSTED

    @property
    def due_at(self) -> datetime | None:
        """Return when the ledger must next record something for it: its start, a renewal or its
        expiry.
        """
        if self.ended_at is not None:
            return None
        if not self.started:
            return self.granted_at
        if self.renews_at is not None:
            return min(self.renews_at, self.expires_at or NEVER)
        return self.expires_at if self.gives_something else None


class Expiry(NamedTuple):
    """The credits that a wallet loses at a time, unless they are spent before."""

    at: datetime
    credits: int


class GrantDetails(Struct, frozen=True, gc=False, kw_only=True):
    """Details of a grant that no rule of the ledger uses: the object of the access, and text."""

    granted_by: str
    metric: str | None = None
    feature: str | None = None
    product_id: str | None = None
    tier_id: str | None = None
    subscription_id: str | None = None
    reference_id: str | None = None
    cost_microcents: int | None = None
    notes: str | None = None
    metadata: str = "{}"
    """A JSON object as text."""


class StoredGrant(Struct, frozen=True, gc=False, kw_only=True):
    """A grant with its details, as it is stored or as it is at a time."""

    grant: Grant
    details: GrantDetails
    created_at: datetime
    revoke_reason: str | None = None


class Draw(NamedTuple):
    """The credits that an operation takes from one grant; negative if it puts credits in."""

    grant_id: str
    quantity: int


class Crossing(NamedTuple):
    """A change of the balance from at least a threshold to below it, or back."""

    threshold: int
    direction: Literal["below", "above"]


class Operation(Struct, frozen=True, gc=False, kw_only=True):
    """One immutable entry of the ledger. ``seq`` numbers a wallet's operations in commit order,
    without gaps.

    ``amount`` is in credits and never negative; for failed work it is the cost that could not be
    charged. ``delta`` is the change of the balance: ``-amount`` for a consumption, less what
    unlimited grants paid, and 0 for a failed or free operation.
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
    """Units that count against rate limits; None if all of ``quantity`` does."""
    created_at: datetime
    effective_at: datetime
    overdraft_after: int | None = None
    """The wallet's overdraft right after the operation; None if the operation did not change it."""
    context: str | None = None
    """The caller's note on a consumption: a JSON object as text."""
    group_id: str | None = None
    """The first operation of a consumption that several wallets paid. It alone has the quantity."""
    member_month: str | None = None
    """The month in which it counts towards the member's cap; None if it does not."""
    traceparent: str | None = None
    """The request's trace context, for the events; not stored with the operation."""
    crossings: tuple[Crossing, ...] = ()
    """Threshold crossings, for the events; not stored with the operation."""

    reverses_seq: int | None = None
    """For a reversal, the ``seq`` of the reversed operation; not stored with the operation."""

    @property
    def is_unpriced(self) -> bool:
        """Return whether it recorded work of a metric that had no price."""
        has_failed = self.status is OperationStatus.FAILED
        return has_failed and self.reason == DenialReason.POLICY_DENIED and not self.owed

    @property
    def is_part(self) -> bool:
        """Return whether another operation is the first of its group."""
        return self.group_id is not None and self.group_id != self.id


class Closing(Struct, frozen=True, gc=False, kw_only=True):
    """The request that closed a hold, and its answer. Repeats of the request get this answer."""

    by: Literal["requirements", "credits", "release"]
    asked: dict[str, int] = {}
    outcome: HoldChanged


class Billed(NamedTuple):
    """The units of one metric that a hold's settlements have charged so far, and their credits."""

    credit_type: str
    units: int
    credits: int


class Hold(Struct, frozen=True, gc=False, kw_only=True):
    """One wallet's part of a hold: credits or units set aside, and the grants that back them.

    A hold has a part for each wallet that backs it, and at least one that is in credits. All its
    parts have the same id, status and expiry. ``taken == held + charged + returned`` always holds.
    """

    id: str
    wallet: WalletKey
    user_id: str
    org_id: str | None = None
    requirements: dict[str, int] | None = None
    """Units by metric that the hold was taken for; None if it was taken for credits."""
    taken: int
    held: int
    charged: int = 0
    returned: int = 0
    backing: tuple[Draw, ...] = ()
    """The credits that are still held of each grant, in the order in which they will pay."""
    status: HoldStatus = HoldStatus.OPEN
    expires_at: datetime
    costs: dict[str, Cost] = {}
    """Cost by metric when the hold was taken."""
    settled: dict[str, int] = {}
    """Units by metric that were settled so far."""
    billed: dict[str, Billed] = {}
    """Charges by metric so far; credits that are owed as a debt count as charged."""
    member_month: str | None = None
    """The month in which its credits count towards the member's cap; None if they do not."""
    closing: Closing | None = None
    correlation_id: str
    policy_version: str
    actor: str
    client: str
    created_at: datetime
    closed_at: datetime | None = None

    @property
    def is_of_credits(self) -> bool:
        """Return whether the part is in credits, not in units of an allowance."""
        return not self.wallet.is_of_allowances

    @property
    def settled_late(self) -> HoldChanged | None:
        """Return the outcome of a settlement after the lapse, which the hold did not pay for."""
        is_late = self.closing is not None and self.closing.outcome.lapsed
        return self.closing.outcome if self.closing is not None and is_late else None

    @property
    def due_at(self) -> datetime | None:
        """Return when it lapses if it stays open; None if it is closed."""
        return self.expires_at if self.status is HoldStatus.OPEN else None


class HoldFacts(Struct, frozen=True, gc=False, kw_only=True):
    """The fields of a hold that never change."""

    id: str
    user_id: str
    org_id: str | None
    wallets: tuple[WalletKey, ...]
    """The wallets of its parts, in their order."""
    correlation_id: str


def facts_of(parts: Sequence[Hold]) -> HoldFacts:
    """Return the unchanging fields of a hold, given its parts in order."""
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
    """The identity of one finished piece of work, for HTTP requests and events together.

    ``batch_id`` is empty if the report names no batch. It is part of the key because services can
    number their work from 1 again in each batch.
    """

    user_id: str
    service_name: str
    processing_id: str
    metric: str
    batch_id: str = ""


class StoredJob(Struct, frozen=True, gc=False, kw_only=True):
    """A job as it was first consumed: its units and the answer."""

    key: JobKey
    units: int
    outcome: StoredOutcome


class UsageReport(Struct, frozen=True, gc=False, kw_only=True):
    """Usage as a service reported it in an event. ``(user_id, event_id)`` identifies the report.

    ``user_id`` is empty if the usage belongs to an org alone.
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
        """Return the job that it reports, or None if it names no job."""
        if self.service_name is None or self.processing_id is None:
            return None
        return JobKey(
            self.user_id, self.service_name, self.processing_id, self.metric, self.batch_id or ""
        )


ReportKey = tuple[str, str]
"""(user id, event id)"""


class ConsumptionRecord(Struct, frozen=True, gc=False, kw_only=True):
    """The stored result of a usage report; it is never deleted.

    For a duplicate or conflict, ``operation_id`` is the operation that it repeats.
    """

    id: str
    report: UsageReport
    result: ConsumptionOutcome
    operation_id: str | None = None
    credits: int = 0
    owed: int = 0
    reason: str | None = None
    correlation_id: str
    recorded_at: datetime

    @property
    def is_unpriced(self) -> bool:
        """Return whether the work was recorded without a price."""
        has_failed = self.result is ConsumptionOutcome.FAILED
        return has_failed and self.reason == DenialReason.POLICY_DENIED and not self.owed


class Membership(NamedTuple):
    """The identity of the membership of a user in an org."""

    org_id: str
    user_id: str


class Member(Struct, frozen=True, gc=False, kw_only=True):
    """A user of an org, and the credits that the org paid for the user in a month."""

    org_id: str
    user_id: str
    joined_at: datetime
    left_at: datetime | None = None
    monthly_cap: int | None = None
    """The most credits that the org pays for the user in a calendar month, UTC; None: no cap."""
    month: str = ""
    """The month of ``drawn``, such as ``2026-11``; empty: nothing was drawn yet."""
    drawn: int = 0
    """The credits that the org has paid or holds, of work under enforced memberships."""

    @property
    def key(self) -> Membership:
        return Membership(self.org_id, self.user_id)

    def month_at(self, at: datetime) -> str:
        """Return the calendar month of a UTC time. It never goes back, even if the clock does."""
        return max(self.month, f"{at:%Y-%m}")

    def drawn_at(self, at: datetime) -> int:
        """Return the credits that were drawn in the month of the time."""
        return self.drawn if self.month == self.month_at(at) else 0

    def payable_at(self, at: datetime) -> int | None:
        """Return the credits that the org can still pay in that month; None without a cap."""
        if self.left_at is not None:
            return 0
        return None if self.monthly_cap is None else max(0, self.monthly_cap - self.drawn_at(at))


DebtAge = tuple[datetime, str]
"""(time of creation, operation id): the order in which debts are settled."""


class Debt(Struct, frozen=True, gc=False, kw_only=True):
    """A failed operation and the credits that it still owes: None while the work has no price.

    On a closed debt, ``owed`` is the amount that the closing operation settled or wrote off.
    """

    operation_id: str
    wallet: WalletKey
    """The debtor's wallet. A debt without a price has the default credit type, and moves to the
    wallet of its metric's credit type when it is priced.
    """
    owed: int | None
    metric: str
    created_at: datetime
    closed_by: str | None = None
    """The operation that closed it: a settlement, a write-off or the charge of unpriced work."""

    @property
    def is_unpriced(self) -> bool:
        return self.owed is None and self.closed_by is None

    @property
    def still_owed(self) -> int:
        """Return the credits that are still open; 0 without a price."""
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
    """The request's parameters, as JSON values."""
    correlation_id: str
