"""The webhook store on SQLite."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Protocol, TypeVar

import apsw
import msgspec

from entitlements.adapters import columns, listing
from entitlements.adapters.sqlite import rows, sql
from entitlements.adapters.sqlite.records import listed
from entitlements.app.paging import Page
from entitlements.app.webhooks.store import (
    WAIT_MAX_S,
    Attempt,
    Backlog,
    Claim,
    DeliveriesQuery,
    Delivery,
    Endpoint,
    Secret,
)
from entitlements.core.model import AuditEntry

T = TypeVar("T")
Shipped = tuple[str, str, str]

ENDPOINTS: Final = """
    SELECT id, url, events, description, secrets, active, disabled_because, failing_since,
           created_at, created_by
    FROM webhook_endpoints WHERE deleted_at IS NULL"""
ADD_ENDPOINT: Final = """
    INSERT INTO webhook_endpoints (id, url, events, description, secrets, active, disabled_because,
                                   failing_since, created_at, created_by)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
COUNT_ENDPOINTS: Final = "SELECT count(*) FROM webhook_endpoints WHERE deleted_at IS NULL"
CHANGE_ENDPOINT: Final = """
    UPDATE webhook_endpoints
    SET url = ?2, events = ?3, description = ?4, secrets = ?5, active = ?6, disabled_because = ?7,
        failing_since = ?8
    WHERE id = ?1"""
DELETE_ENDPOINT: Final = """
    UPDATE webhook_endpoints SET active = 0, secrets = '[]', deleted_at = ?2
    WHERE id = ?1 AND deleted_at IS NULL"""
DELIVERY: Final = ", ".join(columns.DELIVERY)
RETRY_DELIVERY: Final = f"""
    UPDATE webhook_deliveries SET state = 'pending', ended_at = NULL, next_at = ?3, give_up_at = ?4
    WHERE endpoint_id = ?1 AND event_id = ?2
    RETURNING {DELIVERY}"""
ANY_ACTIVE: Final = "SELECT 1 FROM webhook_endpoints WHERE active LIMIT 1"
FILL: Final = """
    INSERT INTO webhook_deliveries (endpoint_id, event_id, event_type, payload, state, attempts,
                                    next_at, give_up_at, created_at)
    SELECT id, ?1, ?2, ?3, 'pending', 0, ?4, ?5, ?4 FROM webhook_endpoints
    WHERE active AND EXISTS (SELECT 1 FROM json_each(events) AS p WHERE ?2 GLOB p.value)
    ON CONFLICT DO NOTHING"""
ANY_DUE: Final = """
    SELECT EXISTS (
        SELECT 1 FROM webhook_endpoints e CROSS JOIN webhook_deliveries d
        WHERE e.active AND d.endpoint_id = e.id AND d.state = 'pending' AND d.next_at <= ?)"""
CLAIM: Final = """
    UPDATE webhook_deliveries SET attempts = attempts + 1, next_at = ?4
    WHERE (endpoint_id, event_id) IN (
        SELECT endpoint_id, event_id FROM webhook_deliveries
        WHERE endpoint_id = ?1 AND state = 'pending' AND next_at <= ?2 ORDER BY next_at LIMIT ?3)
    RETURNING event_id, attempts, payload"""
# An attempt that is not the delivery's last one has lost its lease, and its result is ignored.
RECORD_ATTEMPT: Final = """
    UPDATE webhook_deliveries
    SET state = CASE WHEN ?4 THEN 'delivered' WHEN ?7 IS NULL OR ?7 > give_up_at THEN 'failed'
                     ELSE 'pending' END,
        next_at = coalesce(?7, next_at),
        ended_at = CASE WHEN ?7 IS NULL OR ?7 > give_up_at THEN ?8 END,
        last_status = ?5,
        last_error = ?6
    WHERE endpoint_id = ?1 AND event_id = ?2 AND attempts = ?3 AND state = 'pending'
    RETURNING state"""
NOTE_FAILING: Final = """
    UPDATE webhook_endpoints SET failing_since = ?2 WHERE id = ?1 AND failing_since IS NULL"""
NOTE_MENDED: Final = "UPDATE webhook_endpoints SET failing_since = NULL WHERE id = ?"
DISABLE: Final = """
    UPDATE webhook_endpoints SET active = 0, disabled_because = 'gone' WHERE id = ? AND active"""
# No process has claimed these for days, because their endpoint is not active.
GIVE_UP_WAITING: Final = """
    UPDATE webhook_deliveries
    SET state = 'failed', ended_at = ?1, last_error = 'the endpoint is not active'
    WHERE (endpoint_id, event_id) IN (
        SELECT d.endpoint_id, d.event_id FROM webhook_endpoints e CROSS JOIN webhook_deliveries d
        WHERE NOT e.active AND e.deleted_at IS NULL AND d.endpoint_id = e.id
          AND d.state = 'pending' AND d.next_at <= ?2 LIMIT ?3)"""
BRING_BACK: Final = """
    UPDATE webhook_deliveries SET next_at = ?1
    WHERE (endpoint_id, event_id) IN (
        SELECT d.endpoint_id, d.event_id FROM webhook_endpoints e CROSS JOIN webhook_deliveries d
        WHERE d.endpoint_id = e.id AND d.state = 'pending' AND d.next_at > ?2 LIMIT ?3)"""
DELETE_ENDED: Final = """
    DELETE FROM webhook_deliveries WHERE (endpoint_id, event_id) IN (
        SELECT endpoint_id, event_id FROM webhook_deliveries
        WHERE ended_at <= ? ORDER BY ended_at LIMIT ?)"""
DELETE_ORPHANS: Final = """
    DELETE FROM webhook_deliveries WHERE (endpoint_id, event_id) IN (
        SELECT d.endpoint_id, d.event_id FROM webhook_endpoints e CROSS JOIN webhook_deliveries d
        WHERE e.deleted_at IS NOT NULL AND d.endpoint_id = e.id LIMIT ?)"""
FORGET_ENDPOINTS: Final = """
    DELETE FROM webhook_endpoints
    WHERE deleted_at <= ? AND id NOT IN (SELECT endpoint_id FROM webhook_deliveries)"""
BACKLOG: Final = """
    SELECT (SELECT count(*)
            FROM (SELECT 1 FROM webhook_deliveries WHERE state = 'pending' LIMIT ?)),
           count(*) FILTER (WHERE active AND failing_since IS NOT NULL),
           min(failing_since) FILTER (WHERE active)
    FROM webhook_endpoints"""
GIVE_UP_AFTER: Final = timedelta(days=3)

_decode_secrets = msgspec.json.Decoder(tuple[Secret, ...]).decode
_decode_events = msgspec.json.Decoder(tuple[str, ...]).decode


def fill(db: apsw.Connection, shipped: Iterable[Shipped], now: int) -> None:
    """Create deliveries of events (id, type, payload), in the transaction that publishes them."""
    until = now + GIVE_UP_AFTER // timedelta(microseconds=1)
    if db.execute(ANY_ACTIVE).fetchone():
        db.executemany(FILL, ((*event, now, until) for event in shipped))


class Run(Protocol):
    """Runs a transaction of the store in its thread."""

    async def __call__(self, work: Callable[[apsw.Connection], T]) -> T: ...


class SqliteWebhooks:
    """Implements `WebhookStore`."""

    def __init__(self, read: Run, write: Run, clock: Callable[[], datetime]) -> None:
        """``read`` and ``write`` are the store's: transactions in its threads."""
        self._read = read
        self._write = write
        self._clock = clock

    def _now(self) -> int:
        return rows.to_us(self._clock())

    async def add_endpoint(self, endpoint: Endpoint, audit: AuditEntry, *, at_most: int) -> bool:
        def work(db: apsw.Connection) -> bool:
            ((there,),) = db.execute(COUNT_ENDPOINTS)
            if there >= at_most:
                return False
            added = (rows.to_us(endpoint.created_at), endpoint.created_by)
            db.execute(ADD_ENDPOINT, (*_changeable(endpoint), *added))
            db.execute(sql.CREATE_AUDIT_ENTRY, rows.audit_values(audit))
            return True

        return await self._write(work)

    async def endpoints(self) -> list[Endpoint]:
        statement = f"{ENDPOINTS} ORDER BY created_at, id"
        found = await self._read(lambda db: db.execute(statement).fetchall())
        return [_endpoint(row) for row in found]

    async def endpoint(self, endpoint_id: str) -> Endpoint | None:
        return await self._read(lambda db: _one(db, endpoint_id))

    async def change_endpoint(
        self, endpoint_id: str, change: Callable[[Endpoint], Endpoint], audit: AuditEntry
    ) -> Endpoint | None:
        def work(db: apsw.Connection) -> Endpoint | None:
            endpoint = _one(db, endpoint_id)
            if endpoint is None:
                return None
            changed = change(endpoint)
            db.execute(CHANGE_ENDPOINT, _changeable(changed))
            db.execute(sql.CREATE_AUDIT_ENTRY, rows.audit_values(audit))
            return changed

        return await self._write(work)

    async def delete_endpoint(self, endpoint_id: str, audit: AuditEntry) -> bool:
        def work(db: apsw.Connection) -> bool:
            db.execute(DELETE_ENDPOINT, (endpoint_id, self._now()))
            if db.changes() == 0:
                return False
            db.execute(sql.CREATE_AUDIT_ENTRY, rows.audit_values(audit))
            return True

        return await self._write(work)

    async def deliveries(self, query: DeliveriesQuery) -> Page[Delivery, str]:
        found = await self._read(lambda db: listed(db, listing.deliveries(query)))
        return found.page(_delivery)

    async def retry_delivery(
        self, endpoint_id: str, event_id: str, audit: AuditEntry
    ) -> Delivery | None:
        def work(db: apsw.Connection) -> Delivery | None:
            now = self._clock()
            until = (rows.to_us(now), rows.to_us(now + GIVE_UP_AFTER))
            if _one(db, endpoint_id) is None:
                return None
            found = db.execute(RETRY_DELIVERY, (endpoint_id, event_id, *until)).fetchall()
            if not found:
                return None
            db.execute(sql.CREATE_AUDIT_ENTRY, rows.audit_values(audit))
            return _delivery(found[0])

        return await self._write(work)

    async def claim_deliveries(
        self, free: Mapping[str, int], free_of_others: int, *, lease_s: int
    ) -> list[Claim]:
        def work(db: apsw.Connection) -> list[Claim]:
            now = self._clock()
            instants = (rows.to_us(now), rows.to_us(now + timedelta(seconds=lease_s)))
            endpoints = map(_endpoint, db.execute(f"{ENDPOINTS} AND active").fetchall())
            claims: list[Claim] = []
            for endpoint in endpoints:
                room = free.get(endpoint.id, free_of_others)
                bound = (endpoint.id, instants[0], room, instants[1])
                found: list[Any] = db.execute(CLAIM, bound).fetchall()
                claims += [
                    Claim(endpoint=endpoint, event_id=event_id, attempt=attempt, payload=payload)
                    for event_id, attempt, payload in found
                ]
            return claims

        # Take the file's write lock only if something is due.
        ((is_due,),) = await self._read(lambda db: db.execute(ANY_DUE, (self._now(),)).fetchall())
        return await self._write(work) if is_due else []

    async def record_attempts(self, attempts: Sequence[Attempt], audit: AuditEntry | None) -> int:
        mended = {a.endpoint_id for a in attempts if a.delivered}

        def work(db: apsw.Connection) -> int:
            now = self._clock()
            states = list(db.executemany(RECORD_ATTEMPT, [_recorded(a, now) for a in attempts]))
            for endpoint_id in mended:
                db.execute(NOTE_MENDED, (endpoint_id,))
            for endpoint_id in {a.endpoint_id for a in attempts} - mended:
                db.execute(NOTE_FAILING, (endpoint_id, rows.to_us(now)))
            disabled = 0
            for endpoint_id in {a.endpoint_id for a in attempts if a.disable}:
                db.execute(DISABLE, (endpoint_id,))
                disabled += db.changes()
            if disabled and audit:
                db.execute(sql.CREATE_AUDIT_ENTRY, rows.audit_values(audit))
            return states.count(("failed",))

        return await self._write(work)

    async def tidy_deliveries(self, retention_s: int, limit: int) -> int:
        def work(db: apsw.Connection) -> int:
            now = self._clock()
            before = db.total_changes()
            late = rows.to_us(now - GIVE_UP_AFTER)
            db.execute(GIVE_UP_WAITING, (rows.to_us(now), late, limit))
            old = rows.to_us(now - timedelta(seconds=retention_s))
            db.execute(DELETE_ENDED, (old, limit))
            db.execute(DELETE_ORPHANS, (limit,))
            done = db.total_changes() - before
            latest = rows.to_us(now + timedelta(seconds=WAIT_MAX_S))
            db.execute(BRING_BACK, (rows.to_us(now), latest, limit))
            db.execute(FORGET_ENDPOINTS, (rows.to_us(now - timedelta(hours=1)),))
            return done

        return await self._write(work)

    async def is_wanted(self) -> bool:
        def work(db: apsw.Connection) -> bool:
            return db.execute(ANY_ACTIVE).fetchone() is not None

        return await self._read(work)

    async def backlog(self) -> Backlog:
        def work(db: apsw.Connection) -> Any:
            return db.execute(BACKLOG, (Backlog.COUNTED_MAX,)).fetchone()

        pending, failing, since = await self._read(work)
        return Backlog(pending=pending, failing=failing, failing_since=rows.from_us_or_none(since))


def _one(db: apsw.Connection, endpoint_id: str) -> Endpoint | None:
    row = db.execute(f"{ENDPOINTS} AND id = ?", (endpoint_id,)).fetchone()
    return _endpoint(row) if row else None


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


def _changeable(endpoint: Endpoint) -> tuple[Any, ...]:
    return (
        endpoint.id,
        endpoint.url,
        rows.json_text(endpoint.events),
        endpoint.description,
        rows.json_text(endpoint.secrets),
        endpoint.active,
        endpoint.disabled_because,
        rows.to_us_or_none(endpoint.failing_since),
    )


def _endpoint(row: Sequence[Any]) -> Endpoint:
    key, url, events, description, secrets, active, because, failing, created_at, by = row
    return Endpoint(
        id=key,
        url=url,
        events=_decode_events(events),
        description=description,
        secrets=_decode_secrets(secrets),
        active=bool(active),
        disabled_because=because,
        failing_since=rows.from_us_or_none(failing),
        created_at=rows.from_us(created_at),
        created_by=by,
    )


def _delivery(row: Sequence[Any]) -> Delivery:
    endpoint, event, kind, state, attempts, next_at, status, error, created_at, ended_at = row
    return Delivery(
        endpoint_id=endpoint,
        event_id=event,
        event_type=kind,
        state=state,
        attempts=attempts,
        next_at=rows.from_us(next_at),
        last_status=status,
        last_error=error,
        created_at=rows.from_us(created_at),
        delivered_at=rows.from_us_or_none(ended_at) if state == "delivered" else None,
    )
