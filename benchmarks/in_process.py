"""The committer without HTTP: as many callers as connections, on the same loop as the engine."""

import asyncio
from collections.abc import Callable
from random import Random
from statistics import quantiles
from time import perf_counter

import uvloop

from benchmarks.wallets import POLICY, SCHOOL, open_migrated, origin, school, users
from benchmarks.wallets import fill as fill_wallets
from benchmarks.wrk import CONNECTIONS, Sample
from entitlements.adapters.memory.limiter import Unlimited
from entitlements.app.engine import Engine, running
from entitlements.core.commands import AnyCommand, Consume, ReportUse
from entitlements.core.model import Report
from entitlements.core.outcomes import Consumed, Reported


def in_process_load(
    url: str, *, subjects: int, seconds: int, fill: bool, reported: bool = False
) -> Sample:
    """Consume for a while from one organisation, or each time from one of ``subjects`` users; or
    have it ``reported``, as events do.
    """
    return uvloop.run(_run(url, subjects, seconds, fill=fill, reported=reported))


async def _run(url: str, subjects: int, seconds: int, *, fill: bool, reported: bool) -> Sample:
    store = await open_migrated(url)
    try:
        async with running(
            store, local=Unlimited(), policy_text=POLICY, policy_source="benchmark"
        ) as engine:
            if fill:
                await fill_wallets(engine, [school()] if subjects == 1 else users())
            return await _consume(engine, subjects, seconds, _report if reported else _order)
    finally:
        await store.close()


async def _consume(
    engine: Engine, subjects: int, seconds: int, order: Callable[[str, str, str | None], AnyCommand]
) -> Sample:
    random = Random(1)
    waits_s: list[float] = []
    started = perf_counter()

    async def caller() -> None:
        while (asked_at := perf_counter()) < started + seconds:
            spread = subjects > 1
            user_id = f"user-{random.randint(1, subjects)}" if spread else "teacher"
            command = order(engine.new_id(), user_id, None if spread else SCHOOL)
            outcome = await engine.committer.submit(command)
            match outcome:
                case Consumed():
                    assert outcome.success, outcome
                case Reported():
                    assert outcome.result == "charged", outcome
                case _:
                    raise AssertionError(outcome)
            waits_s.append(perf_counter() - asked_at)

    await asyncio.gather(*(caller() for _ in range(CONNECTIONS)))
    rate = len(waits_s) / (perf_counter() - started)
    percentiles = quantiles(waits_s, n=100)
    return Sample(rate=rate, p50_ms=percentiles[49] * 1000, p99_ms=percentiles[98] * 1000)


def _order(name: str, user_id: str, org_id: str | None) -> Consume:
    return Consume(
        id=name,
        origin=origin(name),
        user_id=user_id,
        org_id=org_id,
        metric="cj_comparison",
        units=1,
        batch_id="batch-1",
    )


def _report(name: str, user_id: str, org_id: str | None) -> ReportUse:
    report = Report(
        user_id=user_id,
        org_id=org_id,
        event_id=name,
        event_type="bench",
        source_service="bench",
        metric="cj_comparison",
        units=1,
        service_name="bench",
        processing_id=name,
        batch_id="batch-1",
    )
    return ReportUse(id=name, origin=origin(name), report=report)
