"""The committer without HTTP: as many callers as connections, on the same loop as the engine."""

import asyncio
from random import Random
from statistics import quantiles
from time import perf_counter

import uvloop

from benchmarks.wallets import POLICY, SCHOOL, open_migrated, origin, school, users
from benchmarks.wallets import fill as fill_wallets
from benchmarks.wrk import CONNECTIONS, Sample
from entitlements.adapters.memory.limiter import Unlimited
from entitlements.app.engine import Engine, running
from entitlements.core.commands import Consume
from entitlements.core.outcomes import Consumed


def in_process_load(url: str, *, subjects: int, seconds: int, fill: bool) -> Sample:
    """Consume for a while from one organisation, or each time from one of ``subjects`` users."""
    return uvloop.run(_run(url, subjects, seconds, fill=fill))


async def _run(url: str, subjects: int, seconds: int, *, fill: bool) -> Sample:
    store = await open_migrated(url)
    try:
        async with running(
            store, local=Unlimited(), policy_text=POLICY, policy_source="benchmark"
        ) as engine:
            if fill:
                await fill_wallets(engine, [school()] if subjects == 1 else users())
            return await _consume(engine, subjects, seconds)
    finally:
        await store.close()


async def _consume(engine: Engine, subjects: int, seconds: int) -> Sample:
    random = Random(1)
    waits_s: list[float] = []
    started = perf_counter()

    async def caller() -> None:
        while (asked_at := perf_counter()) < started + seconds:
            name = engine.new_id()
            spread = subjects > 1
            outcome = await engine.committer.submit(
                Consume(
                    id=name,
                    origin=origin(name),
                    user_id=f"user-{random.randint(1, subjects)}" if spread else "teacher",
                    org_id=None if spread else SCHOOL,
                    metric="cj_comparison",
                    units=1,
                    batch_id="batch-1",
                )
            )
            assert isinstance(outcome, Consumed), outcome
            assert outcome.success, outcome
            waits_s.append(perf_counter() - asked_at)

    await asyncio.gather(*(caller() for _ in range(CONNECTIONS)))
    rate = len(waits_s) / (perf_counter() - started)
    percentiles = quantiles(waits_s, n=100)
    return Sample(rate=rate, p50_ms=percentiles[49] * 1000, p99_ms=percentiles[98] * 1000)
