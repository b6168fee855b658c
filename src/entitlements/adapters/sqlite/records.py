"""Reads of committed state, and writes of small tables that are independent of wallets."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

import apsw

from entitlements.adapters import listing
from entitlements.adapters.listing import Listed, Steps
from entitlements.adapters.sqlite import rows
from entitlements.adapters.sqlite.statements import SQL
from entitlements.app.paging import Page
from entitlements.app.ports import (
    LIMIT_EVENTS_KEPT,
    LIMITER_LEASE_MAX_S,
    Activation,
    ApiKey,
    AuditQuery,
    Backlog,
    Contended,
    Cursor,
    HoldsQuery,
    LimitExceeded,
    OperationsQuery,
    PastUse,
    PolicyVersion,
    debts_page,
)
from entitlements.core.model import AuditEntry, Debt, Grant, Hold, Operation, Receipt, WalletKey

BEFORE_ALL = (-(2**63), "")
"""A time and an id that sort before all rows."""


def operation(db: apsw.Connection, operation_id: str) -> Operation | None:
    row = db.execute(SQL["operation"], (operation_id,)).fetchone()
    return rows.operation(row) if row else None


def operation_ids(db: apsw.Connection, first: str, last: str) -> list[str]:
    return [found for (found,) in db.execute(SQL["operation_ids"], (first, last))]


def listed(db: apsw.Connection, steps: Steps[Listed]) -> Listed:
    """Run the statements of a listing and return its rows."""
    try:
        sql_text, values = next(steps)
        while True:
            # ?1 binds a value by its number, $1 in the order of appearance.
            found = db.execute(sql_text.replace("$", "?"), values).fetchall()
            sql_text, values = steps.send(found)
    except StopIteration as end:
        shown: Listed = end.value
        return shown


def operations(db: apsw.Connection, query: OperationsQuery) -> Page[Operation, Cursor]:
    found = listed(db, listing.operations(query, rows.to_us))
    end = found.next
    return Page(
        rows=[rows.operation(row) for row in found.rows],
        next=Cursor(rows.from_us(end[0]), end[-1]) if end else None,
    )


def grant(db: apsw.Connection, grant_id: str) -> Grant | None:
    row = db.execute(SQL["grant"], (grant_id,)).fetchone()
    return rows.grant(row) if row else None


def holds_named(db: apsw.Connection, ids: Sequence[str]) -> list[Hold]:
    return [rows.hold(row) for hold_id in ids for row in db.execute(SQL["holds_named"], (hold_id,))]


def holds(db: apsw.Connection, query: HoldsQuery) -> Page[Hold, str]:
    return listed(db, listing.holds(query)).page(rows.hold)


def wallet_keys(db: apsw.Connection, subject_type: str, subject_id: str) -> list[WalletKey]:
    return [WalletKey(*row) for row in db.execute(SQL["wallet_keys"], (subject_type, subject_id))]


def orgs_of(db: apsw.Connection, user_id: str, limit: int) -> list[str]:
    return [str(row[0]) for row in db.execute(SQL["orgs_of"], (user_id, limit))]


def debt(db: apsw.Connection, operation_id: str) -> Debt | None:
    row = db.execute(SQL["debt"], (operation_id,)).fetchone()
    return rows.debt(row) if row else None


def debts(
    db: apsw.Connection, *, open_only: bool, limit: int, after: Cursor | None
) -> Page[Debt, Cursor]:
    place = (rows.to_us(after.created_at), after.id) if after else BEFORE_ALL
    found = db.execute(SQL["debts_open" if open_only else "debts"], (*place, limit + 1))
    return debts_page([rows.debt(row) for row in found], limit)


def unpriced_work(
    db: apsw.Connection, metrics: Collection[str] | None, limit: int, without: Collection[str]
) -> list[str]:
    known = None if metrics is None else json.dumps(list(metrics))
    found = db.execute(SQL["unpriced_work"], (known, json.dumps(list(without)), limit))
    return [str(operation_id) for (operation_id,) in found]


def unpriced_total(db: apsw.Connection, limit: int) -> int:
    ((total,),) = db.execute(SQL["unpriced_total"], (limit,))
    return int(total)


def due_wallets(
    db: apsw.Connection, now: datetime, limit: int, without: Collection[WalletKey]
) -> list[WalletKey]:
    left_out = json.dumps(list(without))
    found = db.execute(SQL["due_wallets"], (rows.to_us(now), left_out, limit))
    return [WalletKey(*row) for row in found]


def api_key(db: apsw.Connection, secret_sha256: str) -> ApiKey | None:
    row = db.execute(SQL["api_key"], (secret_sha256,)).fetchone()
    return rows.api_key(row) if row else None


def api_keys(db: apsw.Connection) -> list[ApiKey]:
    return [rows.api_key(row) for row in db.execute(SQL["api_keys"])]


def receipt(db: apsw.Connection, client: str, key: str) -> Receipt | None:
    row = db.execute(SQL["receipt"], (client, key)).fetchone()
    return rows.receipt(row) if row else None


def add_receipt(db: apsw.Connection, receipt: Receipt | None) -> None:
    """Store the receipt of an act outside of the ledger, if it has one. Raises Contended."""
    if receipt is None:
        return
    db.execute(SQL["write_receipt"], rows.receipt_values(receipt))
    if db.changes() == 0:
        raise Contended(f"the key {receipt.key} has a receipt")


def add_audit(db: apsw.Connection, entry: AuditEntry) -> None:
    db.execute(SQL["write_audit"], rows.audit_values(entry))


def add_api_key(db: apsw.Connection, key: ApiKey, entry: AuditEntry) -> None:
    db.execute(SQL["add_api_key"], rows.api_key_values(key))
    db.execute(SQL["write_audit"], rows.audit_values(entry))


def revoke_api_key(db: apsw.Connection, key_id: str, at: datetime, entry: AuditEntry) -> bool:
    db.execute(SQL["revoke_api_key"], (key_id, rows.to_us(at)))
    if db.changes() == 0:
        return False
    db.execute(SQL["write_audit"], rows.audit_values(entry))
    return True


def touch_api_keys(db: apsw.Connection, used_at: dict[str, datetime]) -> None:
    used = [(key_id, rows.to_us(at)) for key_id, at in used_at.items()]
    db.executemany(SQL["touch_api_keys"], used)


def audit(db: apsw.Connection, query: AuditQuery) -> Page[AuditEntry, Cursor]:
    found = listed(db, listing.audit(query, rows.to_us))
    end = found.next
    return Page(
        rows=[rows.audit_entry(row) for row in found.rows],
        next=Cursor(rows.from_us(end[0]), end[1]) if end else None,
    )


def activate_policy(
    db: apsw.Connection, version: str, content: str, entry: AuditEntry, now: datetime
) -> Activation:
    """Activate the version, unless it was active before."""
    is_new = policy(db, version) is None
    if is_new:
        db.execute(SQL["retire_policies"])
        db.execute(SQL["activate_policy"], (version, content, entry.actor, rows.to_us(now)))
        db.execute(SQL["write_audit"], rows.audit_values(entry))
    (active,) = db.execute(SQL["active_policy"]).fetchall()[0]
    return Activation(str(active), is_new)


def active_policy(db: apsw.Connection) -> str | None:
    row = db.execute(SQL["active_policy"]).fetchone()
    return row[0] if row else None


def policy(db: apsw.Connection, version: str) -> str | None:
    row = db.execute(SQL["policy_content"], (version,)).fetchone()
    return row[0] if row else None


def past_uses(
    db: apsw.Connection, metrics: Sequence[str], window_s: int, since: datetime, until: datetime
) -> list[PastUse]:
    bound = (json.dumps(list(metrics)), window_s, rows.to_us(since), rows.to_us(until))
    return [rows.past_use(row) for row in db.execute(SQL["past_uses"], bound)]


def announce_limiter(db: apsw.Connection, name: str, now: datetime, lease_s: float) -> int:
    now_us = rows.to_us(now)
    db.execute(SQL["announce_limiter"], (name, rows.to_us(now + timedelta(seconds=lease_s))))
    latest = rows.to_us(now + timedelta(seconds=LIMITER_LEASE_MAX_S))
    db.execute(SQL["limiters_gone"], (now_us, latest))
    ((others,),) = db.execute(SQL["other_limiters"], (name,))
    return int(others)


def add_limit_exceeded(db: apsw.Connection, events: Sequence[LimitExceeded]) -> None:
    db.executemany(SQL["add_limit_exceeded"], map(rows.limit_event_values, events))


def backlog(db: apsw.Connection) -> Backlog:
    (row,) = db.execute(SQL["backlog"])
    return rows.backlog(row)


def policies(
    db: apsw.Connection, prefix: str, before: datetime | None, limit: int
) -> list[PolicyVersion]:
    place = None if before is None else rows.to_us(before)
    found = db.execute(SQL["policies"], (prefix, place, limit))
    return [rows.policy_version(row) for row in found]


def purge(db: apsw.Connection, now: datetime, limit: int) -> int:
    db.execute(SQL["purge_limit_exceeded"], (rows.to_us(now - LIMIT_EVENTS_KEPT), limit))
    db.execute(SQL["purge_receipts"], (rows.to_us(now), limit))
    return db.changes()
