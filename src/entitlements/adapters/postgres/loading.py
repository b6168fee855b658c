"""Loads a book under the wallets' locks."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime

import asyncpg

from entitlements.adapters.postgres import rows
from entitlements.adapters.postgres.statements import SQL
from entitlements.app.ports import AHEAD, NO_POLICY
from entitlements.core.burndown import burn_key
from entitlements.core.ledger.book import Book, DuePlace, Needs
from entitlements.core.ledger.due import LAPSE, due_depth, kind_of_due
from entitlements.core.ledger.posting import DEPTH_FIRST
from entitlements.core.model import Debt, Expiry, Grant, Membership, Subject, Wallet, WalletKey
from entitlements.core.policy import BurnOrder


class MissingWallets(Exception):
    """Wallets that must be created before they can be locked."""

    def __init__(self, keys: list[WalletKey]) -> None:
        super().__init__(f"{len(keys)} wallets do not exist")
        self.keys = keys


async def lock(
    db: asyncpg.Connection, keys: list[WalletKey], *, skip_locked: bool
) -> tuple[list[Wallet], datetime | None]:
    """Lock the wallets in the given order; return them, and the clock after the last lock."""
    name = "lock_wallets_skipping" if skip_locked else "lock_wallets"
    found = await db.fetch(SQL[name], *rows.columns(keys, 3))
    return [rows.wallet(row) for row in found], max((row["clock"] for row in found), default=None)


async def load(db: asyncpg.Connection, needs: Needs, wallets: list[Wallet], now: datetime) -> Book:
    """Read everything else that is needed, with statements that start after the locking."""
    depth = {wallet.key: needs.depth.get(wallet.key, DEPTH_FIRST) for wallet in wallets}
    parts = [(*key, hold_id) for key, hold_id in sorted(needs.holds) if key in depth]
    found = await _named_and_live(db, needs, depth, parts)
    version, count = (found[0][0], found[0][1]) if found else (NO_POLICY, needs.allowances)
    content, allowances = None, None
    if version != needs.policy_version:
        content = await db.fetchval(SQL["policy_content"], version) or NO_POLICY
    if count != needs.allowances:
        metrics = await db.fetch(SQL["allowance_metrics"])
        allowances = frozenset(row["metric"] for row in metrics)
    book = Book(now=now, policy_version=version, policy_content=content, allowances=allowances)
    for wallet in wallets:
        book.put_wallet(wallet)
    book.depth = depth
    _put_found(book, found, needs.burn_order)
    await _load_backing(db, book)
    await _load_grants(db, book, [one for one in needs.grants if one[0] in book.wallets])
    if due := book.due():
        await _load_due(db, book, due)
        await _load_due_holds(db, book, due)
    await _load_rest(db, book, needs)
    await _load_subscriptions(db, book, needs)
    return book


async def _named_and_live(
    db: asyncpg.Connection,
    needs: Needs,
    depth: Mapping[WalletKey, int],
    parts: Sequence[tuple[str, ...]],
) -> list[asyncpg.Record]:
    found: list[asyncpg.Record] = await db.fetch(
        SQL["load_fifo" if needs.burn_order is BurnOrder.FIFO else "load"],
        *rows.columns(sorted(needs.receipts), 2),
        *rows.columns([(*key, wanted) for key, wanted in depth.items()], 4),
        *rows.columns(parts, 4),
        *rows.columns(sorted(needs.members), 2),
    )
    return found


async def load_open(db: asyncpg.Connection, book: Book, needs: Needs) -> None:
    """Load the live grants that pay first, the next starts and expiries, and debts."""
    book.depth = {key: needs.depth.get(key, DEPTH_FIRST) for key in book.wallets}
    name = "open_grants_fifo" if needs.burn_order is BurnOrder.FIFO else "open_grants"
    wanted = [(*key, depth) for key, depth in book.depth.items()]
    found = await db.fetch(SQL[name], *rows.columns(wanted, 4), book.now)
    _put_live(book, map(rows.grant, found), needs.burn_order)
    if needs.members:
        await load_members(db, book, needs.members)
    keys = [(*w.key, max(book.now, w.updated_at)) for w in book.wallets.values()]
    for row in await db.fetch(SQL["grants_ahead"], *rows.columns(keys, 4), AHEAD):
        book.put_grant(rows.grant(row))
    for row in await db.fetch(SQL["holds_ahead"], *rows.columns(keys, 4), AHEAD):
        book.put_hold(rows.hold(row))
    await _load_backing(db, book)
    await _load_debts(db, book, needs)


def _put_found(book: Book, found: list[asyncpg.Record], order: BurnOrder) -> None:
    live: list[Grant] = []
    for row in found:
        if row[rows.LOADED_RECEIPT] is not None:
            receipt = rows.loaded_receipt(row)
            book.receipts[receipt.client, receipt.key] = receipt
        elif row[rows.LOADED_GRANT] is not None:
            live.append(rows.loaded_grant(row))
        elif row[rows.LOADED_HOLD] is not None:
            book.put_hold(rows.loaded_hold(row))
        elif row[rows.LOADED_MEMBER] is not None:
            book.put_member(rows.loaded_member(row))
    _put_live(book, live, order)


def _put_live(book: Book, live: Iterable[Grant], order: BurnOrder) -> None:
    """Put live grants in burn order, up to the depth of each wallet. One more shows that the wallet
    has more.
    """
    counts: dict[WalletKey, int] = {}
    for grant in live:
        counts[grant.wallet] = count = counts.get(grant.wallet, 0) + 1
        if count <= book.depth[grant.wallet]:
            book.put_grant(grant)
        if count == book.depth[grant.wallet]:
            book.horizon[grant.wallet] = burn_key(grant, order)
    for key in list(book.horizon):
        if counts[key] <= book.depth[key]:
            del book.horizon[key]


async def _load_grants(
    db: asyncpg.Connection, book: Book, named: Collection[tuple[WalletKey, str]]
) -> None:
    if named:
        keys = [(*key, grant_id) for key, grant_id in sorted(named)]
        for row in await db.fetch(SQL["load_grants_named"], *rows.columns(keys, 4)):
            book.put_grant(rows.grant(row))


async def _load_backing(db: asyncpg.Connection, book: Book) -> None:
    """Load the grants that back the holds of the book and are not loaded yet."""
    missing = {
        (key, draw.grant_id)
        for key, holds in book.holds.items()
        for hold in holds.values()
        for draw in hold.backing
        if draw.grant_id not in book.grants.get(key, {})
    }
    await _load_grants(db, book, missing)


async def _load_due(db: asyncpg.Connection, book: Book, due: Iterable[Wallet]) -> None:
    keys = [(*w.key, max(book.now, w.updated_at)) for w in due]
    loaded: dict[WalletKey, int] = {w.key: 0 for w in due}
    found = await db.fetch(SQL["load_due_grants"], *rows.columns(keys, 4), due_depth(len(keys)))
    for row in found:
        grant = rows.grant(row)
        loaded[grant.wallet] += 1
        book.put_grant(grant)
    behind = [(*key, loaded[WalletKey(*key[:3])]) for key in keys]
    for row in await db.fetch(SQL["due_after"], *rows.columns(behind, 5)):
        key = WalletKey(row["t"], row["i"], row["c"])
        kind = kind_of_due(is_started=row["started"], is_expiry=row["is_expiry"])
        book.due_after[key] = DuePlace(row["due_at"], kind)


async def _load_due_holds(db: asyncpg.Connection, book: Book, due: Iterable[Wallet]) -> None:
    keys = [(*w.key, max(book.now, w.updated_at)) for w in due]
    loaded: dict[WalletKey, int] = {w.key: 0 for w in due}
    found = await db.fetch(SQL["load_due_holds"], *rows.columns(keys, 4), due_depth(len(keys)))
    for row in found:
        hold = rows.hold(row)
        loaded[hold.wallet] += 1
        book.put_hold(hold)
    await _load_backing(db, book)
    behind = [(*key, loaded[WalletKey(*key[:3])]) for key in keys]
    for row in await db.fetch(SQL["hold_due_after"], *rows.columns(behind, 5)):
        key = WalletKey(row["t"], row["i"], row["c"])
        place = DuePlace(row["expires_at"], LAPSE)
        book.due_after[key] = min(place, book.due_after.get(key, place))


async def load_expiries(db: asyncpg.Connection, book: Book) -> None:
    """Load the next expiry of each wallet among the grants that are not loaded."""
    keys = [(*w.key, max(book.now, w.updated_at)) for w in book.wallets.values()]
    loaded = [grant_id for grants in book.grants.values() for grant_id in grants]
    for row in await db.fetch(SQL["soonest_expiries"], *rows.columns(keys, 4), loaded):
        key = WalletKey(row["t"], row["i"], row["c"])
        book.expiring[key] = Expiry(row["due_at"], row["credits"])


async def _load_debts(db: asyncpg.Connection, book: Book, needs: Needs) -> None:
    if indebted := needs.oldest_debts_in(book):
        await _load_oldest_debts(db, book, {key: needs.debts_depth(key) for key in indebted})
    if needs.owing:
        book.owing = await load_owing(db, sorted(needs.owing))


async def _load_oldest_debts(
    db: asyncpg.Connection, book: Book, depth: Mapping[WalletKey, int]
) -> None:
    found: dict[WalletKey, list[Debt]] = {key: [] for key in depth}
    asked = [(*key, most) for key, most in depth.items()]
    for row in await db.fetch(SQL["load_oldest_debts"], *rows.columns(asked, 4)):
        debt = rows.debt(row)
        found[debt.wallet].append(debt)
    for key, debts in found.items():
        book.put_oldest_debts(key, debts, depth[key])


async def _load_subscriptions(db: asyncpg.Connection, book: Book, needs: Needs) -> None:
    """Load subscriptions with their grants, and those of which an own grant is loaded."""
    if needs.subscriptions:
        named = [(*wallet[:2], name) for wallet, name in sorted(needs.subscriptions)]
        for row in await db.fetch(SQL["load_subscriptions"], *rows.columns(named, 3)):
            book.put_subscription(rows.subscription(row))
        await _load_grants(db, book, book.grants_of_subscriptions())
    if own := book.own_grants():
        for row in await db.fetch(SQL["load_subscriptions_of_grants"], own):
            book.put_subscription(rows.subscription(row))


async def _load_repayments(db: asyncpg.Connection, book: Book, needs: Needs) -> None:
    """Load what changed overdrafts since the given operations, and the grants that repaid them."""
    asked = [(*key, seq, name) for (key, seq), name in needs.repayments.items()]
    grants: set[tuple[WalletKey, str]] = set()
    for row in await db.fetch(SQL["load_repayments"], *rows.columns(asked, 5)):
        found = rows.repayment(row)
        book.repayments.setdefault(row["n"], []).append(found)
        grants |= {(found.wallet, draw.grant_id) for draw in found.draws}
    known = {(key, name) for key, found in book.grants.items() for name in found}
    await _load_grants(db, book, grants - known)


async def load_owing(db: asyncpg.Connection, keys: Sequence[WalletKey]) -> dict[WalletKey, int]:
    """Return the sum of each wallet's open debts."""
    found = await db.fetch(SQL["owing"], *rows.columns(keys, 3))
    return {rows.key_of(row): row["owed"] for row in found}


async def _load_unpriced(db: asyncpg.Connection, book: Book, filed: list[str]) -> None:
    """Load work that was filed without a price, its debts, and the operations that closed them."""
    for row in await db.fetch(SQL["load_filed_debts"], filed):
        book.put_debt(rows.debt(row))
    debts = [book.debts[name] for name in filed if name in book.debts]
    closings = [debt.closed_by for debt in debts if debt.closed_by is not None]
    for row in await db.fetch(SQL["load_operations"], [*filed, *closings]):
        found = rows.operation(row)
        book.operations[found.id] = found


async def _load_rest(db: asyncpg.Connection, book: Book, needs: Needs) -> None:
    """Load what only some commands need."""
    await _load_reported(db, book, needs)
    if needs.reversals:
        named = [(*key, operation_id) for key, operation_id in sorted(needs.reversals)]
        for row in await db.fetch(SQL["load_reversals"], *rows.columns(named, 4)):
            book.put_reversed(row["n"], row["reversed"])
    if needs.repayments:
        await _load_repayments(db, book, needs)
    if needs.debts:
        named = [(*key, operation_id) for key, operation_id in sorted(needs.debts)]
        for row in await db.fetch(SQL["load_debts"], *rows.columns(named, 4)):
            book.put_debt(rows.debt(row))
    if filed := needs.unpriced_in(book):
        await _load_unpriced(db, book, filed)
    await _load_debts(db, book, needs)
    if needs.accounts:
        found = await db.fetch(SQL["load_accounts"], *rows.columns(sorted(needs.accounts), 2))
        book.accounts |= {Subject(row["subject_type"], row["subject_id"]) for row in found}


async def _load_reported(db: asyncpg.Connection, book: Book, needs: Needs) -> None:
    """Load jobs, records of events, and the members whose caps holds count towards."""
    if needs.jobs:
        for row in await db.fetch(SQL["load_jobs"], *rows.job_keys(needs.jobs)):
            job = rows.job(row)
            book.put_job(job.key, job.units, job.outcome)
    if needs.reports:
        for row in await db.fetch(SQL["load_records"], *rows.columns(sorted(needs.reports), 2)):
            record = rows.use_record(row)
            book.records[record.report.key] = record
    if members := book.counted_members():
        await load_members(db, book, members)


async def load_members(db: asyncpg.Connection, book: Book, members: Collection[Membership]) -> None:
    for row in await db.fetch(SQL["load_members"], *rows.columns(sorted(members), 2)):
        book.put_member(rows.member(row))
