"""Events and requests that report the same work concurrently, over several processes."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence

from entitlements.app.engine import Engine
from entitlements.app.inbox.records import ConsumerRecord, IngestResult
from entitlements.app.inbox.store import RecordsQuery
from entitlements.core.outcomes import AccountOpened, Consumed, HoldTaken, Refusal, UsageIngested
from entitlements.core.reasons import ConsumptionOutcome
from entitlements.ids import uuid7
from tests.app.inbox.events import CONSUMPTION, REGISTERED, REPORTED, envelope, event_id, use
from tests.concurrency.scene import balance, consume, engines, given, hold, release, submit, user

GIVEN = 10_000


def told(topic: str, data: dict[str, object], name: object) -> ConsumerRecord:
    """Return a record of the event, with another offset on each call, as if produced again."""
    value = envelope(f"huleedu.{topic}", data, event_id=event_id(name))
    offset = random.randrange(10**9)
    return ConsumerRecord(
        topic=f"huleedu.{topic}", partition=offset % 6, offset=offset, value=value
    )


async def take(engine: Engine, records: Sequence[ConsumerRecord]) -> list[IngestResult]:
    return await engine.intake.process(engine.intake.pending(records))


async def test_a_job_is_charged_once_by_requests_and_events_of_any_process(any_url: str) -> None:
    rng = random.Random(7)
    jobs = [(f"p{n}", rng.randint(1, 9)) for n in range(40)]
    async with engines(any_url, 3) as three:
        await given(three[0], user("ada"), GIVEN)
        events = [
            told(CONSUMPTION, use("ada", units, service_name="scorer", processing_id=job), (job, n))
            for job, units in jobs
            for n in (0, 0, 1)
        ]
        rng.shuffle(events)
        requests = [
            submit(three[n % 3], consume("ada", units, job=job))
            for n, (job, units) in enumerate(jobs)
        ]
        batches = [take(engine, events[n::3]) for n, engine in enumerate(three)]
        answers, fates = await asyncio.gather(asyncio.gather(*requests), asyncio.gather(*batches))

        left = await balance(three[0], user("ada"))
        records = (await three[0].store.inbox.use_records(RecordsQuery(limit=1_000))).rows

    assert GIVEN - left == sum(units for _, units in jobs)
    assert all(isinstance(answer, Consumed) and answer.success for answer in answers)
    assert all(isinstance(fate, UsageIngested) for batch in fates for fate in batch)
    assert len(records) == 2 * len(jobs), "one per event, however often it is delivered"
    charged = Counter(
        r.report.processing_id for r in records if r.result is ConsumptionOutcome.CHARGED
    )
    assert set(charged.values()) <= {1}
    assert {r.result for r in records} <= {ConsumptionOutcome.CHARGED, ConsumptionOutcome.DUPLICATE}


async def test_a_hold_is_settled_or_released_never_both(any_url: str) -> None:
    async with engines(any_url, 3) as three:
        await given(three[0], user("ada"), GIVEN)
        taken = [await submit(three[0], hold("ada", 5)) for _ in range(12)]
        ids = [one.hold_id for one in taken if isinstance(one, HoldTaken)]
        parts = [await three[0].store.reads.hold(hold_id) for hold_id in ids]
        events = [
            told(CONSUMPTION, use("ada", 3, processing_id=f"p{n}", hold_id=hold_id), ("h", n))
            for n, hold_id in enumerate(ids)
        ]
        fates, released, _ = await asyncio.gather(
            take(three[0], events),
            asyncio.gather(*(submit(three[1], release(part)) for part in parts)),
            take(three[2], events),
        )
        left = await balance(three[0], user("ada"))

    results = [fate.result for fate in fates if isinstance(fate, UsageIngested)]
    assert len(results) == len(ids) == 12
    assert GIVEN - left == 3 * results.count(ConsumptionOutcome.SETTLED)
    for result, answer in zip(results, released, strict=True):
        assert isinstance(answer, Refusal) == (result is ConsumptionOutcome.SETTLED)
        assert result in (ConsumptionOutcome.SETTLED, ConsumptionOutcome.CONFLICT)


async def test_concurrent_registrations_and_uncharged_reports_are_recorded_once(
    any_url: str,
) -> None:
    policy = "costs: {credit: 1}\nsignup_bonuses: {user: 50}\n"
    at = "2026-09-01T08:00:00Z"
    async with engines(any_url, 3, policy=policy) as three:
        registered = [
            told(REGISTERED, {"user_id": f"u{n % 5}", "org_id": "o", "registered_at": at}, uuid7())
            for n in range(30)
        ]
        data = {"subject": {"type": "org", "id": "o"}, "metric": "m", "amount": 1}
        period = {"period_start": at, "period_end": at}
        reported = [told(REPORTED, data | period, ("r", n % 4)) for n in range(30)]
        every = registered + reported
        batches = (take(engine, every[n::3]) for n, engine in enumerate(three))
        fates = [fate for batch in await asyncio.gather(*batches) for fate in batch]
        balances = [await balance(three[0], user(f"u{n}")) for n in range(5)]
        records = (await three[0].store.inbox.use_records(RecordsQuery())).rows

    opened = [fate for fate in fates if isinstance(fate, AccountOpened)]
    assert len(opened) == 30
    assert sum(one.created for one in opened) == 5
    assert balances == [50] * 5
    assert len(records) == 4
