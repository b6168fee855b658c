"""Query plans made from outdated statistics must still suit tables that have grown.

PostgreSQL scans a whole table if its statistics say that it has one row. A batch's statement keeps
such a plan until the next ANALYZE, however many rows are added before.
"""

import json
from collections.abc import Iterator
from typing import Any

import asyncpg

from entitlements.adapters.postgres import verify
from entitlements.adapters.postgres.statements import SQL

BATCH = [
    "lock_wallets",
    "lock_wallets_skipping",
    *(name for name in SQL if name.startswith(("load", "write_", "due_after"))),
    "owing",
]
PARAMETERS = "SELECT cardinality(parameter_types) FROM pg_prepared_statements WHERE name = 'asked'"
SMALL = {"policies", "audit_log", "allowance_metrics"}
RELAY = [
    "waiting",
    "mark_published",
    "delete_published",
    "park",
    "discard_unsubscribed",
    "clean",
    "backlog",
    "parked",
    "retry",
]


async def plans(url: str, switches: str, named: dict[str, str]) -> dict[str, list[dict[str, Any]]]:
    """Return the nodes of each statement's plan, under the settings of a transaction."""
    found = {}
    db = await asyncpg.connect(url)
    try:
        for name, sql in named.items():
            await db.execute(switches)
            await db.execute(f"PREPARE asked AS {sql}")
            values = ", ".join(["NULL"] * await db.fetchval(PARAMETERS))
            execute = f"EXECUTE asked({values})" if values else "EXECUTE asked"
            answer = await db.fetchval(f"EXPLAIN (FORMAT JSON) {execute}")
            await db.execute("ROLLBACK; DEALLOCATE asked")
            found[name] = list(nodes(json.loads(answer)[0]["Plan"]))
    finally:
        await db.close()
    return found


def nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for part in node.get("Plans", ()):
        yield from nodes(part)


async def test_no_plan_of_a_batch_reads_a_table_whole(tiny: str) -> None:
    found = await plans(tiny, SQL["begin"], {name: SQL[name] for name in BATCH})

    whole = {
        (name, node["Relation Name"], node["Node Type"])
        for name, plan in found.items()
        for node in plan
        if node.get("Relation Name", "policies") not in SMALL
        and node["Node Type"].endswith("Scan")
        and node["Node Type"] != "Bitmap Heap Scan"  # the scan of its index has the condition
        and not {"Index Cond", "TID Cond"} & node.keys()
    }
    assert whole == set()


async def test_no_plan_of_a_relay_reads_a_table_whole(tiny: str) -> None:
    named = {name: SQL[name] for name in RELAY}

    found = await plans(tiny, SQL["begin_relay"], named)

    scans = {
        (name, node.get("Index Name", node["Node Type"]))
        for name, plan in found.items()
        for node in plan
        if node.get("Relation Name") == "event_outbox" and node["Node Type"] != "ModifyTable"
    }
    assert scans == {
        ("waiting", "event_outbox_unsent"),
        ("mark_published", "event_outbox_unsent"),
        ("mark_published", "Tid Scan"),
        ("delete_published", "event_outbox_unsent"),
        ("delete_published", "Tid Scan"),
        ("park", "event_outbox_unsent"),
        ("park", "Tid Scan"),
        ("discard_unsubscribed", "event_outbox_unsent"),
        ("discard_unsubscribed", "Tid Scan"),
        ("clean", "event_outbox_published"),
        ("clean", "Tid Scan"),
        ("backlog", "event_outbox_unsent"),
        ("backlog", "event_outbox_parked"),
        ("parked", "event_outbox_parked"),
        ("retry", "event_outbox_parked"),
    }


async def test_keys_that_back_off_are_looked_up_in_a_hash(tiny: str) -> None:
    (plan,) = (await plans(tiny, SQL["begin_relay"], {"waiting": SQL["waiting"]})).values()

    assert any("hashed SubPlan" in node.get("Filter", "") for node in plan)


async def test_no_invariant_is_verified_by_a_nested_loop(tiny: str) -> None:
    found = await plans(tiny, f"BEGIN; {SQL['pin_verify_plans']}", verify.INVARIANTS)

    loops = {
        name
        for name, plan in found.items()
        for node in plan
        if node["Node Type"] == "Nested Loop"
        and not any(part["Node Type"] == "Function Scan" for part in node["Plans"])
    }
    assert loops == set()
