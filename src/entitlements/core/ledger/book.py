"""The state that a batch of commands has loaded, and the changes that they make.

A store fills a `Book` while it holds the locks of the wallets. Each command works on a `Draft`.
Only the draft of a successful command is merged, so a failed command changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from msgspec import Struct, field

from entitlements.core.burndown import BurnKey
from entitlements.core.model import (
    AuditEntry,
    ConsumptionRecord,
    Debt,
    DebtAge,
    Expiry,
    Grant,
    GrantDetails,
    Hold,
    JobKey,
    Member,
    Membership,
    Operation,
    Receipt,
    ReportKey,
    StoredJob,
    Subject,
    Wallet,
    WalletKey,
)
from entitlements.core.outcomes import Consumed, StoredOutcome
from entitlements.core.policy import BurnOrder, Policy
from entitlements.core.reasons import EntitlementType, OperationKind
from entitlements.core.subscription import Subscription

ReceiptKey = tuple[str, str]
"""(client, idempotency key)"""

DEBTS_FIRST = 64
"""How many of a wallet's oldest debts are loaded initially."""
DEBTS_MAX = 1024
"""How many debts one command settles at most; the next paid grant continues with the rest."""


class Needs(Struct, kw_only=True):
    """The rows to load and lock before commands can be decided."""

    policy_version: str
    """The version that the caller has; the active document is loaded only if it differs."""
    allowances: int = 0
    """How many metrics with allowances the caller knows; they are loaded only if there are more."""
    burn_order: BurnOrder
    wallets: set[WalletKey] = field(default_factory=set)
    receipts: set[ReceiptKey] = field(default_factory=set)
    jobs: set[JobKey] = field(default_factory=set)
    reports: set[ReportKey] = field(default_factory=set)
    grants: set[tuple[WalletKey, str]] = field(default_factory=set)
    reversals: set[tuple[WalletKey, str]] = field(default_factory=set)
    """Operations to be reversed."""
    repayments: dict[tuple[WalletKey, int], str] = field(default_factory=dict)
    """Ids of operations with an overdraft, by wallet and ``seq``.

    For each, the later operations that changed the overdraft are loaded.
    """
    holds: set[tuple[WalletKey, str]] = field(default_factory=set)
    """Parts of holds, each loaded with the grants that back it."""
    debts: set[tuple[WalletKey, str]] = field(default_factory=set)
    unpriced: set[str] = field(default_factory=set)
    """Operations that recorded work without a price.

    Each is loaded with its debt and the operation that closed the debt.
    """
    oldest_debts: set[WalletKey] = field(default_factory=set)
    owing: set[WalletKey] = field(default_factory=set)
    """Wallets whose total of open debts is needed."""
    due_debts: bool = False
    """Also load the oldest debts of wallets with due entries: a starting grant can settle debts."""
    subscriptions: set[tuple[WalletKey, str]] = field(default_factory=set)
    """Subscriptions, each with those of its subject whose end has left grants; the grants of all of
    them that are in wallets of the book are loaded too.
    """
    accounts: set[Subject] = field(default_factory=set)
    members: set[Membership] = field(default_factory=set)
    depth: dict[WalletKey, int] = field(default_factory=dict)
    """How many live grants, and debts, to load for wallets where the default was not enough."""

    def unpriced_in(self, book: Book) -> list[str]:
        """Return the operations to load after the stored answers are known.

        They recorded work without a price. A repeat of such a request gets the current state of
        that work.
        """
        outcomes = [receipt.outcome for receipt in book.receipts.values()]
        outcomes += [job.outcome for job in book.jobs.values()]
        answered: list[Consumed | ConsumptionRecord] = [
            *(one for one in outcomes if isinstance(one, Consumed)),
            *book.records.values(),
        ]
        found = {one.operation_id for one in answered if one.is_unpriced and one.operation_id}
        return sorted(self.unpriced | found)

    def debts_depth(self, key: WalletKey) -> int:
        """Return how many of the wallet's oldest debts to load."""
        return min(max(DEBTS_FIRST, self.depth.get(key, 0)), DEBTS_MAX)

    def oldest_debts_in(self, book: Book) -> list[WalletKey]:
        """Return the wallets whose oldest debts to load, after the wallets have been loaded."""
        due = (wallet.key for wallet in book.due()) if self.due_debts else ()
        return sorted(self.oldest_debts.union(due))


class Announced(NamedTuple):
    """A subscription as an operation left it, and its plan before."""

    subscription: Subscription
    old_plan_id: str


class DuePlace(NamedTuple):
    """The place of a due entry: its time, and its kind's place among those of one instant."""

    at: datetime
    kind: int


class NeedMore(Exception):
    """Raised when the loaded state does not suffice; load more and decide again."""

    def __init__(
        self, *, depth: dict[WalletKey, int] | None = None, wallets: set[WalletKey] | None = None
    ) -> None:
        super().__init__("more of the book is needed")
        self.depth = depth or {}
        self.wallets = wallets or set()


class Book:
    """The loaded state, with the changes of earlier commands of the batch applied."""

    def __init__(
        self,
        *,
        now: datetime,
        policy_version: str,
        policy_content: str | None,
        allowances: frozenset[str] | None = None,
    ) -> None:
        self.now = now
        self.policy: Policy
        self.new_id: Callable[[], str]
        self.policy_version = policy_version
        self.policy_content = policy_content
        self.allowances = allowances
        """The metrics with allowances, if there are more than the caller knows."""
        self.wallets: dict[WalletKey, Wallet] = {}
        self.grants: dict[WalletKey, dict[str, Grant]] = {}
        self.horizon: dict[WalletKey, BurnKey] = {}
        """Burn key of the last loaded grant, for wallets with more live grants than were loaded."""
        self.depth: dict[WalletKey, int] = {}
        self.holds: dict[WalletKey, dict[str, Hold]] = {}
        self.due_after: dict[WalletKey, DuePlace] = {}
        """For wallets with due entries: the place of the first due entry that was not loaded."""
        self.expired: dict[WalletKey, int] = {}
        """Credits of due expiries that are not loaded, in a book for reading."""
        self.expiring: dict[WalletKey, Expiry] = {}
        """The next expiry of started grants that are not loaded, if the caller needs it."""
        self.receipts: dict[ReceiptKey, Receipt] = {}
        self.jobs: dict[JobKey, StoredJob] = {}
        self.records: dict[ReportKey, ConsumptionRecord] = {}
        self.operations: dict[str, Operation] = {}
        """Operations that recorded work without a price, and those that closed such debts."""
        self.debts: dict[str, Debt] = {}
        self.debts_until: dict[WalletKey, DebtAge] = {}
        """The last loaded debt, for wallets that can have more open debts than were loaded."""
        self.repayments: dict[str, list[Operation]] = {}
        """By overdrawn operation, the later operations that changed the overdraft, in order.

        Consumptions are left out.
        """
        self.owing: dict[WalletKey, int] = {}
        """The total of open debts with a price, if the caller needs it."""
        self.reversed: dict[str, int] = {}
        """Credits reversed so far, by operation."""
        self.accounts: set[Subject] = set()
        self.members: dict[Membership, Member] = {}
        self._loaded_members: dict[Membership, Member] = {}
        self.subscriptions: dict[str, Subscription] = {}
        self._loaded_subscriptions: dict[str, Subscription] = {}
        self._loaded_grants: dict[str, Grant] = {}
        self._loaded_holds: dict[tuple[WalletKey, str], Hold] = {}
        self._loaded_debts: dict[str, Debt] = {}
        self._loaded_versions: dict[WalletKey, int] = {}
        self._loaded_reversed: dict[str, int] = {}
        self._changes = Changes()

    def equip(self, policy: Policy, new_id: Callable[[], str]) -> None:
        """Set the policy and the source of ids, after the loaded version is known."""
        self.policy = policy
        self.new_id = new_id

    def put_wallet(self, wallet: Wallet) -> None:
        self.wallets[wallet.key] = wallet
        self._loaded_versions[wallet.key] = wallet.version

    def due(self) -> list[Wallet]:
        """Return the wallets with due entries."""
        return [w for w in self.wallets.values() if w.is_due(max(self.now, w.updated_at))]

    def put_grant(self, grant: Grant) -> None:
        self.grants.setdefault(grant.wallet, {})[grant.id] = grant
        self._loaded_grants[grant.id] = grant

    def put_hold(self, hold: Hold) -> None:
        self.holds.setdefault(hold.wallet, {})[hold.id] = hold
        self._loaded_holds[hold.wallet, hold.id] = hold

    def put_subscription(self, subscription: Subscription) -> None:
        self.subscriptions[subscription.subscription_id] = subscription
        self._loaded_subscriptions[subscription.subscription_id] = subscription

    def grants_of_subscriptions(self) -> set[tuple[WalletKey, str]]:
        """Return the grants of the loaded subscriptions that are to be loaded, by wallet and id."""
        named = {
            (WalletKey(*one.subject, given.credit_type), given.grant_id)
            for one in self.subscriptions.values()
            for given in (one.own, *one.given, *one.follow_up, *one.replaced)
        }
        return {
            (key, grant_id)
            for key, grant_id in named
            if key in self.wallets and grant_id not in self.grants.get(key, {})
        }

    def own_grants(self) -> list[str]:
        """Return the loaded grants that can be a subscription's own, whose end ends it too."""
        known = {one.grant_id for one in self.subscriptions.values()}
        return [
            grant.id
            for grants in self.grants.values()
            for grant in grants.values()
            if grant.entitlement_type is EntitlementType.SUBSCRIPTION and grant.id not in known
        ]

    def put_job(self, key: JobKey, units: int, outcome: StoredOutcome) -> None:
        self.jobs[key] = StoredJob(key=key, units=units, outcome=outcome)

    def put_debt(self, debt: Debt) -> None:
        self.debts[debt.operation_id] = debt
        self._loaded_debts[debt.operation_id] = debt

    def put_oldest_debts(self, key: WalletKey, debts: list[Debt], depth: int) -> None:
        """Add the wallet's open debts with a price, oldest first, up to ``depth`` of them."""
        for debt in debts:
            self.put_debt(debt)
        if len(debts) == depth:
            self.debts_until[key] = debts[-1].age

    def put_member(self, member: Member) -> None:
        self.members[member.key] = member
        self._loaded_members[member.key] = member

    def counted_members(self) -> set[Membership]:
        """Return the members whose caps the loaded holds count towards, of those not loaded."""
        held = (hold for holds in self.holds.values() for hold in holds.values())
        counted = (hold for hold in held if hold.member_month is not None)
        found = {Membership(hold.wallet.subject_id, hold.user_id) for hold in counted}
        return found - self.members.keys()

    @property
    def made(self) -> list[Operation]:
        """Return the operations of earlier commands of the batch, in order."""
        return self._changes.operations

    def operation(self, operation_id: str) -> Operation | None:
        """Return an operation that was loaded or that an earlier command of the batch wrote."""
        made = (one for one in self.made if one.id == operation_id)
        return self.operations.get(operation_id) or next(made, None)

    def put_reversed(self, operation_id: str, credits: int) -> None:
        self.reversed[operation_id] = credits
        self._loaded_reversed[operation_id] = credits

    def changes(self) -> Changes:
        """Return everything merged so far, each row once.

        Updates carry the loaded values, which the store compares with the stored row.
        """
        written = self._changes
        written.wallets = [
            (self.wallets[key], self._loaded_versions[key]) for key in sorted(written.touched)
        ]
        written.grant_totals = [self.wallets[key] for key in sorted(written.granted)]
        written.grants = [
            (self.grants[key][grant_id], self._loaded_grants[grant_id])
            for key, grant_id in sorted(written.touched_grants)
            if grant_id in self._loaded_grants
        ]
        written.renewals = [
            self.grants[key][grant_id]
            for key, grant_id in sorted(written.renewed)
            if grant_id in self._loaded_grants
        ]
        written.new_grants = [
            (self.grants[key][grant_id], details)
            for (key, grant_id), details in sorted(written.details.items())
        ]
        holds = sorted(written.touched_holds)
        written.new_holds = [
            self.holds[key][hold_id]
            for key, hold_id in holds
            if (key, hold_id) not in self._loaded_holds
        ]
        written.holds = [
            (self.holds[key][hold_id], self._loaded_holds[key, hold_id])
            for key, hold_id in holds
            if (key, hold_id) in self._loaded_holds
        ]
        members = sorted(written.touched_members)
        known = self._loaded_members
        written.new_members = [self.members[key] for key in members if key not in known]
        written.members = [(self.members[key], known[key]) for key in members if key in known]
        debts = sorted(written.touched_debts)
        written.new_debts = [self.debts[i] for i in debts if i not in self._loaded_debts]
        written.debts = [
            (self.debts[i], self._loaded_debts[i]) for i in debts if i in self._loaded_debts
        ]
        subscriptions = sorted(written.touched_subscriptions)
        loaded = self._loaded_subscriptions
        written.new_subscriptions = [
            self.subscriptions[i] for i in subscriptions if i not in loaded
        ]
        written.subscriptions = [
            (self.subscriptions[i], loaded[i].version) for i in subscriptions if i in loaded
        ]
        written.reversals = [
            (key, operation_id, self.reversed[operation_id], self._loaded_reversed[operation_id])
            for key, operation_id in sorted(written.touched_reversals)
        ]
        return written

    def merge(self, draft: Draft) -> None:
        """Apply the changes of a successful command."""
        self.wallets.update(draft.wallets)
        for grant in draft.grants.values():
            self.grants.setdefault(grant.wallet, {})[grant.id] = grant
        for hold in draft.holds.values():
            self.holds.setdefault(hold.wallet, {})[hold.id] = hold
        self.reversed.update(draft.reversed)
        if self.owing:
            self.owing = {key: draft.owing(key) for key in self.owing}
        self.debts.update(draft.debts)
        self.accounts |= draft.accounts
        self.members.update(draft.members)
        self.subscriptions.update(draft.subscriptions)
        self.receipts.update(draft.receipts)
        self.jobs.update(draft.jobs)
        self.records.update(draft.records)
        self._changes.take(draft)


class Changes:
    """The rows that one transaction writes, in the order of the decisions."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.receipts: list[Receipt] = []
        self.jobs: list[StoredJob] = []
        self.records: list[ConsumptionRecord] = []
        self.accounts: list[tuple[Subject, datetime]] = []
        self.new_members: list[Member] = []
        self.members: list[tuple[Member, Member]] = []
        """(new state, as loaded)"""
        self.touched_members: set[Membership] = set()
        self.audit: list[AuditEntry] = []
        self.touched: set[WalletKey] = set()
        self.granted: set[WalletKey] = set()
        """Wallets in which something changed that only grants change."""
        self.touched_grants: set[tuple[WalletKey, str]] = set()
        self.touched_holds: set[tuple[WalletKey, str]] = set()
        self.touched_debts: set[str] = set()
        self.touched_reversals: set[tuple[WalletKey, str]] = set()
        self.details: dict[tuple[WalletKey, str], GrantDetails] = {}
        self.allowances: set[str] = set()
        """Metrics that get their first allowance."""
        self.revoke_reasons: dict[tuple[WalletKey, str], str] = {}
        self.renewed: set[tuple[WalletKey, str]] = set()
        self.renewals: list[Grant] = []
        """Grants with a new period, or a changed use before it."""
        self.wallets: list[tuple[Wallet, int]] = []
        """(new state, the version that was loaded)"""
        self.grant_totals: list[Wallet] = []
        """Wallets whose balance at the last grant, unlimited or scheduled grants changed."""
        self.grants: list[tuple[Grant, Grant]] = []
        """(new state, as loaded)"""
        self.new_grants: list[tuple[Grant, GrantDetails]] = []
        self.new_holds: list[Hold] = []
        self.holds: list[tuple[Hold, Hold]] = []
        """(new state, as loaded)"""
        self.new_debts: list[Debt] = []
        self.debts: list[tuple[Debt, Debt]] = []
        """(new state, as loaded)"""
        self.reversals: list[tuple[WalletKey, str, int, int]] = []
        """(wallet, operation id, reversed credits now, as loaded)"""
        self.touched_subscriptions: set[str] = set()
        self.new_subscriptions: list[Subscription] = []
        self.subscriptions: list[tuple[Subscription, int]] = []
        """(new state, the version that was loaded)"""
        self.announced: dict[str, Announced] = {}
        """By operation."""

    def take(self, draft: Draft) -> None:
        self.operations += draft.operations
        self.receipts += draft.receipts.values()
        self.jobs += draft.jobs.values()
        self.records += draft.records.values()
        self.accounts += ((subject, draft.now) for subject in sorted(draft.accounts))
        self.touched_members |= draft.members.keys()
        self.audit += draft.audits
        self.touched |= draft.wallets.keys()
        self.granted |= draft.granted
        self.touched_grants |= {(grant.wallet, grant.id) for grant in draft.grants.values()}
        self.touched_holds |= draft.holds.keys()
        self.touched_debts |= draft.debts.keys()
        self.touched_reversals |= draft.reversed_in
        self.details |= draft.details
        self.allowances |= draft.allowances
        self.revoke_reasons |= draft.revoke_reasons
        self.renewed |= draft.renewed
        self.touched_subscriptions |= draft.subscriptions.keys()
        self.announced |= draft.announced

    def __bool__(self) -> bool:
        return bool(
            self.touched
            or self.receipts
            or self.jobs
            or self.records
            or self.accounts
            or self.touched_members
            or self.audit
        )


class Draft:
    """One command's changes to the book. Reads see them; the book changes only when merged."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self.now = book.now
        self.wallets: dict[WalletKey, Wallet] = {}
        self.grants: dict[str, Grant] = {}
        self.holds: dict[tuple[WalletKey, str], Hold] = {}
        self.details: dict[tuple[WalletKey, str], GrantDetails] = {}
        self.allowances: set[str] = set()
        self.revoke_reasons: dict[tuple[WalletKey, str], str] = {}
        self.renewed: set[tuple[WalletKey, str]] = set()
        self.operations: list[Operation] = []
        self.receipts: dict[ReceiptKey, Receipt] = {}
        self.jobs: dict[JobKey, StoredJob] = {}
        self.records: dict[ReportKey, ConsumptionRecord] = {}
        self.debts: dict[str, Debt] = {}
        self.reversed: dict[str, int] = {}
        self.reversed_in: set[tuple[WalletKey, str]] = set()
        self.granted: set[WalletKey] = set()
        self.overdraft_moved: set[WalletKey] = set()
        """Wallets with a changed overdraft that their next operation will record."""
        self.accounts: set[Subject] = set()
        self.members: dict[Membership, Member] = {}
        self.subscriptions: dict[str, Subscription] = {}
        self.announced: dict[str, Announced] = {}
        self.audits: list[AuditEntry] = []

    def wallet(self, key: WalletKey) -> Wallet:
        return self.wallets.get(key) or self.book.wallets[key]

    def member(self, key: Membership) -> Member | None:
        return self.members.get(key) or self.book.members.get(key)

    def grant(self, key: WalletKey, grant_id: str) -> Grant:
        return self.grants.get(grant_id) or self.book.grants[key][grant_id]

    def hold(self, key: WalletKey, hold_id: str) -> Hold:
        return self.holds.get((key, hold_id)) or self.book.holds[key][hold_id]

    def put_hold(self, hold: Hold) -> None:
        self.holds[hold.wallet, hold.id] = hold

    def subscription(self, subscription_id: str) -> Subscription | None:
        known = self.subscriptions.get(subscription_id)
        return known or self.book.subscriptions.get(subscription_id)

    def subscriptions_of(self, key: WalletKey) -> list[Subscription]:
        """Return the loaded and new subscriptions of the wallet's subject, ordered by id."""
        known = {**self.book.subscriptions, **self.subscriptions}
        return [one for _, one in sorted(known.items()) if one.subject == key.subject]

    def receipt(self, key: ReceiptKey) -> Receipt | None:
        return self.receipts.get(key) or self.book.receipts.get(key)

    def job(self, key: JobKey) -> StoredJob | None:
        return self.jobs.get(key) or self.book.jobs.get(key)

    def debt(self, operation_id: str) -> Debt | None:
        return self.debts.get(operation_id) or self.book.debts.get(operation_id)

    def owing(self, key: WalletKey) -> int:
        """Return the wallet's total of open debts, including this draft's changes."""
        owed = self.book.owing[key]
        for debt in self.debts.values():
            before = self.book.debts.get(debt.operation_id)
            if before is not None and before.wallet == key:
                owed -= before.still_owed
            if debt.wallet == key:
                owed += debt.still_owed
        return owed

    def operation(self, operation_id: str) -> Operation | None:
        """Return an operation that was loaded or that this batch wrote."""
        made = (one for one in self.operations if one.id == operation_id)
        return next(made, None) or self.book.operation(operation_id)

    def parts_of(self, operation: Operation) -> list[Operation]:
        """Return the other operations of its group, of those that were loaded or written."""
        if operation.group_id is None:
            return []
        known = (*self.book.operations.values(), *self.book.made, *self.operations)
        return [one for one in known if one.group_id == operation.id and one.id != operation.id]

    def repayments(self, operation: Operation) -> list[Operation]:
        """Return the later operations that changed the wallet's overdraft, without consumptions."""
        made = (
            one
            for one in (*self.book.made, *self.operations)
            if one.wallet == operation.wallet
            and one.seq > operation.seq
            and one.overdraft_after is not None
            and one.kind is not OperationKind.CONSUME
        )
        return [*self.book.repayments.get(operation.id, ()), *made]

    def record(self, key: ReportKey) -> ConsumptionRecord | None:
        return self.records.get(key) or self.book.records.get(key)

    def grants_of(self, key: WalletKey) -> list[Grant]:
        """Return the loaded and new grants in no order, whether they can pay or not."""
        known = self.book.grants.get(key, {})
        if not self.grants:
            return list(known.values())
        own = {i: grant for i, grant in self.grants.items() if grant.wallet == key}
        return list({**known, **own}.values())

    def holds_of(self, key: WalletKey) -> list[Hold]:
        """Return the loaded and new hold parts in no order, open or not."""
        own = {i: hold for (wallet, i), hold in self.holds.items() if wallet == key}
        return list({**self.book.holds.get(key, {}), **own}.values())
