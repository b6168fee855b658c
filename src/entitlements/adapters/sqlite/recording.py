"""Writes a batch: statements in bulk, each of which must change the expected number of rows."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import apsw

from entitlements.adapters.sqlite import inbox, rows, sql
from entitlements.app.ports import Batch, Conflict
from entitlements.app.process import failpoints
from entitlements.core.ledger.book import Changes
from entitlements.core.model import Grant


def record(db: apsw.Connection, batch: Batch, now: datetime) -> None:
    """Write the whole batch. Raises Conflict if a guard fails; the caller rolls back."""
    changes, at = batch.changes, rows.to_us(now)
    _write_wallets(db, changes)
    _write_grants(db, changes, at)
    failpoints.hit("mid-record")
    _write(db, sql.CREATE_OPERATION, map(rows.operation_values, changes.operations))
    _write(db, sql.CREATE_EVENT, map(rows.event_values, batch.outbox))
    # Sorted, so that rows on the same page are written together.
    _write(db, sql.PUT_RECEIPT, sorted(map(rows.receipt_values, changes.receipts)))
    _write(db, sql.CREATE_JOB, map(rows.job_values, changes.jobs))
    _write(db, sql.CREATE_RECORD, map(inbox.record_values, changes.records))
    _write(db, sql.CREATE_HOLD, map(rows.new_hold_values, changes.new_holds))
    _write(db, sql.UPDATE_HOLD, [rows.hold_values(hold, was) for hold, was in changes.holds])
    _write_rare(db, changes)


def _write(db: apsw.Connection, statement: str, records: Iterable[rows.Row]) -> None:
    """Run the statement for each row; each must change exactly one row."""
    values = list(records)
    if not values:
        return
    before = db.total_changes()
    db.executemany(statement, values)
    changed = db.total_changes() - before
    if changed != len(values):
        verb = " ".join(statement.split()[:3])
        raise Conflict(f"{verb}: {changed} of {len(values)} rows were as expected")


def _write_wallets(db: apsw.Connection, changes: Changes) -> None:
    created = [rows.wallet_values(wallet) for wallet, loaded in changes.wallets if loaded == 0]
    updated = [
        (*rows.wallet_values(wallet), loaded) for wallet, loaded in changes.wallets if loaded
    ]
    _write(db, sql.CREATE_WALLET, created)
    _write(db, sql.UPDATE_WALLET, updated)
    _write(db, sql.PUT_BALANCE_AT_GRANT, [(held, *key) for key, held in changes.balances_at_grant])


def _write_grants(db: apsw.Connection, changes: Changes, at: int) -> None:
    drawn: list[tuple[Grant, Grant]] = []
    others: list[tuple[Grant, Grant]] = []
    for grant, loaded in changes.grants:
        (drawn if _is_drawn_only(grant, loaded) else others).append((grant, loaded))
    _write(
        db,
        sql.DRAW_GRANT,
        [(grant.remaining, *grant.wallet, grant.id, loaded.remaining) for grant, loaded in drawn],
    )
    _write(db, sql.UPDATE_GRANT, [rows.grant_values(grant, loaded) for grant, loaded in others])
    _write(
        db,
        sql.CREATE_GRANT,
        [rows.new_grant_values(grant, details, at) for grant, details in changes.new_grants],
    )


def _is_drawn_only(grant: Grant, loaded: Grant) -> bool:
    """Return whether only the remaining credits of a live grant changed."""
    return grant.is_live and loaded.is_live and grant.held == loaded.held


def _write_rare(db: apsw.Connection, changes: Changes) -> None:
    _write(
        db,
        sql.PUT_REVERSED,
        [(*key, operation, now, loaded) for key, operation, now, loaded in changes.reversals],
    )
    _write(db, sql.OPEN_DEBT, map(rows.new_debt_values, changes.new_debts))
    _write(db, sql.UPDATE_DEBT, [rows.debt_values(debt, was) for debt, was in changes.debts])
    _write(db, sql.OPEN_ACCOUNT, [(*subject, rows.to_us(at)) for subject, at in changes.accounts])
    _write(db, sql.ADD_MEMBER, [(*member, rows.to_us(at)) for member, at in changes.members])
    _write(db, sql.CREATE_AUDIT_ENTRY, map(rows.audit_values, changes.audit))
