"""The commands of the ledger. A command's ``id`` becomes the id of its operation."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

from entitlements.core.model import (
    GrantDetails,
    HoldFacts,
    JobKey,
    Membership,
    Operation,
    Subject,
    UsageReport,
    WalletKey,
)
from entitlements.core.plans import Lifecycle
from entitlements.core.policy import DEFAULT_CREDIT_TYPE
from entitlements.core.reasons import ConsumptionType, EntitlementType, GrantReason
from entitlements.core.renewals import Period


class Origin(Struct, frozen=True, gc=False, kw_only=True):
    """The caller of a command and its idempotency key.

    The key is scoped by the client; a request without a key gets a generated, unique one.
    Repeats within ``lifetime_s`` seconds get the stored answer. ``traceparent`` is the caller's
    span in W3C Trace Context format.
    """

    actor: str
    client: str
    correlation_id: str
    key: str
    fingerprint: str
    lifetime_s: int
    traceparent: str | None = None


class Command(Struct, frozen=True, gc=False, kw_only=True):
    """A request to change the ledger.

    ``by_operator`` and ``reason`` are for the audit log: kinds of commands that can be
    administrative acts have them as fields.
    """

    id: str
    origin: Origin

    @property
    def by_operator(self) -> bool:
        return True

    @property
    def reason(self) -> str | None:
        return None


class Consume(Command, frozen=True, gc=False, kw_only=True):
    """Charge finished work: ``units`` of ``metric``, at least 1."""

    user_id: str
    org_id: str | None = None
    metric: str
    units: int
    batch_id: str | None = None
    job: JobKey | None = None


class CreateGrant(Command, frozen=True, gc=False, kw_only=True):
    """Grant something to the wallet that `Grant` names for its type.

    ``quantity`` is 0 for what cannot be consumed and with ``unlimited``. Without ``granted_at`` the
    grant starts now. ``used``: the part of its first period that was used of another grant, which
    it replaces.
    """

    wallet: WalletKey
    quantity: int
    entitlement_type: EntitlementType = EntitlementType.CREDIT_GRANT
    consumption: ConsumptionType = ConsumptionType.DECREMENTAL
    unlimited: bool = False
    period: Period | None = None
    reason: GrantReason
    priority: int = 50
    granted_at: datetime | None = None
    expires_at: datetime | None = None
    used: int = 0
    details: GrantDetails


class Adjust(Command, frozen=True, gc=False, kw_only=True):
    """Adjust a balance: a positive amount adds a grant, a negative one burns credits.

    ``expires_at`` applies to the grant. ``is_over_limit``: the operator has exceeded the limit of
    adjustments; then a repeat still gets its stored answer, and a new adjustment is refused.
    """

    wallet: WalletKey
    amount: int
    reason: str
    expires_at: datetime | None = None
    is_over_limit: bool = False


class SetBalance(Command, frozen=True, gc=False, kw_only=True):
    """Adjust a balance to a target. ``is_over_limit`` works as in `Adjust`."""

    wallet: WalletKey
    balance: int
    reason: str | None = None
    is_over_limit: bool = False


class Together(Command, frozen=True, gc=False, kw_only=True):
    """Commands of one kind that are applied atomically: all or nothing.

    It has at least one item. Each item has an id, an idempotency key and a job as if it had come
    alone; the origin's key of the whole command is not used.
    """

    items: tuple[Item, ...]


class Spend(Command, frozen=True, gc=False, kw_only=True):
    """Take ``quantity`` from the grants of a credit type, at once and without a price.

    ``metric`` is that of an allowance, whose wallet has ``credit_type``. ``context`` is a JSON
    object as text.
    """

    user_id: str
    org_id: str | None = None
    credit_type: str
    metric: str | None = None
    quantity: int
    context: str | None = None


class Revoke(Command, frozen=True, gc=False, kw_only=True):
    wallet: WalletKey
    grant_id: str
    reason: str | None


class Reverse(Command, frozen=True, gc=False, kw_only=True):
    """Reverse ``amount`` credits of an operation, or all that is left of it if None.

    Operations never change, so the caller reads the operation before it sends the command, and its
    ``group`` (itself included) if it is the first of one.
    """

    operation: Operation
    group: tuple[Operation, ...] = ()
    amount: int | None
    reason: str

    @property
    def operation_id(self) -> str:
        return self.operation.id

    @property
    def wallet(self) -> WalletKey:
        """Return the wallet that paid."""
        return self.operation.wallet


class SettleDebt(Command, frozen=True, gc=False, kw_only=True):
    """Settle ``amount`` of a debt; without an amount, as much as the available credits cover."""

    wallet: WalletKey
    debt_id: str
    amount: int | None = None
    reason: str | None = None


class WriteOffDebt(Command, frozen=True, gc=False, kw_only=True):
    wallet: WalletKey
    debt_id: str
    reason: str | None = None


class PriceDebt(Command, frozen=True, gc=False, kw_only=True):
    """Charge work that the failed ``operation`` recorded without a price."""

    operation: Operation
    reason: str | None = None
    by_operator: bool = True

    @property
    def operation_id(self) -> str:
        return self.operation.id

    @property
    def wallet(self) -> WalletKey:
        """Return the wallet in which the work is recorded."""
        return self.operation.wallet


class TakeHold(Command, frozen=True, gc=False, kw_only=True):
    """Hold the cost of ``requirements`` (units by metric), or ``credits`` of a type.

    The hold lapses after ``ttl_s`` seconds. ``is_over_limit``: the units exceed a rate limit; it
    works as in `Adjust`. So do the metrics that are ``lacking`` a required entitlement.
    """

    user_id: str
    org_id: str | None = None
    requirements: dict[str, int] | None = None
    credits: int = 0
    credit_type: str = DEFAULT_CREDIT_TYPE
    ttl_s: int
    is_over_limit: bool = False
    lacking: frozenset[str] = frozenset()


class OfHold(Command, frozen=True, gc=False, kw_only=True):
    """A command on a hold that the caller has looked up."""

    hold: HoldFacts

    @property
    def hold_id(self) -> str:
        return self.hold.id

    @property
    def wallet(self) -> WalletKey:
        """Return the wallet of its first part, for operations that belong to no credit type."""
        return self.hold.wallets[0]


class SettleHold(OfHold, frozen=True, gc=False, kw_only=True):
    """Charge actual usage: ``requirements`` (units by metric), or ``credits`` of a type.

    The default credit type is the hold's first. ``final`` releases the rest and closes the hold.
    """

    requirements: dict[str, int] | None = None
    credits: int = 0
    credit_type: str | None = None
    final: bool = True


class ExtendHold(OfHold, frozen=True, gc=False, kw_only=True):
    """Set the hold to lapse ``ttl_s`` seconds from now."""

    ttl_s: int


class ReleaseHold(OfHold, frozen=True, gc=False, kw_only=True):
    """Release everything that is held."""

    reason: str | None = None
    by_operator: bool = False


class IngestUsage(Command, frozen=True, gc=False, kw_only=True):
    """Charge finished work that an event reports.

    The event identifies it, without a time limit; the origin's key is not used. ``hold`` is the
    hold that the event names, looked up by the caller. If ``is_charged`` is false, the usage is
    only recorded.
    """

    report: UsageReport
    hold: HoldFacts | None = None
    is_charged: bool = True


class OpenAccount(Command, frozen=True, gc=False, kw_only=True):
    """Open a subject's account and grant its signup bonus.

    ``org_id``: the user also becomes a member of this org.
    """

    subject: Subject
    org_id: str | None = None
    by_operator: bool = True

    @property
    def wallet(self) -> WalletKey:
        """Return the wallet that gets the signup bonus."""
        return WalletKey(self.subject.type, self.subject.id, DEFAULT_CREDIT_TYPE)


class OfMember(Command, frozen=True, gc=False, kw_only=True):
    """A command on the membership of a user in an org."""

    member: Membership

    @property
    def wallet(self) -> WalletKey:
        """Return the org's wallet, which the command locks."""
        return WalletKey("org", self.member.org_id, DEFAULT_CREDIT_TYPE)


class SetMember(OfMember, frozen=True, gc=False, kw_only=True):
    """Add a member to an org, or set the cap of one; None: no cap."""

    monthly_cap: int | None = None


class RemoveMember(OfMember, frozen=True, gc=False, kw_only=True):
    """End a membership."""


class OfSubscription(Command, frozen=True, gc=False, kw_only=True):
    """A command on a subscription; ``wallet`` is its subject's wallet of credits."""

    wallet: WalletKey
    subscription_id: str
    reason: str | None = None


class Activate(OfSubscription, frozen=True, gc=False, kw_only=True):
    """Begin a subscription, or the next period of one that is open.

    Without ``current_period_end`` the period has the length that the plan says.
    """

    plan_id: str
    current_period_end: datetime | None = None


class ChangePlan(OfSubscription, frozen=True, gc=False, kw_only=True):
    """Replace the plan of a subscription.

    ``is_migration``: only if it is open, is not canceling and has this plan as in another version
    of the policy.
    """

    plan_id: str
    is_migration: bool = False


class EndSubscription(OfSubscription, frozen=True, gc=False, kw_only=True):
    """End a subscription, by default by the lifecycle of its plan."""

    lifecycle: Lifecycle | None = None


class CancelSubscription(EndSubscription, frozen=True, gc=False, kw_only=True):
    """End a subscription now, or at the end of its current period."""

    at_period_end: bool = False


class MarkPastDue(OfSubscription, frozen=True, gc=False, kw_only=True):
    """Record that a payment is late; the grants stay until the subscription ends."""


class ExpireSubscription(EndSubscription, frozen=True, gc=False, kw_only=True):
    """End a subscription that was not paid."""


SubscriptionCommand = Activate | ChangePlan | CancelSubscription | MarkPastDue | ExpireSubscription


class ApplyDue(Command, frozen=True, gc=False, kw_only=True):
    """Record due effects of a wallet, as the next command on it would."""

    wallet: WalletKey


Item = Consume | CreateGrant | Revoke | Adjust | SetBalance | OpenAccount
"""A command that can be an item of `Together`."""
AnyCommand = (
    Consume
    | CreateGrant
    | Adjust
    | SetBalance
    | Together
    | Spend
    | Revoke
    | Reverse
    | SettleDebt
    | WriteOffDebt
    | PriceDebt
    | TakeHold
    | SettleHold
    | ExtendHold
    | ReleaseHold
    | IngestUsage
    | OpenAccount
    | SetMember
    | RemoveMember
    | SubscriptionCommand
    | ApplyDue
)
