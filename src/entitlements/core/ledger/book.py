"""What a batch of commands has loaded, and what they change of it.

A `Book` is filled by a store under the wallets' locks. Each command works on a `Draft` of it;
only a draft that came to its end is merged, so a command that fails leaves no trace.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from msgspec import Struct, field

from entitlements.core.burndown import BurnKey
from entitlements.core.model import (
    AuditEntry,
    Debt,
    DebtAge,
    Expiry,
    Grant,
    GrantDetails,
    Hold,
    JobKey,
    JobRecord,
    Membership,
    Operation,
    OperationKind,
    Receipt,
    ReportKey,
    Subject,
    UseRecord,
    Wallet,
    WalletKey,
)
from entitlements.core.outcomes import Consumed, StoredOutcome
from entitlements.core.policy import BurnOrder, Policy

ReceiptKey = tuple[str, str]
"""(client, key)"""

DEBTS_FIRST = 64
"""How many of a wallet's oldest debts are loaded at first."""
DEBTS_MAX = 1024
"""How many debts one command settles at most; the next paid grant goes on with the rest."""


class Needs(Struct, kw_only=True):
    """What must be loaded and locked before commands can be decided."""

    policy_version: str
    """The version the caller knows; the active document is loaded only if it is another."""
    burn_order: BurnOrder
    wallets: set[WalletKey] = field(default_factory=set)
    receipts: set[ReceiptKey] = field(default_factory=set)
    jobs: set[JobKey] = field(default_factory=set)
    reports: set[ReportKey] = field(default_factory=set)
    grants: set[tuple[WalletKey, str]] = field(default_factory=set)
    reversals: set[tuple[WalletKey, str]] = field(default_factory=set)
    """Operations to be reversed."""
    repayments: dict[tuple[WalletKey, int], str] = field(default_factory=dict)
    """Operations that were overdrawn, by wallet and number: what changed the overdraft since."""
    holds: set[tuple[WalletKey, str]] = field(default_factory=set)
    """Parts of holds, each with the grants that back it."""
    debts: set[tuple[WalletKey, str]] = field(default_factory=set)
    unpriced: set[str] = field(default_factory=set)
    """Operations that filed work without a price, each with its debt and what closed that."""
    oldest_debts: set[WalletKey] = field(default_factory=set)
    owing: set[WalletKey] = field(default_factory=set)
    """Wallets of which it must be known how much they owe."""
    due_debts: bool = False
    """The oldest debts of wallets in which something is due, too: what starts may settle them."""
    accounts: set[Subject] = field(default_factory=set)
    members: set[Membership] = field(default_factory=set)
    depth: dict[WalletKey, int] = field(default_factory=dict)
    """How many live grants, and debts, to load where the usual few did not suffice."""

    def unpriced_in(self, book: Book) -> list[str]:
        """The operations to load once the answers on record are known: some filed work without a
        price, and a repeat of such a request is answered what became of it.
        """
        outcomes = [receipt.outcome for receipt in book.receipts.values()]
        outcomes += [job.outcome for job in book.jobs.values()]
        answered: list[Consumed | UseRecord] = [
            *(one for one in outcomes if isinstance(one, Consumed)),
            *book.records.values(),
        ]
        found = {one.operation_id for one in answered if one.is_unpriced and one.operation_id}
        return sorted(self.unpriced | found)

    def debts_depth(self, key: WalletKey) -> int:
        """How many of the wallet's oldest debts to load."""
        return min(max(DEBTS_FIRST, self.depth.get(key, 0)), DEBTS_MAX)

    def oldest_debts_in(self, book: Book) -> list[WalletKey]:
        """The wallets of which the oldest debts are loaded, once it is known which are due."""
        due = (wallet.key for wallet in book.due()) if self.due_debts else ()
        return sorted(self.oldest_debts.union(due))


class NeedMore(Exception):
    """The loaded part of the book cannot answer; load more of it and decide again."""

    def __init__(
        self, *, depth: dict[WalletKey, int] | None = None, wallets: set[WalletKey] | None = None
    ) -> None:
        super().__init__("more of the book is needed")
        self.depth = depth or {}
        self.wallets = wallets or set()


class Book:
    """Loaded state, and over it what earlier commands of the batch have changed."""

    def __init__(self, *, now: datetime, policy_version: str, policy_content: str | None) -> None:
        self.now = now
        self.policy: Policy
        self.new_id: Callable[[], str]
        self.policy_version = policy_version
        self.policy_content = policy_content
        self.wallets: dict[WalletKey, Wallet] = {}
        self.grants: dict[WalletKey, dict[str, Grant]] = {}
        self.horizon: dict[WalletKey, BurnKey] = {}
        """Where live grants beyond this place in burn order exist that were not loaded."""
        self.depth: dict[WalletKey, int] = {}
        self.holds: dict[WalletKey, dict[str, Hold]] = {}
        self.due_after: dict[WalletKey, datetime | None] = {}
        """For wallets that were due: the first due time that was not loaded."""
        self.expiring: dict[WalletKey, Expiry] = {}
        """The next expiry of started grants that is still to come, where it was asked for."""
        self.receipts: dict[ReceiptKey, Receipt] = {}
        self.jobs: dict[JobKey, JobRecord] = {}
        self.records: dict[ReportKey, UseRecord] = {}
        self.operations: dict[str, Operation] = {}
        """Those that filed work without a price, and those that closed such debts."""
        self.debts: dict[str, Debt] = {}
        self.debts_until: dict[WalletKey, DebtAge] = {}
        """Where a wallet may have open debts that were not loaded: the last that was."""
        self.repayments: dict[str, list[Operation]] = {}
        """By operation that was overdrawn, those after it that changed the overdraft otherwise than
        by more work, in their order.
        """
        self.owing: dict[WalletKey, int] = {}
        """What open debts with a price add up to, where it was asked for."""
        self.reversed: dict[str, int] = {}
        """Credits reversed so far, by operation."""
        self.accounts: set[Subject] = set()
        self.members: set[Membership] = set()
        self._loaded_grants: dict[str, Grant] = {}
        self._loaded_holds: dict[tuple[WalletKey, str], Hold] = {}
        self._loaded_debts: dict[str, Debt] = {}
        self._loaded_versions: dict[WalletKey, int] = {}
        self._loaded_reversed: dict[str, int] = {}
        self._changes = Changes()

    def equip(self, policy: Policy, new_id: Callable[[], str]) -> None:
        """Give the rules and the source of ids, once the loaded version is known."""
        self.policy = policy
        self.new_id = new_id

    def put_wallet(self, wallet: Wallet) -> None:
        self.wallets[wallet.key] = wallet
        self._loaded_versions[wallet.key] = wallet.version

    def due(self) -> list[Wallet]:
        """The wallets in which something has come due."""
        return [w for w in self.wallets.values() if w.is_due(max(self.now, w.updated_at))]

    def put_grant(self, grant: Grant) -> None:
        self.grants.setdefault(grant.wallet, {})[grant.id] = grant
        self._loaded_grants[grant.id] = grant

    def put_hold(self, hold: Hold) -> None:
        self.holds.setdefault(hold.wallet, {})[hold.id] = hold
        self._loaded_holds[hold.wallet, hold.id] = hold

    def put_job(self, key: JobKey, units: int, outcome: StoredOutcome) -> None:
        self.jobs[key] = JobRecord(key=key, units=units, outcome=outcome)

    def put_debt(self, debt: Debt) -> None:
        self.debts[debt.operation_id] = debt
        self._loaded_debts[debt.operation_id] = debt

    def put_oldest_debts(self, key: WalletKey, debts: list[Debt], depth: int) -> None:
        """The wallet's open debts that have a price, oldest first, up to ``depth`` of them."""
        for debt in debts:
            self.put_debt(debt)
        if len(debts) == depth:
            self.debts_until[key] = debts[-1].age

    @property
    def made(self) -> list[Operation]:
        """By earlier commands of the batch, in their order."""
        return self._changes.operations

    def operation(self, operation_id: str) -> Operation | None:
        """One that was loaded, or made by earlier commands of the batch."""
        made = (one for one in self.made if one.id == operation_id)
        return self.operations.get(operation_id) or next(made, None)

    def put_reversed(self, operation_id: str, credits: int) -> None:
        self.reversed[operation_id] = credits
        self._loaded_reversed[operation_id] = credits

    def changes(self) -> Changes:
        """Everything merged so far, each row once, with the value its guard must still find."""
        written = self._changes
        written.wallets = [
            (self.wallets[key], self._loaded_versions[key]) for key in sorted(written.touched)
        ]
        written.balances_at_grant = [
            (key, self.wallets[key].balance_at_grant) for key in sorted(written.granted)
        ]
        written.grants = [
            (self.grants[key][grant_id], self._loaded_grants[grant_id])
            for key, grant_id in sorted(written.touched_grants)
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
        debts = sorted(written.touched_debts)
        written.new_debts = [self.debts[i] for i in debts if i not in self._loaded_debts]
        written.debts = [
            (self.debts[i], self._loaded_debts[i]) for i in debts if i in self._loaded_debts
        ]
        written.reversals = [
            (key, operation_id, self.reversed[operation_id], self._loaded_reversed[operation_id])
            for key, operation_id in sorted(written.touched_reversals)
        ]
        return written

    def merge(self, draft: Draft) -> None:
        """Take over what a finished command has changed."""
        self.wallets.update(draft.wallets)
        for grant in draft.grants.values():
            self.grants.setdefault(grant.wallet, {})[grant.id] = grant
        for hold in draft.holds.values():
            self.holds.setdefault(hold.wallet, {})[hold.id] = hold
        self.reversed.update(draft.reversed)
        self.owing = {key: draft.owing(key) for key in self.owing}
        self.debts.update(draft.debts)
        self.accounts |= draft.accounts
        self.members |= draft.members
        self.receipts.update(draft.receipts)
        self.jobs.update(draft.jobs)
        self.records.update(draft.records)
        self._changes.take(draft)


class Changes:
    """What one transaction writes, in the order in which it was decided."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.receipts: list[Receipt] = []
        self.jobs: list[JobRecord] = []
        self.records: list[UseRecord] = []
        self.accounts: list[tuple[Subject, datetime]] = []
        self.members: list[tuple[Membership, datetime]] = []
        self.audit: list[AuditEntry] = []
        self.touched: set[WalletKey] = set()
        self.granted: set[WalletKey] = set()
        """Those whose balance at the last grant is another."""
        self.touched_grants: set[tuple[WalletKey, str]] = set()
        self.touched_holds: set[tuple[WalletKey, str]] = set()
        self.touched_debts: set[str] = set()
        self.touched_reversals: set[tuple[WalletKey, str]] = set()
        self.details: dict[tuple[WalletKey, str], GrantDetails] = {}
        self.wallets: list[tuple[Wallet, int]] = []
        """(now, the version it was loaded with)"""
        self.balances_at_grant: list[tuple[WalletKey, int]] = []
        self.grants: list[tuple[Grant, Grant]] = []
        """(now, as loaded)"""
        self.new_grants: list[tuple[Grant, GrantDetails]] = []
        self.new_holds: list[Hold] = []
        self.holds: list[tuple[Hold, Hold]] = []
        """(now, as loaded)"""
        self.new_debts: list[Debt] = []
        self.debts: list[tuple[Debt, Debt]] = []
        """(now, as loaded)"""
        self.reversals: list[tuple[WalletKey, str, int, int]] = []
        """(wallet, operation, reversed now, as loaded)"""

    def take(self, draft: Draft) -> None:
        self.operations += draft.operations
        self.receipts += draft.receipts.values()
        self.jobs += draft.jobs.values()
        self.records += draft.records.values()
        self.accounts += ((subject, draft.now) for subject in sorted(draft.accounts))
        self.members += ((member, draft.now) for member in sorted(draft.members))
        self.audit += draft.audits
        self.touched |= draft.wallets.keys()
        self.granted |= draft.granted
        self.touched_grants |= {(grant.wallet, grant.id) for grant in draft.grants.values()}
        self.touched_holds |= draft.holds.keys()
        self.touched_debts |= draft.debts.keys()
        self.touched_reversals |= draft.reversed_in
        self.details |= draft.details

    def __bool__(self) -> bool:
        return bool(
            self.touched
            or self.receipts
            or self.jobs
            or self.records
            or self.accounts
            or self.members
            or self.audit
        )


class Draft:
    """One command's changes over the book. Reads see them, the book does not until merged."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self.now = book.now
        self.wallets: dict[WalletKey, Wallet] = {}
        self.grants: dict[str, Grant] = {}
        self.holds: dict[tuple[WalletKey, str], Hold] = {}
        self.details: dict[tuple[WalletKey, str], GrantDetails] = {}
        self.operations: list[Operation] = []
        self.receipts: dict[ReceiptKey, Receipt] = {}
        self.jobs: dict[JobKey, JobRecord] = {}
        self.records: dict[ReportKey, UseRecord] = {}
        self.debts: dict[str, Debt] = {}
        self.reversed: dict[str, int] = {}
        self.reversed_in: set[tuple[WalletKey, str]] = set()
        self.granted: set[WalletKey] = set()
        self.overdraft_moved: set[WalletKey] = set()
        """Wallets whose next operation has changed their overdraft."""
        self.accounts: set[Subject] = set()
        self.members: set[Membership] = set()
        self.audits: list[AuditEntry] = []

    def wallet(self, key: WalletKey) -> Wallet:
        return self.wallets.get(key) or self.book.wallets[key]

    def grant(self, key: WalletKey, grant_id: str) -> Grant:
        return self.grants.get(grant_id) or self.book.grants[key][grant_id]

    def hold(self, key: WalletKey, hold_id: str) -> Hold:
        return self.holds.get((key, hold_id)) or self.book.holds[key][hold_id]

    def put_hold(self, hold: Hold) -> None:
        self.holds[hold.wallet, hold.id] = hold

    def receipt(self, key: ReceiptKey) -> Receipt | None:
        return self.receipts.get(key) or self.book.receipts.get(key)

    def job(self, key: JobKey) -> JobRecord | None:
        return self.jobs.get(key) or self.book.jobs.get(key)

    def debt(self, operation_id: str) -> Debt | None:
        return self.debts.get(operation_id) or self.book.debts.get(operation_id)

    def owing(self, key: WalletKey) -> int:
        """What the wallet owes, as it was loaded and as debts have changed since."""
        owed = self.book.owing[key]
        for debt in self.debts.values():
            before = self.book.debts.get(debt.operation_id)
            if before is not None and before.wallet == key:
                owed -= before.still_owed
            if debt.wallet == key:
                owed += debt.still_owed
        return owed

    def operation(self, operation_id: str) -> Operation | None:
        """One that was loaded, or made in this batch."""
        made = (one for one in self.operations if one.id == operation_id)
        return next(made, None) or self.book.operation(operation_id)

    def repayments(self, operation: Operation) -> list[Operation]:
        """What changed the wallet's overdraft since the operation, but for more work."""
        made = (
            one
            for one in (*self.book.made, *self.operations)
            if one.wallet == operation.wallet
            and one.seq > operation.seq
            and one.overdraft_after is not None
            and one.kind is not OperationKind.CONSUME
        )
        return [*self.book.repayments.get(operation.id, ()), *made]

    def record(self, key: ReportKey) -> UseRecord | None:
        return self.records.get(key) or self.book.records.get(key)

    def grants_of(self, key: WalletKey) -> list[Grant]:
        """Those loaded or created, in no order, whether they can pay or not."""
        known = self.book.grants.get(key, {})
        if not self.grants:
            return list(known.values())
        own = {i: grant for i, grant in self.grants.items() if grant.wallet == key}
        return list({**known, **own}.values())

    def holds_of(self, key: WalletKey) -> list[Hold]:
        """Parts loaded or taken, in no order, whatever has become of them."""
        own = {i: hold for (wallet, i), hold in self.holds.items() if wallet == key}
        return list({**self.book.holds.get(key, {}), **own}.values())
