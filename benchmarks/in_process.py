"""Loads without HTTP: one caller per connection, on the same event loop as the engine."""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from statistics import quantiles
from time import perf_counter

import msgspec
import uvloop

from benchmarks.wallets import POLICY, SCHOOL, TEACHER, open_migrated, origin
from benchmarks.wrk import CONNECTIONS, Sample
from entitlements import Entitlements
from entitlements.adapters.memory.limiter import Unlimited
from entitlements.app.engine import running
from entitlements.core.commands import AnyCommand, Consume, IngestUsage
from entitlements.core.model import UsageReport
from entitlements.core.outcomes import Consumed, UsageIngested
from entitlements.ids import uuid7

ANSWERED_WITHIN_S = 60

Ask = Callable[[str, str | None], Awaitable[None]]
"""Consumes once, for a user and optionally an org."""


def in_process_load(
    url: str,
    *,
    subjects: int,
    seconds: int,
    embedded: bool = False,
    reported: bool = False,
    once: bool = False,
    policy: str = POLICY,
) -> Sample:
    """Consume for a while from one organisation, or each time from one of ``subjects`` users.

    By default through the committer alone; with ``embedded`` through the library, as an embedding
    program does; with ``reported`` as usage reported by events; with ``once`` a single time.
    """
    if embedded:
        return uvloop.run(_embedded(url, subjects, seconds))
    order = _report if reported else _order
    return uvloop.run(_committed(url, subjects, 0 if once else seconds, order, policy))


async def _embedded(url: str, subjects: int, seconds: int) -> Sample:
    async with Entitlements.open(url, policy=POLICY) as opened:

        async def ask(user_id: str, org_id: str | None) -> None:
            name = uuid7()
            answer = await opened.consume(
                user_id=user_id,
                org_id=org_id,
                metric="cj_comparison",
                batch_id="batch-1",
                key=name,
                correlation_id=name,
            )
            assert answer.success, answer

        return await _measured(ask, subjects, seconds)


async def _committed(
    url: str,
    subjects: int,
    seconds: int,
    order: Callable[[str, str, str | None], AnyCommand],
    policy: str,
) -> Sample:
    store = await open_migrated(url)
    try:
        async with running(
            store, local=Unlimited(), policy_text=policy, policy_source="benchmark"
        ) as engine:
            sizes: list[int] = []
            engine.committer.batch_sizes = sizes.append

            async def ask(user_id: str, org_id: str | None) -> None:
                command = order(engine.new_id(), user_id, org_id)
                outcome = await engine.committer.submit(command, deadline_s=ANSWERED_WITHIN_S)
                match outcome:
                    case Consumed():
                        assert outcome.success, outcome
                    case UsageIngested():
                        assert outcome.result == "charged", outcome
                    case _:
                        raise AssertionError(outcome)

            sample = await _measured(ask, subjects, seconds)
            return msgspec.structs.replace(sample, batch_size=sum(sizes) / len(sizes))
    finally:
        await store.close()


async def _measured(ask: Ask, subjects: int, seconds: int) -> Sample:
    """Ask for a while from all callers at once; a single time if that is 0 s."""
    random = Random(1)
    waits_s: list[float] = []
    started = perf_counter()

    async def caller() -> None:
        asked_at = started
        while not waits_s or asked_at < started + seconds:
            if subjects > 1:
                await ask(f"user-{random.randint(1, subjects)}", None)
            else:
                await ask(TEACHER, SCHOOL)
            answered_at = perf_counter()
            waits_s.append(answered_at - asked_at)
            asked_at = answered_at

    await asyncio.gather(*(caller() for _ in range(CONNECTIONS if seconds else 1)))
    rate = len(waits_s) / (perf_counter() - started)
    percentiles = quantiles(waits_s if len(waits_s) > 1 else waits_s * 2, n=100)
    return Sample(
        rate=rate,
        p50_ms=percentiles[49] * 1000,
        p99_ms=percentiles[98] * 1000,
        operations=len(waits_s),
    )


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


def _report(name: str, user_id: str, org_id: str | None) -> IngestUsage:
    report = UsageReport(
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
    return IngestUsage(id=name, origin=origin(name), report=report)
