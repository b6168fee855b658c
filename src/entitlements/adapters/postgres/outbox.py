"""The outbox port on PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import asyncpg

from entitlements.adapters.postgres import rows
from entitlements.adapters.postgres.connection import commit, rolled_back_on_error
from entitlements.adapters.postgres.database import Database
from entitlements.adapters.postgres.statements import SQL
from entitlements.adapters.postgres.writing import write_audit, write_receipt
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


class PostgresOutbox:
    """Implements `Outbox`; every method is one transaction."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def heartbeat(
        self, relay: str, *, sink: str, lease_s: float, rebalance: bool = True
    ) -> Leases:
        async with self._transaction() as db:
            now = self._db.now()
            await db.execute(SQL["relay_is_alive"], relay, sink, now, lease_s)
            mine = dict(await db.fetch(SQL["renew_leases"], relay, now, lease_s))
            if not rebalance:
                return Leases(epochs=mine, share=len(mine))
            await db.execute(SQL["relays_gone"], now, lease_s)
            share = await self._share(db, sink)
            if surplus := sorted(mine)[share:]:
                await db.execute(SQL["give_back_leases"], relay, surplus)
            elif lacking := share - len(mine):
                outward = sink if is_outward(sink) else None
                claim = (relay, now, lease_s, outward, lacking)
                mine |= dict(await db.fetch(SQL["claim_leases"], *claim))
            kept = {bucket: mine[bucket] for bucket in sorted(mine)[:share]}
            return Leases(epochs=kept, share=share)

    async def release_leases(self, relay: str) -> None:
        async with self._transaction() as db:
            mine = dict(await db.fetch(SQL["renew_leases"], relay, self._db.now(), 0))
            await db.execute(SQL["give_back_leases"], relay, sorted(mine))
            await db.execute(SQL["leave"], relay)

    async def unpublished(
        self, buckets: Iterable[int], *, each: int, at_most: int, without: Sequence[str] = ()
    ) -> list[Event]:
        wanted = (list(buckets), each, at_most, list(without))
        async with self._transaction() as db:
            found = await db.fetch(SQL["waiting"], *wanted)
        return [rows.event(row) for row in found]

    async def mark_published(
        self,
        relay: str,
        epochs: Epochs,
        published: Sequence[Event],
        refused: Sequence[Unpublishable],
        *,
        keep: bool,
    ) -> set[int]:
        async with self._transaction() as db:
            held = await self._hold(db, relay, epochs)
            shipped = [event for event in published if event.bucket in held]
            if shipped and keep:
                places = rows.columns([_place(event) for event in shipped], 5)
                await db.execute(SQL["mark_published"], *places, self._db.now())
            elif shipped:
                await self._delete(db, shipped)
            parked = [
                (*_place(one.event), one.reason, one.attempts)
                for one in refused
                if one.event.bucket in held
            ]
            if parked:
                await db.execute(SQL["park"], *rows.columns(parked, 7), self._db.now())
        return held

    async def _delete(self, db: asyncpg.Connection, shipped: Sequence[Event]) -> None:
        places = rows.columns([_place(event) for event in shipped], 5)
        await db.execute(SQL["delete_published"], *places, self._db.now())
        latest: dict[int, datetime] = {}
        for event in shipped:
            latest[event.bucket] = max(event.created_at, latest.get(event.bucket, event.created_at))
        await db.executemany(SQL["note_cleaned"], sorted(latest.items()))

    async def discard_unsubscribed(self, relay: str, epochs: Epochs, *, at_most: int) -> int:
        async with self._transaction() as db:
            if not await self._share(db, NO_SINK):
                return 0
            held = await self._hold(db, relay, epochs)
            wanted = (sorted(held), at_most, self._db.now())
            passed: int = await db.fetchval(SQL["discard_unsubscribed"], *wanted)
        return passed

    async def clean(self, relay: str, epochs: Epochs, *, retention_s: float, limit: int) -> int:
        async with self._transaction() as db:
            if not await self._hold(db, relay, {0: epochs[0]} if 0 in epochs else {}):
                return 0
            gone: int = await db.fetchval(SQL["clean"], self._db.now(), retention_s, limit)
            return gone

    async def backlog(self) -> Backlog:
        async with self._transaction() as db:
            return Backlog(**await db.fetchrow(SQL["backlog"]))

    async def limit_events(self, limit: int) -> list[LimitEvent]:
        async with self._transaction() as db:
            found = await db.fetch(SQL["limit_events"], limit)
        return [rows.limit_event(row) for row in found]

    async def mark_limit_events(self, events: Sequence[LimitEvent]) -> None:
        places = rows.columns([(event.created_at, event.event_id) for event in events], 2)
        async with self._transaction() as db:
            await db.execute(SQL["mark_limit_exceeded"], *places, self._db.now())
            await db.execute(SQL["mark_limit_near"], *places, self._db.now())

    async def leases(self) -> list[LeaseLine]:
        async with self._transaction() as db:
            return [LeaseLine(**row) for row in await db.fetch(SQL["leases"])]

    async def parked(self, limit: int, after: ParkedCursor | None = None) -> list[ParkedEvent]:
        place = (after.parked_at, after.event_id) if after else (None, None)
        async with self._transaction() as db:
            found = await db.fetch(SQL["parked"], *place, limit)
        return [rows.parked(row) for row in found]

    async def retry(
        self, event_id: str | None, audit: AuditEntry, receipt: ReceiptOf = no_receipt
    ) -> int:
        return await self._audited(audit, receipt, "retry", event_id)

    async def release_sink(self, audit: AuditEntry, receipt: ReceiptOf = no_receipt) -> int:
        return await self._audited(audit, receipt, "release_sink")

    async def _audited(self, audit: AuditEntry, receipt: ReceiptOf, name: str, *values: Any) -> int:
        async with self._transaction() as db:
            await db.execute("SET LOCAL synchronous_commit = on")
            changed = _count(await db.execute(SQL[name], *values))
            if changed:
                await write_audit(db, audit)
            await write_receipt(db, receipt(changed))
            return changed

    async def _share(self, db: asyncpg.Connection, sink: str) -> int:
        return fair_share(sink, dict(await db.fetch(SQL["relays_alive"], self._db.now())))

    @staticmethod
    async def _hold(db: asyncpg.Connection, relay: str, epochs: Epochs) -> set[int]:
        """Lock and return the buckets still held under these epochs, until the transaction ends."""
        known = rows.columns(sorted(epochs.items()), 2)
        return {row[0] for row in await db.fetch(SQL["hold_leases"], relay, *known)}

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[asyncpg.Connection]:
        async with self._db.connection() as db, rolled_back_on_error(db):
            await db.execute(SQL["begin_relay"])
            yield db
            await commit(db)


def _place(event: Event) -> tuple[Any, ...]:
    """Return the event's position in the index of waiting events."""
    return (event.bucket, event.created_at, event.seq, event.n, event.event_id)


def _count(status: str) -> int:
    return int(status.rpartition(" ")[2])
