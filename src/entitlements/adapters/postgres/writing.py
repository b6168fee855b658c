"""Writes a batch; every statement must change the expected number of rows."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg

from entitlements.adapters import columns
from entitlements.adapters.postgres import rows
from entitlements.adapters.postgres.statements import SQL
from entitlements.app.ports import Batch, Contended, WriteRejected
from entitlements.app.process import failpoints
from entitlements.core.ledger.book import Changes
from entitlements.core.model import AuditEntry, ConsumptionRecord, Receipt


async def write_batch(db: asyncpg.Connection, batch: Batch) -> None:
    """Write the whole batch. Raises WriteRejected if a guard fails, Contended if a concurrent
    transaction has written the same new key, job or account first.
    """
    changes = batch.changes
    if changes.jobs:
        await _write(db, "write_jobs", len(changes.jobs), rows.job_columns(changes.jobs), Contended)
    if changes.accounts:
        opened = rows.columns([(*subject, at) for subject, at in changes.accounts], 3)
        await _write(db, "open_accounts", len(changes.accounts), opened, Contended)
    if changes.new_members:
        joined = rows.new_member_columns(changes.new_members)
        await _write(db, "add_members", len(changes.new_members), joined, Contended)
    if changes.members:
        changed = rows.member_columns(changes.members)
        await _write(db, "write_members", len(changes.members), changed, Contended)
    at = changes.operations[0].created_at if changes.operations else None
    writing = asyncio.ensure_future(_write_changed(db, changes))
    try:
        # Once the first statement is sent, prepare the larger part while the database works.
        await asyncio.sleep(0)
        operations = [rows.operation_values(operation) for operation in changes.operations]
        events = [rows.event_values(event) for event in batch.outbox]
    finally:
        await writing
    failpoints.hit("mid-record")
    if changes.new_grants:
        arrays = rows.new_grant_columns(changes.new_grants)
        await _write(db, "create_grants", len(changes.new_grants), [*arrays, at])
    if operations:
        await _copy(db, "credit_operations", columns.OPERATION, operations)
    if events:
        await _copy(db, "event_outbox", columns.EVENT, events)
    if changes.records:
        await _copy_records(db, changes.records)
    await _record_rest(db, batch)


async def _write_changed(db: asyncpg.Connection, changes: Changes) -> None:
    receipts, wallets, grants, created_holds, changed_holds = await db.fetchrow(
        SQL["write_changed"],
        *rows.receipt_columns(changes.receipts),
        *rows.wallet_columns(changes.wallets),
        *rows.grant_columns(changes.grants),
        *rows.hold_columns(changes.new_holds, changes.holds),
    )
    _expect("receipts", receipts, len(changes.receipts), Contended)
    _expect("wallets", wallets, len(changes.wallets))
    _expect("grants", grants, len(changes.grants))
    _expect("new holds", created_holds, len(changes.new_holds))
    _expect("holds", changed_holds, len(changes.holds))


async def write_audit(db: asyncpg.Connection, entry: AuditEntry) -> None:
    await db.execute(SQL["write_audit"], *rows.audit_values(entry))


async def write_receipt(db: asyncpg.Connection, receipt: Receipt | None) -> None:
    """Store the receipt of an act outside of the ledger, if it has one. Raises Contended."""
    if receipt is not None:
        await _write(db, "write_receipt", 1, list(rows.receipt_values(receipt)), Contended)


async def _record_rest(db: asyncpg.Connection, batch: Batch) -> None:
    changes = batch.changes
    if changes.grant_totals:
        arrays = rows.grant_totals_columns(changes.grant_totals)
        await _write(db, "write_grant_totals", len(changes.grant_totals), arrays)
    if changes.renewals:
        renewed = [
            (*g.wallet, g.id, g.renews_at, g.used_before, g.expires_at) for g in changes.renewals
        ]
        await _write(db, "write_renewals", len(renewed), rows.columns(renewed, 7))
    if changes.revoke_reasons:
        named = [(*key, name, why) for (key, name), why in sorted(changes.revoke_reasons.items())]
        await _write(db, "write_revoke_reasons", len(named), rows.columns(named, 5))
    if changes.allowances:  # in order, so that concurrent transactions do not deadlock
        await db.execute(SQL["add_allowances"], sorted(changes.allowances))
    for key, operation_id, reversed_now, loaded in changes.reversals:
        await _write(db, "write_reversals", 1, [*key, operation_id, reversed_now, loaded])
    await _record_debts(db, changes)
    for new in changes.new_subscriptions:
        values = list(rows.subscription_values(new))
        await _write(db, "create_subscriptions", 1, values, Contended)
    for changed, loaded in changes.subscriptions:
        values = [*rows.subscription_values(changed), loaded]
        await _write(db, "write_subscriptions", 1, values)
    if batch.calls:
        values = rows.columns([*map(rows.lifecycle_call_values, batch.calls)], 12)
        await _write(db, "add_lifecycle_calls", len(batch.calls), values)
    for entry in changes.audit:
        await write_audit(db, entry)


async def _record_debts(db: asyncpg.Connection, changes: Changes) -> None:
    if changes.new_debts:
        await _write(
            db, "open_debts", len(changes.new_debts), rows.new_debt_columns(changes.new_debts)
        )
    if changes.debts:
        await _write(db, "write_debts", len(changes.debts), rows.debt_columns(changes.debts))


async def _copy(
    db: asyncpg.Connection, table: str, names: tuple[str, ...], records: list[tuple[Any, ...]]
) -> None:
    """Append rows by COPY; cheaper than arrays, whose elements the driver encodes one by one."""
    await db.copy_records_to_table(table, columns=names, records=records)


async def _copy_records(db: asyncpg.Connection, records: list[ConsumptionRecord]) -> None:
    """Append records, sorted by key, so that concurrent transactions do not deadlock. Raises
    Contended if one of them recorded the same event.
    """
    ordered = sorted(records, key=lambda one: one.report.key)
    try:
        values = [rows.record_values(one) for one in ordered]
        await _copy(db, "consumption_records", columns.RECORD, values)
    except asyncpg.UniqueViolationError as error:
        message = "a concurrent transaction has recorded the same event"
        raise Contended(message) from error


async def _write(
    db: asyncpg.Connection,
    name: str,
    expected: int,
    arguments: list[Any],
    error: type[Exception] = WriteRejected,
) -> None:
    status = await db.execute(SQL[name], *arguments)
    _expect(name, int(status.rpartition(" ")[2]), expected, error)


def _expect(what: str, written: int, expected: int, error: type[Exception] = WriteRejected) -> None:
    if written != expected:
        message = f"{what}: {written} of {expected} rows written"
        raise error(message)
