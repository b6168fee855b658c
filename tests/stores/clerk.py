"""A clerk that applies commands to a store, one transaction per batch, with a settable clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from entitlements.adapters.postgres.store import PostgresStore
from entitlements.adapters.sqlite.store import SqliteStore
from entitlements.app import engine
from entitlements.app.outbox.announce import Announcer
from entitlements.app.ports import Batch, Decide, LimitExceeded, LimitNear, Locked, OperationsQuery
from entitlements.core import commands as c
from entitlements.core.ledger.book import Book, Draft, NeedMore, Needs
from entitlements.core.ledger.due import look_ahead, wallet_in
from entitlements.core.ledger.subscribing import calls
from entitlements.core.model import (
    AuditEntry,
    GrantDetails,
    Hold,
    Operation,
    Subject,
    Wallet,
    WalletKey,
    facts_of,
)
from entitlements.core.outcomes import AnyOutcome, Consumed, Refusal
from entitlements.core.policy import Cost, Policy
from entitlements.core.reasons import GrantReason
from entitlements.core.windows import Cause, LimitQuery, WarnLevel, WindowKey
from entitlements.ids import uuid7
from tests.deciding import add_needs, apply

Store = engine.Store
NOON = datetime(2040, 3, 1, 12, tzinfo=UTC)
"""Later than any real clock, because PostgreSQL stamps an empty wallet with its own time."""
SCHOOL = WalletKey("org", "school", "credits")
TEACHER = WalletKey("user", "teacher", "credits")
ANNOUNCER = Announcer(prefix="huleedu", source="entitlements_service", new_id=uuid7)


def a_policy(**rules: Any) -> Policy:
    """Return a policy that charges one credit per unit of ``cj``."""
    given: dict[str, Any] = {"costs": {"cj": Cost(credits=1)}, "limits": {}, "signup_bonuses": {}}
    return Policy(version="1" * 64, **(given | rules))


def an_activation(actor: str = "tester") -> AuditEntry:
    return AuditEntry(
        id=uuid7(),
        at=NOON,
        actor=actor,
        client="tests",
        action="policy.activate",
        subject=None,
        reason=None,
        detail={},
        correlation_id="c",
    )


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now

    def at(self, seconds: float) -> datetime:
        return NOON + timedelta(seconds=seconds)

    def turn_to(self, seconds: float) -> None:
        self.now = self.at(seconds)


class Clerk:
    """Decides commands by one policy and commits them to the store."""

    def __init__(self, store: Store, clock: Clock, policy: Policy) -> None:
        self.store = store
        self.clock = clock
        self.policy = policy
        self.books: list[Book] = []

    async def do(self, *commands: c.AnyCommand) -> list[AnyOutcome | Refusal]:
        """Commit the commands in one transaction; return their outcomes."""
        outcomes: list[AnyOutcome | Refusal] = []
        known = await self.store.policies.allowances()
        self.policy = msgspec.structs.replace(self.policy, allowances=known)

        def decide(book: Book) -> Batch | None:
            outcomes.extend(apply(book, command) for command in commands)
            changes = book.changes()
            return Batch(changes, ANNOUNCER.rows(changes), calls(changes)) if changes else None

        await self.commit(self.needs(*commands), decide)
        return outcomes

    def needs(self, *commands: c.AnyCommand) -> Needs:
        needs = Needs(
            policy_version=self.policy.version,
            burn_order=self.policy.burn_order,
            due_debts=self.policy.settle_debts,
            allowances=len(self.policy.allowances),
        )
        for command in commands:
            add_needs(needs, command, self.policy)
        return needs

    async def commit(self, needs: Needs, decide: Decide) -> None:
        """Commit as the engine does: put the policy into each book, load more when needed, and
        retry while others have locked the wallets.
        """
        wanted = needs

        def equipped(book: Book) -> Batch | Needs | None:
            nonlocal wanted
            self.books.append(book)
            book.equip(self.policy, uuid7)
            try:
                return decide(book)
            except NeedMore as more:
                wanted = msgspec.structs.replace(
                    wanted, depth=wanted.depth | more.depth, wallets=wanted.wallets | more.wallets
                )
                return wanted

        while True:
            with suppress(Locked):
                return await self.store.ledger.commit(needs, equipped)

    async def look(self, *wallets: WalletKey, needs: Needs | None = None) -> Book:
        """Return the book that a batch would load, without writing."""
        wanted = needs or Needs(
            policy_version=self.policy.version, burn_order=self.policy.burn_order
        )
        wanted.wallets |= set(wallets)
        await self.commit(wanted, lambda _: None)
        return self.books[-1]


async def a_clerk(store: Store, clock: Clock, policy: Policy | None = None) -> Clerk:
    policy = policy or a_policy()
    await store.policies.activate(policy.version, "costs: {cj: 1}", an_activation())
    return Clerk(store, clock, policy)


def origin(key: str | None = None, *, fingerprint: str = "f", lifetime_s: int = 60) -> c.Origin:
    return c.Origin(
        actor="tester",
        client="tests",
        correlation_id=uuid7(),
        key=key or uuid7(),
        fingerprint=fingerprint,
        lifetime_s=lifetime_s,
    )


def give(
    quantity: int, wallet: WalletKey = TEACHER, key: str | None = None, **grant: Any
) -> c.CreateGrant:
    given: dict[str, Any] = {
        "reason": GrantReason.PURCHASE,
        "details": GrantDetails(granted_by="tester"),
    }
    return c.CreateGrant(
        id=uuid7(), origin=origin(key), wallet=wallet, quantity=quantity, **(given | grant)
    )


def a_limit_event(
    subject: Subject = TEACHER.subject,
    metric: str = "cj",
    minute: int = 36_900_000,
    created_at: datetime = NOON,
) -> LimitExceeded:
    ask = LimitQuery(WindowKey(subject, metric, 60), 10, 1)
    return ANNOUNCER.limit_exceeded(ask, minute, created_at, Cause("c", "teacher", None, None))


def a_near_event(
    subject: Subject = TEACHER.subject,
    metric: str = "cj",
    window_s: int = 60,
    created_at: datetime = NOON,
) -> LimitNear:
    warn = WarnLevel(10, 8, Cause("c", "teacher", None, None))
    return ANNOUNCER.limit_near(WindowKey(subject, metric, window_s), 8, warn, created_at)


def consume(units: int, asked: c.Origin | None = None, **fields: Any) -> c.Consume:
    given: dict[str, Any] = {"user_id": "teacher", "metric": "cj"}
    return c.Consume(id=uuid7(), origin=asked or origin(), units=units, **(given | fields))


def hold(units: int, user_id: str = "teacher", **fields: Any) -> c.TakeHold:
    given: dict[str, Any] = {"requirements": {"cj": units}, "ttl_s": 60}
    return c.TakeHold(id=uuid7(), origin=origin(), user_id=user_id, **(given | fields))


def settle(held: Sequence[Hold], units: int, **fields: Any) -> c.SettleHold:
    given: dict[str, Any] = {"requirements": {"cj": units}}
    return c.SettleHold(id=uuid7(), origin=origin(), hold=facts_of(held), **(given | fields))


def release(held: Sequence[Hold]) -> c.ReleaseHold:
    return c.ReleaseHold(id=uuid7(), origin=origin(), hold=facts_of(held))


def together(*items: c.Item) -> c.Together:
    return c.Together(id=uuid7(), origin=origin(), items=items)


def rewritten(commands: list[c.AnyCommand], change: Callable[[Book], None]) -> Decide:
    """Return a function that decides the commands after ``change`` has altered the loaded book."""

    def decide(book: Book) -> Batch:
        change(book)
        for command in commands:
            apply(book, command)
        changes = book.changes()
        return Batch(changes, ANNOUNCER.rows(changes), calls(changes))

    return decide


async def all_operations(store: Store) -> list[Operation]:
    return (await store.reads.operations(OperationsQuery(limit=1000))).rows


async def first_column(store: Store, table: str, column: str) -> list[Any]:
    sql = f"SELECT {column} FROM {table}"
    if isinstance(store, PostgresStore):
        async with store.db.connection() as db:
            return [row[0] for row in await db.fetch(sql)]
    assert isinstance(store, SqliteStore)
    return [row[0] for row in await store.db.read(lambda db: db.execute(sql).fetchall())]


def consumed(outcome: object) -> Consumed:
    assert isinstance(outcome, Consumed), outcome
    return outcome


async def read(clerk: Clerk, *wallets: WalletKey) -> Book:
    book = await clerk.store.reads.books(wallets)
    book.equip(clerk.policy, str)
    return book


def an_entry(action: str, second: int) -> AuditEntry:
    return AuditEntry(
        id=uuid7(),
        at=NOON + timedelta(seconds=second),
        actor="tester",
        client="tests",
        action=action,
        subject=Subject("org", "school") if second else None,
        reason=None,
        detail={"name": "grader", "number": 1},
        correlation_id="c",
    )


def as_of_now(book: Book, key: WalletKey) -> Wallet:
    """Return the wallet with everything due applied."""
    draft = Draft(book)
    look_ahead(draft, [key])
    return wallet_in(draft, key)
