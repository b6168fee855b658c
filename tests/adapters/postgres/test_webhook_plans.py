"""Deliveries are found by their indexes even without statistics."""

import asyncpg

from entitlements.adapters.postgres.statements import SQL
from entitlements.adapters.postgres.store import PostgresStore
from entitlements.ids import uuid7

FILL = """
INSERT INTO webhook_deliveries (endpoint_id, event_id, event_type, payload, state, attempts,
                                next_at, give_up_at, created_at)
SELECT $1::text::uuid, gen_random_uuid(), 't', '{}', 'pending', 0, now(), now(), now()
FROM generate_series(1, 5000)
"""
ENDPOINT = """
INSERT INTO webhook_endpoints (id, url, events, secrets, active, created_at, created_by)
VALUES ($1::text::uuid, 'https://hooks.test', '{*}', '[]', true, now(), 'test')
"""


async def test_claims_and_their_results_read_only_their_rows(postgres_url: str) -> None:
    store = await PostgresStore.open(postgres_url)
    await store.migrate()
    await store.close()
    db = await asyncpg.connect(postgres_url)
    await db.execute("ALTER TABLE webhook_deliveries SET (autovacuum_enabled = off)")
    endpoint = uuid7()
    await db.execute(ENDPOINT, endpoint)
    await db.execute(FILL, endpoint)

    async with db.transaction():
        await db.execute(SQL["pin_webhook_plans"])
        claim = await _plan(db, SQL["claim_deliveries"], [], [], 16, 30, None)
        one = (endpoint, await db.fetchval("SELECT min(event_id::text) FROM webhook_deliveries"))
        result = [[endpoint], [one[1]], [1], [True], [200], [None], [None], None]
        record = await _plan(db, SQL["save_attempts"], *result)
    await db.close()

    assert "webhook_deliveries_due" in claim
    assert "webhook_deliveries_pkey" in record
    assert "webhook_deliveries_due" not in record
    assert "Seq Scan on webhook_deliveries" not in claim + record
    assert "Sort" not in claim


async def test_marking_published_events_uses_no_jit(postgres_url: str) -> None:
    store = await PostgresStore.open(postgres_url)
    await store.migrate()
    await store.close()
    db = await asyncpg.connect(postgres_url)

    await db.execute(SQL["begin_relay"])
    plan = await _plan(db, SQL["mark_published"], [], [], [], [], [], None)
    await db.execute("ROLLBACK")
    await db.close()

    assert "event_outbox_unsent" in plan
    assert "JIT" not in plan


async def _plan(db: asyncpg.Connection, statement: str, *values: object) -> str:
    return "\n".join(row[0] for row in await db.fetch(f"EXPLAIN {statement}", *values))
