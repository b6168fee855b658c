"""The webhook store on SQLite."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import apsw

from entitlements.adapters import listing
from entitlements.adapters.sqlite import rows
from entitlements.adapters.sqlite.database import Database
from entitlements.adapters.sqlite.statements import SQL
from entitlements.adapters.sqlite.writing import write_audit
from entitlements.app.paging import Page
from entitlements.app.webhooks.store import (
    ENDPOINTS_KEPT,
    GIVE_UP_AFTER,
    WAIT_MAX_S,
    Attempt,
    Claim,
    DeliveriesQuery,
    Delivery,
    DeliveryBacklog,
    Endpoint,
)
from entitlements.core.model import AuditEntry

Shipped = tuple[str, str, str]


def fill(db: apsw.Connection, shipped: Iterable[Shipped], now: int) -> None:
    """Create deliveries of events (id, type, payload), in the transaction that publishes them."""
    until = now + GIVE_UP_AFTER // timedelta(microseconds=1)
    if db.execute(SQL["any_active"]).fetchone():
        db.executemany(SQL["create_deliveries"], ((*event, now, until) for event in shipped))


class SqliteWebhooks:
    """Implements `WebhookStore`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def add_endpoint(self, endpoint: Endpoint, audit: AuditEntry, *, at_most: int) -> bool:
        def work(db: apsw.Connection) -> bool:
            db.execute(SQL["add_endpoint"], (*rows.new_endpoint_values(endpoint), at_most))
            if db.changes() == 0:
                return False
            write_audit(db, audit)
            return True

        return await self._db.write(work)

    async def endpoints(self) -> list[Endpoint]:
        found = await self._db.many("endpoints")
        return [rows.endpoint(row) for row in found]

    async def endpoint(self, endpoint_id: str) -> Endpoint | None:
        row = await self._db.one("endpoint", endpoint_id)
        return rows.endpoint(row) if row else None

    async def change_endpoint(
        self, endpoint_id: str, change: Callable[[Endpoint], Endpoint], audit: AuditEntry
    ) -> Endpoint | None:
        def work(db: apsw.Connection) -> Endpoint | None:
            endpoint = _one(db, endpoint_id)
            if endpoint is None:
                return None
            changed = change(endpoint)
            db.execute(SQL["change_endpoint"], rows.endpoint_values(changed))
            write_audit(db, audit)
            return changed

        return await self._db.write(work)

    async def delete_endpoint(self, endpoint_id: str, audit: AuditEntry) -> bool:
        def work(db: apsw.Connection) -> bool:
            db.execute(SQL["delete_endpoint"], (endpoint_id, self._db.now()))
            if db.changes() == 0:
                return False
            write_audit(db, audit)
            return True

        return await self._db.write(work)

    async def deliveries(self, query: DeliveriesQuery) -> Page[Delivery, str]:
        found = await self._db.listed(lambda: listing.deliveries(query))
        return found.page(rows.delivery)

    async def retry_delivery(
        self, endpoint_id: str, event_id: str, audit: AuditEntry
    ) -> Delivery | None:
        def work(db: apsw.Connection) -> Delivery | None:
            now = self._db.clock()
            until = (rows.to_us(now), rows.to_us(now + GIVE_UP_AFTER))
            if _one(db, endpoint_id) is None:
                return None
            found = db.execute(SQL["retry_delivery"], (endpoint_id, event_id, *until)).fetchall()
            if not found:
                return None
            write_audit(db, audit)
            return rows.delivery(found[0])

        return await self._db.write(work)

    async def claim_deliveries(
        self, free: Mapping[str, int], free_of_others: int, *, lease_s: int
    ) -> list[Claim]:
        def work(db: apsw.Connection) -> list[Claim]:
            now = self._db.clock()
            instants = (rows.to_us(now), rows.to_us(now + timedelta(seconds=lease_s)))
            endpoints = map(rows.endpoint, db.execute(SQL["active_endpoints"]).fetchall())
            claims: list[Claim] = []
            for endpoint in endpoints:
                room = free.get(endpoint.id, free_of_others)
                bound = (endpoint.id, instants[0], room, instants[1])
                found: list[Any] = db.execute(SQL["claim_deliveries"], bound).fetchall()
                claims += [
                    Claim(endpoint=endpoint, event_id=event_id, attempt=attempt, payload=payload)
                    for event_id, attempt, payload in found
                ]
            return claims

        # Take the file's write lock only if something is due.
        ((is_due,),) = await self._db.many("any_due", self._db.now())
        return await self._db.write(work) if is_due else []

    async def save_attempts(self, attempts: Sequence[Attempt], audit: AuditEntry | None) -> int:
        mended = {a.endpoint_id for a in attempts if a.delivered}

        def work(db: apsw.Connection) -> int:
            now = self._db.clock()
            states = list(
                db.executemany(SQL["save_attempts"], [_recorded(a, now) for a in attempts])
            )
            for endpoint_id in mended:
                db.execute(SQL["note_mended"], (endpoint_id,))
            for endpoint_id in {a.endpoint_id for a in attempts} - mended:
                db.execute(SQL["note_failing"], (endpoint_id, rows.to_us(now)))
            disabled = 0
            for endpoint_id in {a.endpoint_id for a in attempts if a.disable}:
                db.execute(SQL["disable_endpoints"], (endpoint_id,))
                disabled += db.changes()
            if disabled and audit:
                write_audit(db, audit)
            return states.count(("failed",))

        return await self._db.write(work)

    async def tidy_deliveries(self, retention_s: int, limit: int) -> int:
        def work(db: apsw.Connection) -> int:
            now = self._db.clock()
            before = db.total_changes()
            late = rows.to_us(now - GIVE_UP_AFTER)
            db.execute(SQL["give_up_waiting"], (rows.to_us(now), late, limit))
            old = rows.to_us(now - timedelta(seconds=retention_s))
            db.execute(SQL["delete_ended"], (old, limit))
            db.execute(SQL["delete_orphans"], (limit,))
            done = db.total_changes() - before
            latest = rows.to_us(now + timedelta(seconds=WAIT_MAX_S))
            db.execute(SQL["bring_back"], (rows.to_us(now), latest, limit))
            db.execute(SQL["forget_endpoints"], (rows.to_us(now - ENDPOINTS_KEPT),))
            return done

        return await self._db.write(work)

    async def is_wanted(self) -> bool:
        return bool(await self._db.many("any_active"))

    async def backlog(self) -> DeliveryBacklog:
        (row,) = await self._db.many("webhook_backlog", DeliveryBacklog.COUNTED_MAX)
        return rows.webhook_backlog(row)


def _one(db: apsw.Connection, endpoint_id: str) -> Endpoint | None:
    row = db.execute(SQL["endpoint"], (endpoint_id,)).fetchone()
    return rows.endpoint(row) if row else None


def _recorded(attempt: Attempt, now: datetime) -> tuple[Any, ...]:
    retry_at = None
    if attempt.retry_in_s is not None:
        retry_at = rows.to_us(now + timedelta(seconds=attempt.retry_in_s))
    return (
        attempt.endpoint_id,
        attempt.event_id,
        attempt.attempt,
        attempt.delivered,
        attempt.status,
        attempt.error,
        retry_at,
        rows.to_us(now),
    )
