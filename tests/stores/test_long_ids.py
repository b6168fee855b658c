"""Ids of the maximum length, in scripts of one to four bytes per letter, in every keyed table."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final

import pytest
from msgspec.structs import replace

from entitlements.adapters.postgres.store import PostgresStore
from entitlements.adapters.rights import RIGHTS
from entitlements.adapters.sqlite.store import SqliteStore
from entitlements.app.inbox.store import RecordsQuery
from entitlements.app.ports import (
    HoldsQuery,
    ImportedOperation,
    OperationsQuery,
    SubscriptionsQuery,
)
from entitlements.contracts import names
from entitlements.core import commands as c
from entitlements.core.model import JobKey, Subject, UsageReport, WalletKey, facts_of
from entitlements.core.outcomes import Consumed, Refusal
from entitlements.core.plans import Lifecycle, Plan
from entitlements.core.policy import Cost
from entitlements.core.reasons import EntitlementType
from entitlements.ids import uuid7
from tests.profiles import examples
from tests.stores.clerk import (
    Clerk,
    Store,
    a_limit_event,
    a_near_event,
    a_policy,
    consume,
    give,
    origin,
)

SCRIPTS: Final = {
    "ascii": (0x21, 0x7E),
    "two bytes a letter": (0x410, 0x418),
    "three bytes a letter": (0x4E00, 0x9FA5),
    "four bytes a letter": (0x20000, 0x2A6D6),
}
"""Letters that never compose, so that normalisation keeps the length of an id."""
NAMELESS: Final = {
    "api_keys", "dead_letters", "lone_limiters", "policies", "policy_lock", "relay_leases",
    "relays", "schema_version", "webhook_deliveries", "webhook_endpoints",
}  # fmt: skip
"""Tables whose keys do not come from callers."""


@pytest.mark.parametrize("script", SCRIPTS)
async def test_ids_of_maximum_length_work_in_every_keyed_table(
    store: Store, clerk: Clerk, script: str
) -> None:
    rng = random.Random(script)

    def a_name() -> str:
        # Random letters, because an index compresses repeated ones.
        text = "".join(chr(rng.randint(*SCRIPTS[script])) for _ in range(names.ID_MAX))
        assert names.subject_id(text) == text
        return text

    for _ in range(examples(1, long=20)):
        await every_row_is_written_and_found(clerk, a_name)

    for table in RIGHTS.keys() - NAMELESS:
        assert await rows(store, table) > 0, f"no row was written to {table}"


ALLOWANCE: dict[str, Any] = {"entitlement_type": EntitlementType.USAGE_ALLOWANCE}


async def every_row_is_written_and_found(clerk: Clerk, a_name: Callable[[], str]) -> None:
    metric, credit_type = a_name(), a_name()
    plan_id = a_name()
    clerk.policy = a_policy(
        costs={metric: Cost(credits=1, credit_type=credit_type)},
        plans={plan_id: Plan(grants=(), lifecycle=Lifecycle(handler="crm"))},
    )
    work: dict[str, Any] = {
        "user_id": a_name(),
        "org_id": a_name(),
        "metric": metric,
        "batch_id": a_name(),
    }
    user = WalletKey("user", work["user_id"], credit_type)
    named: dict[str, Any] = {"event_type": "t", "service_name": a_name(), "processing_id": a_name()}
    reported = UsageReport(event_id=uuid7(), source_service=a_name(), units=1, **named, **work)
    job = JobKey(work["user_id"], a_name(), a_name(), metric, work["batch_id"])

    async def do(*commands: c.AnyCommand) -> list[Any]:
        outcomes = await clerk.do(*commands)
        assert not any(isinstance(one, Refusal) for one in outcomes), outcomes
        return outcomes

    def asked(kind: type[c.Command], **fields: Any) -> Any:
        key = origin(f"k:{uuid7()}".ljust(names.ID_MAX, "k"))
        told = {name: a_name() for name in ("actor", "client", "correlation_id")}
        return kind(id=uuid7(), origin=replace(key, **told), **fields)

    paid = asked(c.Consume, units=2, job=job, **work)
    owed = asked(c.Consume, units=99, **work)
    held = {name: work[name] for name in ("user_id", "org_id")}
    await do(
        give(9, user),
        give(1, WalletKey(*user.subject, f"units:{metric}"), **ALLOWANCE),
        asked(c.OpenAccount, subject=user.subject, org_id=work["org_id"]),
        asked(c.TakeHold, requirements={metric: 1}, ttl_s=9, **held),
        paid,
        owed,
        asked(c.IngestUsage, report=reported),
    )
    credits, subscription_id = user._replace(credit_type="credits"), a_name()
    named_so = {"wallet": credits, "subscription_id": subscription_id}
    await do(asked(c.Activate, plan_id=plan_id, **named_so))
    await do(asked(c.MarkPastDue, **named_so))
    parts = (
        await clerk.store.reads.holds(HoldsQuery(subject_type="user", subject_id=user[1]))
    ).rows
    under_hold = replace(reported, event_id=uuid7(), processing_id=a_name())
    operation = await clerk.store.reads.operation(paid.id)
    assert operation is not None
    (*_, again) = await do(
        asked(c.IngestUsage, report=under_hold, hold=facts_of(parts)),
        asked(c.Reverse, operation=operation, amount=1, reason=a_name()),
        consume(2, job=job, **work),
    )
    assert isinstance(again, Consumed)
    assert (again.replayed, again.operation_id) == (True, paid.id)
    older = ImportedOperation(
        id=a_name(),
        subject=Subject("user", user[1]),
        credit_type=credit_type,
        metric=metric,
        amount=1,
        batch_id=a_name(),
        consumed_from="user",
        correlation_id=a_name(),
        status="completed",
        created_at=clerk.clock.now,
    )
    assert await clerk.store.imports.add([older]) == 1
    await clerk.store.limits.add_limit_exceeded([a_limit_event(Subject("user", user[1]), metric)])
    await clerk.store.limits.add_limit_near([a_near_event(Subject("user", user[1]), metric)])

    for query in (
        OperationsQuery(subject_type="user", subject_id=user[1]),
        OperationsQuery(correlation_id=paid.origin.correlation_id),
    ):
        assert paid.id in {one.id for one in (await clerk.store.reads.operations(query)).rows}
    found = await clerk.store.reads.subscriptions(
        SubscriptionsQuery(plan_id=plan_id, now=clerk.clock.now)
    )
    assert [one.subscription_id for one in found.rows] == [subscription_id]
    records = await clerk.store.inbox.use_records(RecordsQuery(user_id=user[1]))
    assert {one.report for one in records.rows} == {reported, under_hold}


async def rows(store: Store, table: str) -> int:
    sql = f"SELECT count(*) FROM {table}"
    if isinstance(store, PostgresStore):
        async with store.db.connection() as db:
            return int(await db.fetchval(sql))
    assert isinstance(store, SqliteStore)
    found: list[Any] = await store.db.read(lambda db: db.execute(sql).fetchall())
    return int(found[0][0])
