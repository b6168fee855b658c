"""Loads a book with what commands need, under the file's write lock."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime

import apsw

from entitlements.adapters.sqlite import rows
from entitlements.adapters.sqlite.statements import SQL
from entitlements.app.ports import AHEAD, NO_POLICY
from entitlements.core.burndown import burn_key
from entitlements.core.ledger.book import Book, DuePlace, Needs
from entitlements.core.ledger.due import LAPSE, due_depth, kind_of_due
from entitlements.core.ledger.posting import DEPTH_FIRST
from entitlements.core.model import Expiry, Hold, Membership, Wallet, WalletKey
from entitlements.core.policy import BurnOrder


def load(db: apsw.Connection, needs: Needs, now: datetime) -> Book:
    """Load everything that ``needs`` names; a wallet that does not exist is empty."""
    version, content, allowances = _policy(db, needs)
    book = Book(now=now, policy_version=version, policy_content=content, allowances=allowances)
    for key in sorted(needs.wallets):
        wallet = find_wallet(db, key) or Wallet(key=key, updated_at=now)
        book.put_wallet(wallet)
        if wallet.version:
            _load_live(db, book, key, needs.depth.get(key, DEPTH_FIRST), needs.burn_order)
    due = book.due()
    for wallet in due:
        at = max(now, wallet.updated_at)
        _load_due(db, book, wallet.key, at, limit=due_depth(len(due)))
    _load_answers(db, book, needs)
    _load_named(db, book, needs)
    _load_debts(db, book, needs)
    for key, hold_id in needs.holds:
        for row in db.execute(SQL["load_holds_named"], (*key, hold_id)):
            _put_hold(db, book, rows.hold(row))
    load_members(db, book, book.counted_members())
    _load_subscriptions(db, book, needs)
    return book


def read_books(
    db: apsw.Connection,
    keys: Iterable[WalletKey],
    now: datetime,
    *,
    owing: Iterable[WalletKey] = (),
    expiring: bool = False,
    with_each: bool = False,
) -> Book:
    """Load the wallets that exist, each with its due effects, for reading only; plain expiries only
    as a sum, unless ``with_each``.
    """
    book = Book(now=now, policy_version="", policy_content=None)
    for key in keys:
        wallet = find_wallet(db, key)
        if wallet is None:
            continue
        book.put_wallet(wallet)
        at = max(now, wallet.updated_at)
        if wallet.is_due(at):
            if with_each:
                _load_due(db, book, key, at, limit=-1)
            else:
                _load_due_sum(db, book, key, rows.to_us(at))
        if expiring:
            _load_expiry(db, book, key, at)
    book.owing = load_owing(db, owing)
    return book


def open_books(db: apsw.Connection, needs: Needs, now: datetime) -> Book:
    """As `read_books`, with the live grants that pay first, the next starts and expiries, and
    debts.
    """
    # A start that settles debts can draw from grants that have expired since.
    with_each = bool(needs.oldest_debts)
    book = read_books(db, sorted(needs.wallets), now, owing=needs.owing, with_each=with_each)
    for key, wallet in book.wallets.items():
        at = rows.to_us(max(now, wallet.updated_at))
        _load_live(
            db, book, key, needs.depth.get(key, DEPTH_FIRST), needs.burn_order, without_due=at
        )
        for row in db.execute(SQL["grants_ahead"], (*key, at, AHEAD)):
            book.put_grant(rows.grant(row))
        for row in db.execute(SQL["holds_ahead"], (*key, at, AHEAD)):
            _put_hold(db, book, rows.hold(row))
    _load_oldest_debts(db, book, needs)
    load_members(db, book, needs.members)
    return book


def find_wallet(db: apsw.Connection, key: WalletKey) -> Wallet | None:
    row = db.execute(SQL["read_wallets"], key).fetchone()
    return rows.wallet(row) if row else None


def _policy(db: apsw.Connection, needs: Needs) -> tuple[str, str | None, frozenset[str] | None]:
    """Return the active version; its document and the metrics with allowances, unless known."""
    row = db.execute(SQL["active_state"]).fetchone()
    if row is None:
        return NO_POLICY, NO_POLICY, None
    version, count = row
    content, allowances = None, None
    if version != needs.policy_version:
        ((content,),) = db.execute(SQL["policy_content"], (version,))
    if count != needs.allowances:
        allowances = frozenset(metric for (metric,) in db.execute(SQL["allowance_metrics"]))
    return version, content, allowances


def _load_live(
    db: apsw.Connection,
    book: Book,
    key: WalletKey,
    depth: int,
    order: BurnOrder,
    *,
    without_due: int | None = None,
) -> None:
    """Load the first live grants in burn order, and one more to know whether there are more;
    without the plain expiries that are due by a time, if one is given.
    """
    name = "load_live_grants" if without_due is None else "open_grants"
    by = "_fifo" if order is BurnOrder.FIFO else ""
    asked = (*key, depth + 1) if without_due is None else (*key, without_due, depth + 1)
    found = db.execute(SQL[name + by], asked).fetchall()
    book.depth[key] = depth
    for row in found[:depth]:
        book.put_grant(rows.grant(row))
    if len(found) > depth:
        book.horizon[key] = burn_key(rows.grant(found[depth - 1]), order)


def _load_due(db: apsw.Connection, book: Book, key: WalletKey, at: datetime, *, limit: int) -> None:
    grants = db.execute(SQL["load_due_grants"], (*key, rows.to_us(at), limit)).fetchall()
    for row in grants:
        book.put_grant(rows.grant(row))
    holds = db.execute(SQL["load_due_holds"], (*key, rows.to_us(at), limit)).fetchall()
    for row in holds:
        _put_hold(db, book, rows.hold(row))
    after = []
    for at_us, started, is_expiry in db.execute(SQL["due_after"], (*key, len(grants))):
        kind = kind_of_due(is_started=bool(started), is_expiry=bool(is_expiry))
        after.append(DuePlace(rows.from_us(at_us), kind))
    for (at_us,) in db.execute(SQL["hold_due_after"], (*key, len(holds))):
        after.append(DuePlace(rows.from_us(at_us), LAPSE))
    if after:
        book.due_after[key] = min(after)


def _load_due_sum(db: apsw.Connection, book: Book, key: WalletKey, at: int) -> None:
    ((book.expired[key], others),) = db.execute(SQL["plain_expiries"], (*key, at))
    if others:
        for row in db.execute(SQL["load_other_due_grants"], (*key, at)):
            book.put_grant(rows.grant(row))
    for row in db.execute(SQL["load_due_holds"], (*key, at, -1)):
        _put_hold(db, book, rows.hold(row))


def _put_hold(db: apsw.Connection, book: Book, hold: Hold) -> None:
    """Put the hold into the book, with the grants that back it."""
    book.put_hold(hold)
    for grant_id, _ in hold.backing:
        for row in db.execute(SQL["load_grants_named"], (*hold.wallet, grant_id)):
            book.put_grant(rows.grant(row))


def _load_expiry(db: apsw.Connection, book: Book, key: WalletKey, at: datetime) -> None:
    loaded = json.dumps(list(book.grants.get(key, ())))
    asked = (*key, loaded, *key, rows.to_us(at), loaded)
    row = db.execute(SQL["soonest_expiries"], asked).fetchone()
    if row is not None:
        book.expiring[key] = Expiry(rows.from_us(row[0]), row[1])


def _load_answers(db: apsw.Connection, book: Book, needs: Needs) -> None:
    for key in needs.receipts:
        if row := db.execute(SQL["receipt"], key).fetchone():
            book.receipts[key] = rows.receipt(row)
    for job in needs.jobs:
        if row := db.execute(SQL["load_jobs"], job).fetchone():
            book.jobs[job] = rows.job(row)
    for report in needs.reports:
        if row := db.execute(SQL["load_records"], report).fetchone():
            book.records[report] = rows.use_record(row)
    load_members(db, book, needs.members)


def load_members(db: apsw.Connection, book: Book, members: Iterable[Membership]) -> None:
    for key in members:
        if row := db.execute(SQL["load_members"], key).fetchone():
            book.put_member(rows.member(row))


def _load_subscriptions(db: apsw.Connection, book: Book, needs: Needs) -> None:
    """Load subscriptions with their grants, and those of which an own grant is loaded."""
    for wallet, name in needs.subscriptions:
        for row in db.execute(SQL["load_subscriptions"], (*wallet[:2], name)):
            book.put_subscription(rows.subscription(row))
    for key, grant_id in book.grants_of_subscriptions():
        for row in db.execute(SQL["load_grants_named"], (*key, grant_id)):
            book.put_grant(rows.grant(row))
    for grant_id in book.own_grants():
        for row in db.execute(SQL["load_subscriptions_of_grants"], (grant_id,)):
            book.put_subscription(rows.subscription(row))


def _load_repayments(
    db: apsw.Connection, book: Book, key: WalletKey, seq: int, operation_id: str
) -> None:
    """Load what changed the overdraft since an operation, and the grants that repaid it."""
    found = [rows.repayment(row) for row in db.execute(SQL["load_repayments"], (*key, seq))]
    book.repayments[operation_id] = found
    for grant_id in {draw.grant_id for one in found for draw in one.draws}:
        for row in db.execute(SQL["load_grants_named"], (*key, grant_id)):
            book.put_grant(rows.grant(row))


def load_owing(db: apsw.Connection, keys: Iterable[WalletKey]) -> dict[WalletKey, int]:
    """Return the sum of each wallet's open debts."""
    return {key: owed for key in keys for (owed,) in db.execute(SQL["owing"], key)}


def _load_unpriced(db: apsw.Connection, book: Book, operation_id: str) -> None:
    """Load work that was filed without a price, its debt, and the operation that closed it."""
    names = [operation_id]
    if row := db.execute(SQL["debt"], (operation_id,)).fetchone():
        debt = rows.debt(row)
        book.put_debt(debt)
        names += [debt.closed_by] if debt.closed_by is not None else []
    for name in names:
        if row := db.execute(SQL["operation"], (name,)).fetchone():
            book.operations[name] = rows.operation(row)


def _load_named(db: apsw.Connection, book: Book, needs: Needs) -> None:
    for wallet, grant_id in needs.grants:
        if row := db.execute(SQL["load_grants_named"], (*wallet, grant_id)).fetchone():
            book.put_grant(rows.grant(row))
    for wallet, operation_id in needs.reversals:
        row = db.execute(SQL["load_reversals"], (*wallet, operation_id)).fetchone()
        book.put_reversed(operation_id, row[0] if row else 0)
    for (wallet, seq), operation_id in needs.repayments.items():
        _load_repayments(db, book, wallet, seq, operation_id)
    for subject in needs.accounts:
        if db.execute(SQL["load_accounts"], subject).fetchone():
            book.accounts.add(subject)


def _load_debts(db: apsw.Connection, book: Book, needs: Needs) -> None:
    for wallet, operation_id in needs.debts:
        if row := db.execute(SQL["load_debts"], (*wallet, operation_id)).fetchone():
            book.put_debt(rows.debt(row))
    for operation_id in needs.unpriced_in(book):
        _load_unpriced(db, book, operation_id)
    _load_oldest_debts(db, book, needs)
    book.owing = load_owing(db, needs.owing)


def _load_oldest_debts(db: apsw.Connection, book: Book, needs: Needs) -> None:
    for wallet in needs.oldest_debts_in(book):
        depth = needs.debts_depth(wallet)
        found = db.execute(SQL["load_oldest_debts"], (*wallet, depth))
        book.put_oldest_debts(wallet, [rows.debt(row) for row in found], depth)
