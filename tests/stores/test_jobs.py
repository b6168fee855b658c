"""Jobs by batch, across an upgrade and with running processes of the previous version."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import apsw
import pytest

from entitlements.adapters.postgres.store import PostgresStore
from entitlements.adapters.sqlite.store import SqliteStore
from entitlements.core import commands as c
from entitlements.core.model import JobKey, UsageReport, facts_of
from entitlements.core.outcomes import AnyOutcome, Consumed, HoldTaken, Refusal, UsageIngested
from entitlements.ids import uuid7
from tests.stores.clerk import Clerk, Store, consume, give, hold, origin, settle

OLD_JOBS: Final = """CREATE TABLE jobs (
    user_id text NOT NULL, service_name text NOT NULL, processing_id text NOT NULL,
    metric text NOT NULL, units bigint NOT NULL, outcome text NOT NULL,
    PRIMARY KEY (user_id, service_name, processing_id, metric))"""
COLUMNS: Final = "user_id, service_name, processing_id, metric, units, outcome"


async def execute(store: Store, folder: Path, *statements: str) -> None:
    """Execute the statements as the owner, without restrictions."""
    if isinstance(store, PostgresStore):
        async with store.db.connection() as db:
            for statement in statements:
                await db.execute(statement)
        return
    file = apsw.Connection(str(folder / "books.db"))
    for statement in statements:
        file.execute(statement)
    file.close()


def job(number: int, batch_id: str = "") -> JobKey:
    return JobKey("teacher", "grader", f"p{number}", "cj", batch_id)


def work(number: int, units: int = 1, batch_id: str = "") -> c.Consume:
    return consume(units, batch_id=batch_id or None, job=job(number, batch_id))


def report(number: int, units: int = 1, **fields: Any) -> c.IngestUsage:
    told: dict[str, Any] = {
        "user_id": "teacher",
        "metric": "cj",
        "event_type": "t",
        "source_service": "s",
    }
    told |= {"service_name": "grader", "processing_id": f"p{number}", "event_id": uuid7()}
    told |= {name: fields.pop(name) for name in ("batch_id", "hold_id") if name in fields}
    return c.IngestUsage(
        id=uuid7(), origin=origin(), report=UsageReport(units=units, **told), **fields
    )


async def is_new(clerk: Clerk, number: int, batch_id: str = "", units: int = 1) -> bool:
    """Consume the job; return whether it was charged now."""
    (outcome,) = await clerk.do(work(number, units, batch_id))
    assert isinstance(outcome, Consumed), outcome
    return not outcome.replayed


async def test_an_old_job_gets_its_batch_from_its_operation_else_from_its_report(
    store: SqliteStore | PostgresStore, clerk: Clerk, tmp_path: Path
) -> None:
    await clerk.do(give(100))
    outcomes: list[AnyOutcome | Refusal] = await clerk.do(
        work(1, batch_id="b1"), work(2), hold(3), hold(4)
    )
    taken = [one.hold_id for one in outcomes if isinstance(one, HoldTaken)]
    settled, repeated = [await store.reads.hold(hold_id) for hold_id in taken]
    await clerk.do(settle(repeated, 4))
    reported = await clerk.do(
        report(3, 3, batch_id="b3", hold=facts_of(settled)),
        report(4, 4, batch_id="b4", hold_id=repeated[0].id, hold=facts_of(repeated)),
        report(5, 0, batch_id="b5"),
    )
    assert all(isinstance(one, UsageIngested) for one in reported), reported
    await execute(
        store,
        tmp_path,
        "ALTER TABLE jobs RENAME TO kept",
        OLD_JOBS,
        f"INSERT INTO jobs ({COLUMNS}) SELECT {COLUMNS} FROM kept",
        "DROP TABLE kept",
        "DELETE FROM schema_version WHERE name LIKE '%job_batches%'",
    )

    (applied,) = await store.migrate()

    assert "job_batches" in applied

    assert not await is_new(clerk, 1, "b1")
    assert not await is_new(clerk, 2)
    assert not await is_new(clerk, 3, "b3", units=3)
    assert not await is_new(clerk, 4, "b4", units=4)
    assert await is_new(clerk, 1, "other")
    assert await is_new(clerk, 2, "other")
    assert await is_new(clerk, 3, "other", units=3)
    assert await is_new(clerk, 4, units=4)
    (conflict,) = await clerk.do(work(5, 1, "b5"))
    assert isinstance(conflict, Refusal)


async def test_a_job_written_by_the_previous_version_is_not_charged_again_in_any_batch(
    store: Store, clerk: Clerk, tmp_path: Path
) -> None:
    await clerk.do(give(100), work(1, batch_id="b1"))

    await execute(
        store,
        tmp_path,
        f"INSERT INTO jobs ({COLUMNS}) SELECT user_id, service_name, 'p2', metric, units, outcome"
        " FROM jobs",
    )

    assert not await is_new(clerk, 2)
    assert not await is_new(clerk, 2, "b1")
    assert not await is_new(clerk, 2, "b2")
    assert await is_new(clerk, 1, "b2")
    await execute(store, tmp_path, "DELETE FROM jobs WHERE processing_id = 'p2'")


async def test_the_previous_version_cannot_write_a_job_twice(
    store: Store, clerk: Clerk, tmp_path: Path
) -> None:
    await clerk.do(give(100), work(1, batch_id="b1"))
    again = f"INSERT INTO jobs ({COLUMNS}) SELECT {COLUMNS} FROM jobs WHERE batch_id IS NOT NULL"
    await execute(store, tmp_path, again)

    with pytest.raises(Exception, match=r"(?i)unique"):
        await execute(store, tmp_path, again)

    await execute(store, tmp_path, "DELETE FROM jobs WHERE batch_id IS NULL")
