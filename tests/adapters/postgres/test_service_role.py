"""The role the service runs under can work, but not rewrite what happened."""

from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from entitlements.adapters.memory.limiter import Unlimited
from entitlements.adapters.postgres import migrate
from entitlements.adapters.postgres.store import PostgresStore
from entitlements.app.engine import running
from entitlements.app.policy_document import default_policy_text
from entitlements.core.commands import Adjust, Origin, ReportUse
from entitlements.core.model import Report, Subject, WalletKey
from entitlements.core.outcomes import Adjusted, Reported
from entitlements.core.windows import Ask, WindowKey


@pytest.fixture
async def role_url(postgres_url: str) -> str:
    """A migrated database, reached as a role that `restrict` was applied to."""
    db = await asyncpg.connect(postgres_url)
    try:
        await migrate.migrate(db)
        await db.execute(
            "DO $$ BEGIN CREATE ROLE entitlements_app LOGIN; "
            "EXCEPTION WHEN duplicate_object THEN NULL; END $$"
        )
        await migrate.restrict(db, "entitlements_app")
    finally:
        await db.close()
    parts = urlsplit(postgres_url)
    return urlunsplit(parts._replace(netloc=f"entitlements_app@{parts.hostname}:{parts.port}"))


async def test_the_service_works_under_its_restricted_role(role_url: str) -> None:
    store = await PostgresStore.open(role_url)
    origin = Origin(
        actor="a", client="c", correlation_id="x", key="k", fingerprint="f", lifetime_s=60
    )
    try:
        async with running(
            store, local=Unlimited(), policy_text=default_policy_text(), policy_source="d"
        ) as engine:
            command = Adjust(
                id=engine.new_id(),
                origin=origin,
                wallet=WalletKey("user", "ada", "credits"),
                amount=5,
                reason="gift",
            )
            outcome = await engine.committer.submit(command)
            told = Report(
                user_id="ada",
                event_id="e",
                event_type="t",
                source_service="s",
                metric="cj_comparison",
                units=2,
            )
            report = ReportUse(id=engine.new_id(), origin=origin, report=told)
            charged = await engine.committer.submit(report)
            assert isinstance(charged, Reported)
            assert charged.credits == 2
            window = WindowKey(Subject("user", "ada"), "cj_comparison", 60)
            engine.limit_events.note(Ask(window, 10, 11), "x")
        await store.purge(10)
        held = (await store.outbox.tend("a", sink="kafka", lease_s=30)).epochs
        events = await store.outbox.waiting(held, each=10, at_most=10)
        await store.outbox.settle("a", held, events, [], keep=True)
        assert await store.outbox.clean("a", held, retention_s=-60, limit=10) == len(events) == 3
        await store.outbox.leave("a")
    finally:
        await store.close()

    assert isinstance(outcome, Adjusted)
    assert outcome.new_balance == 5
    assert engine.limit_events.dropped == 0


@pytest.mark.parametrize("table", ["credit_operations", "audit_log", "consumption_records"])
@pytest.mark.parametrize("act", ["DELETE FROM {}", "UPDATE {} SET reason = 'x'", "TRUNCATE {}"])
async def test_the_service_role_cannot_rewrite_history(role_url: str, table: str, act: str) -> None:
    db = await asyncpg.connect(role_url)
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await db.execute(act.format(table))
    finally:
        await db.close()
