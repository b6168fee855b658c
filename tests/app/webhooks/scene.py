"""Webhooks on a store, with a manual clock and receivers on loopback."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence

import apsw

from entitlements.adapters.http.sender import HttpSender
from entitlements.adapters.postgres.store import PostgresStore
from entitlements.adapters.sqlite.store import SqliteStore
from entitlements.app.access.keys import Act
from entitlements.app.ports import LimitExceeded
from entitlements.app.webhooks.deliverer import Deliverer
from entitlements.app.webhooks.endpoints import Wanted, Webhooks
from entitlements.app.webhooks.store import DeliveriesQuery, Delivery, Endpoint
from entitlements.core.model import AuditEntry, Subject
from entitlements.ids import uuid7
from tests.audit import audited
from tests.stores.clerk import Clock
from tests.waiting import PATIENCE_S

BALANCE = "huleedu.entitlements.credit.balance.changed.v1"
USAGE = "huleedu.entitlements.usage.recorded.v1"
DAY_S = 86_400
MINUTES = itertools.count(1)
Store = SqliteStore | PostgresStore


class Scene:
    """A store with one deliverer; `another` returns one as of a second process."""

    def __init__(self, store: Store, clock: Clock, sender: HttpSender) -> None:
        self.store = store
        self.clock = clock
        self.sender = sender
        self.deliverer = self.another()
        self.webhooks = Webhooks(
            store=store.webhooks,
            sender=sender,
            clock=clock,
            allow_http=True,
            source_service="entitlements_service",
            topic_prefix="huleedu",
        )

    def another(self) -> Deliverer:
        return Deliverer(
            self.store.webhooks,
            self.sender,
            clock=self.clock,
            new_id=uuid7,
            retention_s=7 * DAY_S,
        )

    def act(self, reason: str | None = None) -> Act:
        return Act(
            actor="key-1",
            client="tests",
            at=self.clock(),
            new_id=uuid7,
            correlation_id="c-1",
            reason=reason,
        )

    async def endpoint(self, url: str, *events: str) -> tuple[Endpoint, str]:
        return await self.webhooks.create(url, events or ("*",), None, self.act())

    async def happens(self, *types: str) -> list[str]:
        """Publish events of these types; return their ids."""
        return await announce(self.store, self.clock, types or (BALANCE,))

    def active(self, *, on: bool) -> Wanted:
        return Wanted(active=on)

    def fails_long(self) -> bool:
        return self.deliverer.is_failing_long

    async def audited(self, action: str) -> AuditEntry:
        """Return the only audit entry of this action."""
        [entry] = [one for one in await audited(self.store, 100) if one.action == action]
        return entry

    async def rename(self, table: str, to: str) -> None:
        statement = f"ALTER TABLE {table} RENAME TO {to}"
        if isinstance(self.store, SqliteStore):
            # The service's connection must not change the schema, so use another.
            with contextlib.closing(apsw.Connection(str(self.store.db.path))) as aside:
                aside.set_busy_timeout(PATIENCE_S * 1_000)
                aside.execute(statement)
        else:
            async with self.store.db.connection() as db:
                await db.execute(statement)

    async def deliver(self) -> None:
        """Attempt every due delivery once, and wait until the results are recorded."""
        await self.deliverer.round()
        await self.deliverer.drained()

    async def deliveries(self, endpoint: Endpoint) -> list[Delivery]:
        query = DeliveriesQuery(endpoint_id=endpoint.id)
        return (await self.store.webhooks.deliveries(query)).rows

    async def delivery(self, endpoint: Endpoint) -> Delivery:
        [only] = await self.deliveries(endpoint)
        return only


async def announce(store: Store, clock: Clock, types: Sequence[str]) -> list[str]:
    """Publish events of these types; return their ids."""
    events = [
        LimitExceeded(
            subject=Subject("user", "ada"),
            metric="m",
            minute=next(MINUTES),
            event_id=event,
            event_type=kind,
            key="user:ada",
            payload=f'{{"event_id": "{event}"}}',
            created_at=clock(),
        )
        for event, kind in ((uuid7(), kind) for kind in types)
    ]
    await store.limits.add_limit_exceeded(events)
    await store.outbox.mark_limit_events(events)
    return [event.event_id for event in events]
