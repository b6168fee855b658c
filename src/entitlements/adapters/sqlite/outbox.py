"""The outbox port on SQLite."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import apsw

from entitlements.adapters.sqlite import rows
from entitlements.adapters.sqlite.database import Database
from entitlements.adapters.sqlite.statements import SQL
from entitlements.adapters.sqlite.webhooks import Shipped, fill
from entitlements.adapters.sqlite.writing import write_audit, write_receipt
from entitlements.app.outbox.store import (
    NO_SINK,
    Epochs,
    Event,
    LeaseLine,
    Leases,
    ParkedCursor,
    ParkedEvent,
    ReceiptOf,
    Unpublishable,
    fair_share,
    is_outward,
    no_receipt,
)
from entitlements.app.ports import Backlog, LimitEvent
from entitlements.core.model import AuditEntry

T = TypeVar("T")


class SqliteOutbox:
    """Implements `Outbox`. What a relay notes need not be on disk at once: after a loss, the events
    are sent again.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    async def _note(self, work: Callable[[apsw.Connection], T]) -> T:
        return await self._db.write(work, durably=False)

    async def heartbeat(
        self, relay: str, *, sink: str, lease_s: float, rebalance: bool = True
    ) -> Leases:
        return await self._note(
            lambda db: self._heartbeat(db, relay, sink, lease_s, rebalance=rebalance)
        )

    def _heartbeat(
        self, db: apsw.Connection, relay: str, sink: str, lease_s: float, *, rebalance: bool
    ) -> Leases:
        now = self._db.now()
        lease = round(lease_s * 1_000_000)
        until, too_late = now + lease, now + 2 * lease
        db.execute(SQL["relay_is_alive"], (relay, sink, until))
        mine = _epochs(db, "renew_leases", (relay, until))
        if not rebalance:
            return Leases(epochs=mine, share=len(mine))
        db.execute(SQL["relays_gone"], (now, too_late))
        share = _share(db, sink, now)
        if surplus := sorted(mine)[share:]:
            db.executemany(SQL["give_back_leases"], [(relay, bucket) for bucket in surplus])
        elif lacking := share - len(mine):
            outward = sink if is_outward(sink) else None
            claim = (relay, now, until, outward, lacking, too_late)
            mine |= _epochs(db, "claim_leases", claim)
        kept = {bucket: mine[bucket] for bucket in sorted(mine)[:share]}
        return Leases(epochs=kept, share=share)

    async def release_leases(self, relay: str) -> None:
        def leave(db: apsw.Connection) -> None:
            mine = _epochs(db, "renew_leases", (relay, self._db.now()))
            db.executemany(SQL["give_back_leases"], [(relay, bucket) for bucket in mine])
            db.execute(SQL["leave"], (relay,))

        await self._note(leave)

    async def unpublished(
        self, buckets: Iterable[int], *, each: int, at_most: int, without: Sequence[str] = ()
    ) -> list[Event]:
        unwanted = json.dumps(list(without))

        def read(db: apsw.Connection) -> list[Event]:
            found: list[Event] = []
            for bucket in buckets:
                room = min(each, at_most - len(found))
                found += map(rows.event, db.execute(SQL["waiting"], (bucket, unwanted, room)))
                if len(found) >= at_most:
                    break
            return found

        return await self._db.history(read)

    async def mark_published(
        self,
        relay: str,
        epochs: Epochs,
        published: Sequence[Event],
        refused: Sequence[Unpublishable],
        *,
        keep: bool,
    ) -> set[int]:
        def mark(db: apsw.Connection) -> set[int]:
            held = _held(db, relay, epochs)
            now = self._db.now()
            shipped = [event for event in published if event.bucket in held]
            if keep:
                db.executemany(SQL["mark_published"], [(now, *_place(event)) for event in shipped])
            else:
                db.executemany(SQL["delete_published"], map(_place, shipped))
                cleaned = [(event.bucket, rows.to_us(event.created_at)) for event in shipped]
                db.executemany(SQL["note_cleaned"], cleaned)
            fill(db, map(_told, shipped), now)
            parked = [one for one in refused if one.event.bucket in held]
            db.executemany(
                SQL["park"], [(now, one.reason, one.attempts, *_place(one.event)) for one in parked]
            )
            return held

        return await self._note(mark)

    async def discard_unsubscribed(self, relay: str, epochs: Epochs, *, at_most: int) -> int:
        def discard_unsubscribed(db: apsw.Connection) -> int:
            now = self._db.now()
            passed: list[Any] = []
            if not _share(db, NO_SINK, now):
                return 0
            for bucket in _held(db, relay, epochs):
                wanted = (now, bucket, at_most - len(passed))
                passed += db.execute(SQL["discard_unsubscribed"], wanted).fetchall()
            fill(db, passed, now)
            return len(passed)

        return await self._note(discard_unsubscribed)

    async def clean(self, relay: str, epochs: Epochs, *, retention_s: float, limit: int) -> int:
        def clean(db: apsw.Connection) -> int:
            if 0 not in epochs or not _held(db, relay, {0: epochs[0]}):
                return 0
            until = rows.to_us(self._db.clock() - timedelta(seconds=retention_s))
            gone: list[Any] = db.execute(SQL["clean"], (until, limit)).fetchall()
            if gone:
                db.execute(SQL["note_cleaned"], (0, max(created_at for (created_at,) in gone)))
            return len(gone)

        return await self._note(clean)

    async def backlog(self) -> Backlog:
        (row,) = await self._db.many("backlog")
        return rows.backlog(row)

    async def limit_events(self, limit: int) -> list[LimitEvent]:
        return [rows.limit_event(row) for row in await self._db.many("limit_events", limit)]

    async def mark_limit_events(self, events: Sequence[LimitEvent]) -> None:
        now = self._db.now()
        told = [(now, rows.to_us(event.created_at), event.event_id) for event in events]

        def tell(db: apsw.Connection) -> None:
            db.executemany(SQL["mark_limit_exceeded"], told)
            db.executemany(SQL["mark_limit_near"], told)
            fill(db, map(_told, events), self._db.now())

        await self._note(tell)

    async def leases(self) -> list[LeaseLine]:
        return [rows.lease(row) for row in await self._db.many("leases")]

    async def parked(self, limit: int, after: ParkedCursor | None = None) -> list[ParkedEvent]:
        place = (rows.to_us(after.parked_at), after.event_id) if after else rows.BEFORE_ALL
        return [rows.parked(row) for row in await self._db.many("parked", *place, limit)]

    async def retry(
        self, event_id: str | None, audit: AuditEntry, receipt: ReceiptOf = no_receipt
    ) -> int:
        return await self._audited(audit, receipt, "retry", event_id)

    async def release_sink(self, audit: AuditEntry, receipt: ReceiptOf = no_receipt) -> int:
        return await self._audited(audit, receipt, "release_sink")

    async def _audited(
        self, audit: AuditEntry, receipt: ReceiptOf, name: str, *values: str | None
    ) -> int:
        def write(db: apsw.Connection) -> int:
            db.execute(SQL[name], values)
            changed = db.changes()
            if changed:
                write_audit(db, audit)
            write_receipt(db, receipt(changed))
            return changed

        return await self._db.write(write)


def _epochs(db: apsw.Connection, name: str, values: tuple[Any, ...]) -> dict[int, int]:
    """Run the statement and read all rows: SQLite completes a RETURNING statement only then."""
    found: list[Any] = db.execute(SQL[name], values).fetchall()
    return dict(found)


def _share(db: apsw.Connection, sink: str, now: int) -> int:
    alive: list[Any] = db.execute(SQL["relays_alive"], (now,)).fetchall()
    return fair_share(sink, dict(alive))


def _held(db: apsw.Connection, relay: str, epochs: Epochs) -> set[int]:
    """Return the buckets still held under these epochs; the file's lock keeps them held."""
    return {
        bucket
        for bucket, epoch in epochs.items()
        if db.execute(SQL["hold_leases"], (relay, bucket, epoch)).fetchone()
    }


def _place(event: Event) -> tuple[Any, ...]:
    """Return the event's position in the index of waiting events."""
    return (event.bucket, rows.to_us(event.created_at), event.seq, event.n, event.event_id)


def _told(event: Event | LimitEvent) -> Shipped:
    return (event.event_id, event.event_type, event.payload)
