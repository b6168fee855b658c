"""What a command ended in. A refusal is a value too, but is never stored: it is decided afresh."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Literal

from msgspec import Struct

UNPRICED: Final = "policy_denied"
"""The reason of work whose metric the policy does not know, and which owes nothing yet."""


class Outcome(Struct, frozen=True, gc=False, kw_only=True, tag_field="outcome"):
    """A command's answer, as first given or, ``replayed``, as given before."""

    operation_id: str | None = None
    """The operation that carries the command's own id; none where nothing had to be written."""
    replayed: bool = False


class Candidate(Struct, frozen=True, gc=False, kw_only=True):
    """Credits of one type that a candidate payer has, and what it lacks of those required."""

    balance: int
    held: int
    available: int
    missing: int


class Candidates(Struct, frozen=True, gc=False, kw_only=True):
    """Of one credit type; ``org`` is none if no org is named."""

    org: Candidate | None
    user: Candidate


class Consumed(Outcome, frozen=True, gc=False, kw_only=True, tag="consumed"):
    """``success`` false: nobody covered it and ``owed`` credits stay open, or it has no price."""

    success: bool
    new_balance: int
    consumed_from: Literal["org", "user", "none"]
    credits: int
    status: str
    owed: int = 0
    reason: str | None = None
    candidates: Candidates | None = None
    """Of what is owed, where something is."""

    @property
    def is_unpriced(self) -> bool:
        """Whether it was filed without a price."""
        return not self.success and self.reason == UNPRICED and not self.owed


class Granted(Outcome, frozen=True, gc=False, kw_only=True, tag="granted"):
    grant_id: str
    credits: int
    new_balance: int
    scheduled: bool


class Adjusted(Outcome, frozen=True, gc=False, kw_only=True, tag="adjusted"):
    """After adjust and set alike; without an operation the balance was already there."""

    delta: int
    new_balance: int


class Revoked(Outcome, frozen=True, gc=False, kw_only=True, tag="revoked"):
    """``credits`` is the unspent remainder that left the balance."""

    grant_id: str
    credits: int
    new_balance: int


class Reversed(Outcome, frozen=True, gc=False, kw_only=True, tag="reversed"):
    """``credits`` went back now, ``total`` of the reversed operation so far, ``lapsed`` of the
    credits expired at once because their grant had ended.
    """

    reverses: str
    credits: int
    total: int
    lapsed: int
    new_balance: int


class AccountOpened(Outcome, frozen=True, gc=False, kw_only=True, tag="account_opened"):
    """``created`` false: it was open before, and got its bonus then."""

    created: bool
    bonus: int
    new_balance: int


class DebtClosed(Outcome, frozen=True, gc=False, kw_only=True, tag="debt_closed"):
    """``credits`` of the debt were settled or written off, ``owed`` are left of it."""

    debt_id: str
    how: Literal["settled", "written_off"]
    credits: int
    owed: int = 0
    new_balance: int


class DebtPriced(Outcome, frozen=True, gc=False, kw_only=True, tag="debt_priced"):
    """Work that was filed without a price has one: ``credits`` were charged, or are ``owed``."""

    debt_id: str
    credit_type: str
    credits: int
    owed: int
    consumed_from: Literal["org", "user", "none"]
    new_balance: int


class DueApplied(Outcome, frozen=True, gc=False, kw_only=True, tag="due_applied"):
    """The wallet's starts and expiries so far are on record."""

    new_balance: int


class HoldTaken(Outcome, frozen=True, gc=False, kw_only=True, tag="hold_taken"):
    """``credits`` of ``credit_type`` are set aside until ``expires_at``; ``source`` none: all of
    it is free.
    """

    hold_id: str
    credits: int
    credit_type: str
    source: Literal["org", "user"] | None
    expires_at: datetime
    by_credit_type: dict[str, int]


class HoldNumbers(Struct, frozen=True, gc=False, kw_only=True):
    """What a request made of a hold, in credits of one type; ``held`` is left of it."""

    charged: int = 0
    returned: int = 0
    held: int = 0
    owed: int = 0


class HoldChanged(Outcome, frozen=True, gc=False, kw_only=True, tag="hold_changed"):
    """A hold was settled, extended or released. Top-level numbers speak of ``credit_type``.

    ``lapsed``: it was settled after its time, as a plain consumption.
    """

    hold_id: str
    status: str
    credit_type: str
    charged: int = 0
    returned: int = 0
    held: int = 0
    owed: int = 0
    consumed_from: Literal["org", "user", "none"] = "none"
    new_balance: int
    expires_at: datetime
    lapsed: bool = False
    by_credit_type: dict[str, HoldNumbers]
    counted: dict[str, int] = {}
    """Units by metric that count against limits beyond those counted before."""
    unpriced: tuple[str, ...] = ()
    """Metrics whose units were filed without a price."""


class Acted(Outcome, frozen=True, gc=False, kw_only=True, tag="acted"):
    """An administrative act outside of the ledger; ``answer`` is the response to it."""

    answer: dict[str, Any]


class UseResult(StrEnum):
    """What a reported use ended in."""

    CHARGED = "charged"
    FREE = "free"
    FAILED = "failed"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    SETTLED = "settled"


class Reported(Outcome, frozen=True, gc=False, kw_only=True):
    """What became of a reported use. It is stored as its record; ``replayed``: by an earlier
    report under the same event.
    """

    result: UseResult
    credits: int = 0
    owed: int = 0
    reason: str | None = None
    consumed_from: Literal["org", "user", "none"] = "none"
    """Who paid; not kept with the record."""
    counted: dict[str, int] = {}
    """Units by metric that count against limits, and did not before."""


class RefusalCode(StrEnum):
    """Why a command was refused; nothing was written."""

    KEY_REUSED = "idempotency_key_reused"
    JOB_CONFLICT = "job_conflict"
    RATE_LIMIT_EXCEEDED = "rate_limit_exceeded"
    POLICY_DENIED = "policy_denied"
    BELOW_ZERO = "below_zero"
    HELD = "held"
    AMOUNT_TOO_LARGE = "amount_too_large"
    NOT_REVERSIBLE = "not_reversible"
    REVERSED_ALREADY = "reversed_already"
    NOTHING_LEFT = "nothing_left"
    DEBT_CLOSED = "debt_closed"
    UNPRICED = "unpriced"
    PRICED = "priced"
    HOLD_CLOSED = "hold_closed"
    HOLD_UNKNOWN = "hold_unknown"
    INSUFFICIENT_CREDITS = "insufficient_credits"
    INVALID_GRANT = "invalid_grant"


class Refused(Struct, frozen=True, gc=False, kw_only=True):
    """An expected no, with a sentence for the caller and the numbers behind it."""

    code: RefusalCode
    detail: str
    data: dict[str, Any] = {}


StoredOutcome = (
    Consumed
    | Granted
    | Adjusted
    | Revoked
    | Reversed
    | AccountOpened
    | DebtClosed
    | DebtPriced
    | DueApplied
    | HoldTaken
    | HoldChanged
    | Acted
)


class DoneTogether(Outcome, frozen=True, gc=False, kw_only=True):
    """The answer of every item, in their order; ``replayed`` if all of them are. It is not stored:
    each item's own answer is.
    """

    results: tuple[StoredOutcome, ...]


AnyOutcome = StoredOutcome | DoneTogether | Reported
