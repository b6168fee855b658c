"""The outcomes of commands. A refusal is never stored: a repeat of the command is decided again."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from msgspec import Struct

from entitlements.core.reasons import (
    ConsumedFrom,
    ConsumptionOutcome,
    DenialReason,
    HoldStatus,
    OperationStatus,
    RefusalCode,
    SubjectType,
)
from entitlements.core.subscription import Subscription


class Outcome(Struct, frozen=True, gc=False, kw_only=True, tag_field="outcome"):
    """A command's answer. ``replayed``: it is the stored answer of an earlier request."""

    operation_id: str | None = None
    """The operation with the command's id; None if nothing was written."""
    replayed: bool = False


class Candidate(Struct, frozen=True, gc=False, kw_only=True):
    """A candidate payer's credits of one type, and how many of the required ones are missing."""

    balance: int
    held: int
    available: int
    missing: int


class Candidates(Struct, frozen=True, gc=False, kw_only=True):
    """The candidate payers' credits of one type; no ``org`` if the request names none."""

    org: Candidate | None
    user: Candidate


class Part(Struct, frozen=True, gc=False, kw_only=True):
    """The credits that one subject paid of a consumption that several pay."""

    operation_id: str
    subject_type: SubjectType
    subject_id: str
    credits: int
    new_balance: int


class Consumed(Outcome, frozen=True, gc=False, kw_only=True, tag="consumed"):
    """A consumption. Without ``success``, ``owed`` credits stay open, or the work has no price."""

    success: bool
    new_balance: int
    consumed_from: ConsumedFrom
    credits: int
    status: OperationStatus
    owed: int = 0
    reason: DenialReason | None = None
    candidates: Candidates | None = None
    """The candidates' credits of the owed type; None if nothing is owed."""
    allowance_units: int = 0
    """The units that allowances paid."""
    parts: tuple[Part, ...] = ()
    """Each subject's part, if several pay."""

    @property
    def is_unpriced(self) -> bool:
        """Return whether the work was recorded without a price."""
        return not self.success and self.reason is DenialReason.POLICY_DENIED and not self.owed


class Granted(Outcome, frozen=True, gc=False, kw_only=True, tag="granted"):
    """A new grant of ``credits``, and what was left of it after it repaid overdrafts and debts."""

    grant_id: str
    credits: int
    new_balance: int
    scheduled: bool
    granted_at: datetime
    created_at: datetime
    remaining: int
    used: int
    renews_at: datetime | None = None


class Spent(Outcome, frozen=True, gc=False, kw_only=True, tag="spent"):
    """What each grant paid, in burn order. ``remaining`` is what ``source`` can still spend, None
    without a limit.
    """

    source: SubjectType
    draws: tuple[tuple[str, int], ...]
    remaining: int | None


class Adjusted(Outcome, frozen=True, gc=False, kw_only=True, tag="adjusted"):
    """An adjust or set. Without an operation, the balance was already at the target."""

    delta: int
    new_balance: int


class Revoked(Outcome, frozen=True, gc=False, kw_only=True, tag="revoked"):
    """A revocation. ``credits`` is the unspent remainder that left the balance."""

    grant_id: str
    credits: int
    new_balance: int


class Reversed(Outcome, frozen=True, gc=False, kw_only=True, tag="reversed"):
    """A reversal of ``credits``. ``total`` is the amount reversed of the operation so far.

    ``lapsed`` is the part of ``credits`` that expired immediately because its grant had ended.
    """

    reverses: str
    credits: int
    total: int
    lapsed: int
    new_balance: int
    allowance_units: int = 0
    """The units that went back to allowances."""


class AccountOpened(Outcome, frozen=True, gc=False, kw_only=True, tag="account_opened"):
    """An open account. If ``created`` is false, it existed before and got its bonus then."""

    created: bool
    bonus: int
    new_balance: int


class DebtClosed(Outcome, frozen=True, gc=False, kw_only=True, tag="debt_closed"):
    """A settled or written-off debt: ``credits`` were settled or written off, ``owed`` are left."""

    debt_id: str
    how: Literal["settled", "written_off"]
    credits: int
    owed: int = 0
    new_balance: int


class DebtPriced(Outcome, frozen=True, gc=False, kw_only=True, tag="debt_priced"):
    """Newly priced work that was recorded without a price: ``credits`` are charged, or ``owed``."""

    debt_id: str
    credit_type: str
    credits: int
    owed: int
    consumed_from: ConsumedFrom
    new_balance: int


class DueApplied(Outcome, frozen=True, gc=False, kw_only=True, tag="due_applied"):
    """The wallet's due effects are recorded."""

    new_balance: int


class HoldTaken(Outcome, frozen=True, gc=False, kw_only=True, tag="hold_taken"):
    """A new hold of ``credits`` until ``expires_at``. ``source``: None if all of it is free."""

    hold_id: str
    credits: int
    credit_type: str
    source: SubjectType | None
    expires_at: datetime
    by_credit_type: dict[str, int]
    allowance_units: dict[str, int] = {}
    """The units by metric that allowances back."""
    wallets: tuple[tuple[SubjectType, str, str], ...] = ()
    """The wallets that back it, in the order of its parts."""


class HoldNumbers(Struct, frozen=True, gc=False, kw_only=True):
    """The effect of a request on a hold, in credits of one type; ``held`` is still held."""

    charged: int = 0
    returned: int = 0
    held: int = 0
    owed: int = 0


class HoldChanged(Outcome, frozen=True, gc=False, kw_only=True, tag="hold_changed"):
    """A settled, extended or released hold. The top-level numbers are those of ``credit_type``.

    ``lapsed``: it was settled after it had lapsed, as a plain consumption.
    """

    hold_id: str
    status: HoldStatus
    credit_type: str
    charged: int = 0
    returned: int = 0
    held: int = 0
    owed: int = 0
    consumed_from: ConsumedFrom = "none"
    new_balance: int
    expires_at: datetime
    lapsed: bool = False
    by_credit_type: dict[str, HoldNumbers]
    allowances: dict[str, HoldNumbers] = {}
    """The effect on the allowances that back it, in units by metric."""
    counted: dict[str, int] = {}
    """Units by metric that count against limits and were not counted before."""
    unpriced: tuple[str, ...] = ()
    """Metrics whose units were recorded without a price."""


class MemberChanged(Outcome, frozen=True, gc=False, kw_only=True, tag="member_changed"):
    """A membership after a change. ``drawn``: credits that the org paid or holds this month."""

    org_id: str
    user_id: str
    monthly_cap: int | None
    drawn: int
    joined_at: datetime
    left_at: datetime | None


class Subscribed(Outcome, frozen=True, gc=False, kw_only=True, tag="subscribed"):
    """A subscription after a command; without an operation, it was in that state already.

    ``created``: it has begun. ``granted`` and ``revoked`` are ids of grants.
    """

    subscription: Subscription
    created: bool = False
    granted: tuple[str, ...] = ()
    revoked: tuple[str, ...] = ()


class Acted(Outcome, frozen=True, gc=False, kw_only=True, tag="acted"):
    """An administrative act outside of the ledger; ``answer`` is its response."""

    answer: dict[str, Any]


class UsageIngested(Outcome, frozen=True, gc=False, kw_only=True):
    """The outcome of a usage report, stored as its record.

    ``replayed``: an earlier report of the same event produced it.
    """

    result: ConsumptionOutcome
    credits: int = 0
    owed: int = 0
    reason: str | None = None
    consumed_from: ConsumedFrom = "none"
    """The payer's type; not stored with the record."""
    counted: dict[str, int] = {}
    """Units by metric that count against limits and were not counted before."""


class Refusal(Struct, frozen=True, gc=False, kw_only=True):
    """An expected refusal, with a detail text for the caller and its data."""

    code: RefusalCode
    detail: str
    data: dict[str, Any] = {}
    field: str | None = None
    """The field of the request that is wrong, if one is."""


StoredOutcome = (
    Consumed
    | Granted
    | Spent
    | Adjusted
    | Revoked
    | Reversed
    | AccountOpened
    | DebtClosed
    | DebtPriced
    | DueApplied
    | HoldTaken
    | HoldChanged
    | MemberChanged
    | Subscribed
    | Acted
)


class DoneTogether(Outcome, frozen=True, gc=False, kw_only=True):
    """The answers of all items, in their order; ``replayed`` if all of them are replays.

    It is not stored as a whole: the answer of each item is.
    """

    results: tuple[StoredOutcome, ...]


AnyOutcome = StoredOutcome | DoneTogether | UsageIngested
