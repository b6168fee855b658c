"""What can be asked of the ledger. A command's ``id`` becomes the id of its own operation."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

from entitlements.core.model import (
    GrantDetails,
    GrantReason,
    HoldFacts,
    JobKey,
    Operation,
    Report,
    Subject,
    WalletKey,
)
from entitlements.core.policy import DEFAULT_CREDIT_TYPE


class Origin(Struct, frozen=True, gc=False, kw_only=True):
    """Who asks, under which name. The key is scoped by the client; a key made on entry is unique.

    ``lifetime_s`` is how long the receipt answers for repeats. ``traceparent`` is the span that
    asks, as W3C Trace Context writes it.
    """

    actor: str
    client: str
    correlation_id: str
    key: str
    fingerprint: str
    lifetime_s: int
    traceparent: str | None = None


class Command(Struct, frozen=True, gc=False, kw_only=True):
    id: str
    origin: Origin


class Consume(Command, frozen=True, gc=False, kw_only=True):
    """Finished work: ``units`` of ``metric``, at least 1."""

    user_id: str
    org_id: str | None = None
    metric: str
    units: int
    batch_id: str | None = None
    job: JobKey | None = None


class GrantCredits(Command, frozen=True, gc=False, kw_only=True):
    """``granted_at`` none: from now on."""

    wallet: WalletKey
    quantity: int
    reason: GrantReason
    priority: int = 50
    granted_at: datetime | None = None
    expires_at: datetime | None = None
    details: GrantDetails


class Adjust(Command, frozen=True, gc=False, kw_only=True):
    """A positive amount adds a grant, until ``expires_at`` if given; a negative one burns.

    ``is_over_limit``: the operator has made too many; then only an earlier answer is given again.
    """

    wallet: WalletKey
    amount: int
    reason: str
    expires_at: datetime | None = None
    is_over_limit: bool = False


class SetBalance(Command, frozen=True, gc=False, kw_only=True):
    """``is_over_limit`` as of `Adjust`."""

    wallet: WalletKey
    balance: int
    reason: str | None = None
    is_over_limit: bool = False


class Together(Command, frozen=True, gc=False, kw_only=True):
    """Commands of one kind that are done whole or not at all: at least one item, each with its
    own id, name and job, as if it had come alone. The key of the whole names nothing.
    """

    items: tuple[Item, ...]


class Revoke(Command, frozen=True, gc=False, kw_only=True):
    wallet: WalletKey
    grant_id: str
    reason: str | None


class Reverse(Command, frozen=True, gc=False, kw_only=True):
    """``amount`` none: all that is left of the operation. The operation never changes, so it may
    have been read before.
    """

    operation: Operation
    amount: int | None
    reason: str

    @property
    def wallet(self) -> WalletKey:
        """The wallet that paid."""
        return self.operation.wallet


class SettleDebt(Command, frozen=True, gc=False, kw_only=True):
    """``amount`` None: as much of the debt as is available."""

    wallet: WalletKey
    debt_id: str
    amount: int | None = None
    reason: str | None = None


class WriteOffDebt(Command, frozen=True, gc=False, kw_only=True):
    wallet: WalletKey
    debt_id: str
    reason: str | None = None


class PriceDebt(Command, frozen=True, gc=False, kw_only=True):
    """Charge work that was filed without a price by its failed ``operation``, which never changes.

    ``by_operator``: an administrative act.
    """

    operation: Operation
    reason: str | None = None
    by_operator: bool = True

    @property
    def wallet(self) -> WalletKey:
        """Where the work is filed."""
        return self.operation.wallet


class TakeHold(Command, frozen=True, gc=False, kw_only=True):
    """Set aside what ``requirements``, units by metric, would cost, or else ``credits`` of a type,
    for ``ttl_s`` seconds. ``is_over_limit`` as of `Adjust`, for the limits of the units.
    """

    user_id: str
    org_id: str | None = None
    requirements: dict[str, int] | None = None
    credits: int = 0
    credit_type: str = DEFAULT_CREDIT_TYPE
    ttl_s: int
    is_over_limit: bool = False


class OfHold(Command, frozen=True, gc=False, kw_only=True):
    """About a hold that was found before."""

    hold: HoldFacts

    @property
    def hold_id(self) -> str:
        return self.hold.id

    @property
    def wallet(self) -> WalletKey:
        """Of its first part, where operations go that are no type's own."""
        return self.hold.wallets[0]


class SettleHold(OfHold, frozen=True, gc=False, kw_only=True):
    """Charge the truth, units by metric or else ``credits`` of a type (none: the hold's first);
    ``final`` returns the rest.
    """

    requirements: dict[str, int] | None = None
    credits: int = 0
    credit_type: str | None = None
    final: bool = True


class ExtendHold(OfHold, frozen=True, gc=False, kw_only=True):
    """Let it lapse ``ttl_s`` seconds from now."""

    ttl_s: int


class ReleaseHold(OfHold, frozen=True, gc=False, kw_only=True):
    """Give all back that is held. ``by_operator``: an administrative act."""

    reason: str | None = None
    by_operator: bool = False


class ReportUse(Command, frozen=True, gc=False, kw_only=True):
    """Finished work that an event tells of. Its name is the event, kept for ever: the origin's key
    names nothing. ``hold`` is the one it names, found before.

    Not ``is_charged``: it is put on record, and that is all.
    """

    report: Report
    hold: HoldFacts | None = None
    is_charged: bool = True


class OpenAccount(Command, frozen=True, gc=False, kw_only=True):
    """``org_id``: the user becomes a member of that org too. ``by_operator``: an administrative
    act.
    """

    subject: Subject
    org_id: str | None = None
    by_operator: bool = True

    @property
    def wallet(self) -> WalletKey:
        """Where the signup bonus goes."""
        return WalletKey(self.subject.type, self.subject.id, DEFAULT_CREDIT_TYPE)


class ApplyDue(Command, frozen=True, gc=False, kw_only=True):
    """Put what is due in a wallet on record, as the next command on it would."""

    wallet: WalletKey


Item = Consume | Adjust | SetBalance | OpenAccount
"""A command that may come together with others of its kind."""
AnyCommand = (
    Consume
    | GrantCredits
    | Adjust
    | SetBalance
    | Together
    | Revoke
    | Reverse
    | SettleDebt
    | WriteOffDebt
    | PriceDebt
    | TakeHold
    | SettleHold
    | ExtendHold
    | ReleaseHold
    | ReportUse
    | OpenAccount
    | ApplyDue
)
