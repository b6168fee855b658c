"""Writes a batch: statements in bulk, each of which must change the expected number of rows."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import apsw

from entitlements.adapters.mapping import Row
from entitlements.adapters.sqlite import rows
from entitlements.adapters.sqlite.statements import SQL
from entitlements.app.ports import Batch, Contended, WriteRejected
from entitlements.app.process import failpoints
from entitlements.core.ledger.book import Changes
from entitlements.core.model import AuditEntry, Grant, Receipt


def write_batch(db: apsw.Connection, batch: Batch, now: datetime) -> None:
    """Write the whole batch. Raises WriteRejected if a guard fails; the caller rolls back."""
    changes, at = batch.changes, rows.to_us(now)
    _write_wallets(db, changes)
    _write_grants(db, changes, at)
    failpoints.hit("mid-record")
    _write(db, "create_operations", map(rows.operation_values, changes.operations))
    _write(db, "create_events", map(rows.event_values, batch.outbox))
    # Sorted, so that rows on the same page are written together.
    _write(db, "write_receipt", sorted(map(rows.receipt_values, changes.receipts)))
    _write(db, "write_jobs", map(rows.job_values, changes.jobs))
    _write(db, "create_records", map(rows.record_values, changes.records))
    _write(db, "create_holds", map(rows.new_hold_values, changes.new_holds))
    _write(db, "write_holds", [rows.hold_values(hold, was) for hold, was in changes.holds])
    _write_rare(db, changes)
    _write(db, "add_lifecycle_calls", map(rows.lifecycle_call_values, batch.calls))


def write_audit(db: apsw.Connection, entry: AuditEntry) -> None:
    db.execute(SQL["write_audit"], rows.audit_values(entry))


def write_receipt(db: apsw.Connection, receipt: Receipt | None) -> None:
    """Store the receipt of an act outside of the ledger, if it has one. Raises Contended."""
    if receipt is None:
        return
    db.execute(SQL["write_receipt"], rows.receipt_values(receipt))
    if db.changes() == 0:
        raise Contended(f"the key {receipt.key} has a receipt")


def _write(db: apsw.Connection, name: str, records: Iterable[Row]) -> None:
    """Run the statement for each row; each must change exactly one row."""
    values = list(records)
    if not values:
        return
    before = db.total_changes()
    db.executemany(SQL[name], values)
    changed = db.total_changes() - before
    if changed != len(values):
        raise WriteRejected(f"{name}: {changed} of {len(values)} rows written")


def _write_wallets(db: apsw.Connection, changes: Changes) -> None:
    created = [rows.wallet_values(wallet) for wallet, loaded in changes.wallets if loaded == 0]
    updated = [
        (*rows.wallet_values(wallet), loaded) for wallet, loaded in changes.wallets if loaded
    ]
    _write(db, "create_wallets", created)
    _write(db, "write_wallets", updated)
    _write(db, "write_grant_totals", map(rows.grant_totals, changes.grant_totals))


def _write_grants(db: apsw.Connection, changes: Changes, at: int) -> None:
    drawn: list[tuple[Grant, Grant]] = []
    others: list[tuple[Grant, Grant]] = []
    for grant, loaded in changes.grants:
        (drawn if _is_drawn_only(grant, loaded) else others).append((grant, loaded))
    _write(
        db,
        "draw_grants",
        [(g.remaining, g.used, *g.wallet, g.id, loaded.remaining) for g, loaded in drawn],
    )
    _write(db, "write_grants", [rows.grant_values(grant, loaded) for grant, loaded in others])
    _write(
        db,
        "create_grants",
        [rows.new_grant_values(grant, details, at) for grant, details in changes.new_grants],
    )


def _is_drawn_only(grant: Grant, loaded: Grant) -> bool:
    """Return whether only the remaining and used credits of a live grant changed."""
    is_same = grant.held == loaded.held and grant.due_at == loaded.due_at
    return is_same and grant.is_live and loaded.is_live


def _write_rare(db: apsw.Connection, changes: Changes) -> None:
    _write(
        db,
        "write_reversals",
        [(*key, operation, now, loaded) for key, operation, now, loaded in changes.reversals],
    )
    _write(db, "write_renewals", map(rows.renewal_values, changes.renewals))
    db.executemany(SQL["add_allowances"], [(metric,) for metric in sorted(changes.allowances)])
    revoked = changes.revoke_reasons.items()
    _write(db, "write_revoke_reasons", [(why, *key, name) for (key, name), why in revoked])
    _write(db, "open_debts", map(rows.new_debt_values, changes.new_debts))
    _write(db, "write_debts", [rows.debt_values(debt, was) for debt, was in changes.debts])
    _write(db, "open_accounts", [(*subject, rows.to_us(at)) for subject, at in changes.accounts])
    _write(db, "add_members", map(rows.member_values, changes.new_members))
    _write(db, "write_members", [rows.member_values(member) for member, _ in changes.members])
    _write(db, "create_subscriptions", map(rows.subscription_values, changes.new_subscriptions))
    changed = [(*rows.subscription_values(one), was) for one, was in changes.subscriptions]
    _write(db, "write_subscriptions", changed)
    _write(db, "write_audit", map(rows.audit_values, changes.audit))
