"""The webhook store on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from entitlements.adapters import listing
from entitlements.adapters.postgres import rows
from entitlements.adapters.postgres.database import Database
from entitlements.adapters.postgres.statements import SQL
from entitlements.adapters.postgres.writing import write_audit
from entitlements.app.paging import Page
from entitlements.app.webhooks.store import (
    WAIT_MAX_S,
    Attempt,
    Claim,
    DeliveriesQuery,
    Delivery,
    DeliveryBacklog,
    Endpoint,
)
from entitlements.core.model import AuditEntry
from entitlements.ids import is_uuid


class PostgresWebhooks:
    """Implements `WebhookStore`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def add_endpoint(self, endpoint: Endpoint, audit: AuditEntry, *, at_most: int) -> bool:
        async with self._db.transaction() as db:
            status = await db.execute(
                SQL["add_endpoint"],
                *rows.new_endpoint_values(endpoint),
                at_most,
            )
            if status != "INSERT 0 1":
                return False
            await write_audit(db, audit)
            return True

    async def endpoints(self) -> list[Endpoint]:
        return [rows.endpoint(row) for row in await self._db.all("endpoints")]

    async def endpoint(self, endpoint_id: str) -> Endpoint | None:
        if not is_uuid(endpoint_id):
            return None
        found = await self._db.all("endpoint", endpoint_id)
        return rows.endpoint(found[0]) if found else None

    async def change_endpoint(
        self, endpoint_id: str, change: Callable[[Endpoint], Endpoint], audit: AuditEntry
    ) -> Endpoint | None:
        if not is_uuid(endpoint_id):
            return None
        async with self._db.transaction() as db:
            row = await db.fetchrow(SQL["lock_endpoint"], endpoint_id)
            if row is None:
                return None
            changed = change(rows.endpoint(row))
            await db.execute(SQL["change_endpoint"], *rows.endpoint_values(changed))
            await write_audit(db, audit)
            return changed

    async def delete_endpoint(self, endpoint_id: str, audit: AuditEntry) -> bool:
        if not is_uuid(endpoint_id):
            return False
        async with self._db.transaction() as db:
            if await db.execute(SQL["delete_endpoint"], endpoint_id, self._db.now()) != "UPDATE 1":
                return False
            await write_audit(db, audit)
            return True

    async def deliveries(self, query: DeliveriesQuery) -> Page[Delivery, str]:
        if not is_uuid(query.endpoint_id):
            return Page(rows=[])
        found = await self._db.listed(lambda: listing.deliveries(query))
        return found.page(rows.delivery)

    async def retry_delivery(
        self, endpoint_id: str, event_id: str, audit: AuditEntry
    ) -> Delivery | None:
        if not (is_uuid(endpoint_id) and is_uuid(event_id)):
            return None
        async with self._db.transaction() as db:
            row = await db.fetchrow(SQL["retry_delivery"], endpoint_id, event_id, self._db.now())
            if row is None:
                return None
            await write_audit(db, audit)
            return rows.delivery(row)

    async def claim_deliveries(
        self, free: Mapping[str, int], free_of_others: int, *, lease_s: int
    ) -> list[Claim]:
        bound = (list(free), list(free.values()), free_of_others, lease_s, self._db.now())
        async with self._db.transaction() as db:
            await db.execute(SQL["pin_webhook_plans"])
            found = await db.fetch(SQL["claim_deliveries"], *bound)
        return [
            Claim(
                endpoint=rows.endpoint(row),
                event_id=row["event_id"],
                attempt=row["attempts"],
                payload=row["payload"],
            )
            for row in found
        ]

    async def save_attempts(self, attempts: Sequence[Attempt], audit: AuditEntry | None) -> int:
        found = [
            (a.endpoint_id, a.event_id, a.attempt, a.delivered, a.status, a.error, a.retry_in_s)
            for a in attempts
        ]
        mended = sorted({a.endpoint_id for a in attempts if a.delivered})
        failing = sorted({a.endpoint_id for a in attempts if not a.delivered}.difference(mended))
        disabled = sorted({a.endpoint_id for a in attempts if a.disable})
        async with self._db.transaction() as db:
            await db.execute(SQL["pin_webhook_plans"])
            bound = (*rows.columns(found, 7), self._db.now())
            states = [row["state"] for row in await db.fetch(SQL["save_attempts"], *bound)]
            if failing:
                await db.execute(SQL["note_failing"], failing, self._db.now())
            if mended:
                await db.execute(SQL["note_mended"], mended)
            if disabled and audit and await db.fetch(SQL["disable_endpoints"], disabled):
                await write_audit(db, audit)
        return states.count("failed")

    async def tidy_deliveries(self, retention_s: int, limit: int) -> int:
        now = self._db.now()
        async with self._db.transaction() as db:
            await db.execute(SQL["pin_webhook_plans"])
            done = (
                await db.execute(SQL["give_up_waiting"], now, limit),
                await db.execute(SQL["delete_ended"], now, limit, retention_s),
                await db.execute(SQL["delete_orphans"], limit),
            )
            await db.execute(SQL["bring_back"], now, limit, WAIT_MAX_S)
            await db.execute(SQL["forget_endpoints"], now)
        return sum(int(status.rpartition(" ")[2]) for status in done)

    async def is_wanted(self) -> bool:
        return bool(await self._db.all("any_active"))

    async def backlog(self) -> DeliveryBacklog:
        (row,) = await self._db.all("webhook_backlog", DeliveryBacklog.COUNTED_MAX)
        return DeliveryBacklog(**row)
