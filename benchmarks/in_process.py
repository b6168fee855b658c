"""The committer without HTTP: as many callers as connections, on the same loop as the engine."""

import asyncio
from random import Random
from statistics import quantiles
from time import perf_counter

import uvloop

from benchmarks.wrk import CONNECTIONS, Sample
from entitlements.adapters.postgres.store import PostgresStore
from entitlements.adapters.sqlite.store import SqliteStore
from entitlements.app.engine import Engine, Store, running
from entitlements.app.policy_document import default_policy_text
from entitlements.core.commands import Adjust, Consume, Origin
from entitlements.core.model import WalletKey
from entitlements.core.outcomes import Consumed

ORG = "school"
CREDITS = 1_000_000_000
AT_ONCE = 1_000


def in_process_load(url: str, *, subjects: int, seconds: int, fill: bool) -> Sample:
    """Consume for a while from one organisation, or each time from one of ``subjects`` users."""
    return uvloop.run(_run(url, subjects, seconds, fill=fill))


async def _run(url: str, subjects: int, seconds: int, *, fill: bool) -> Sample:
    store: Store = await _open(url)
    try:
        policy = default_policy_text()
        async with running(store, policy_text=policy, policy_source="default policy") as engine:
            if fill:
                await _fill(engine, subjects)
            return await _consume(engine, subjects, seconds)
    finally:
        await store.close()


async def _open(url: str) -> PostgresStore | SqliteStore:
    if url.startswith("sqlite:///"):
        file = await SqliteStore.open(url.removeprefix("sqlite:///"))
        await file.migrate()
        return file
    store = await PostgresStore.open(url)
    await store.migrate()
    return store


def _origin(name: str) -> Origin:
    return Origin(
        actor="bench",
        client="bench",
        correlation_id=name,
        key=f"k:{name}",
        fingerprint="6fa9cc7626578ce44089c81e129e9304069cc5b3dd5d5e9007c6c4df8ba0a039",
        lifetime_s=86_400,
    )


async def _fill(engine: Engine, subjects: int) -> None:
    wallets = [WalletKey("org", ORG, "credits")] if subjects == 1 else _users(subjects)

    async def give(wallet: WalletKey) -> None:
        name = engine.new_id()
        gift = Adjust(
            id=name, origin=_origin(name), wallet=wallet, amount=CREDITS, reason="benchmark"
        )
        await engine.committer.submit(gift)

    for start in range(0, len(wallets), AT_ONCE):
        await asyncio.gather(*(give(wallet) for wallet in wallets[start : start + AT_ONCE]))


def _users(subjects: int) -> list[WalletKey]:
    return [WalletKey("user", f"user-{number}", "credits") for number in range(1, subjects + 1)]


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
                    origin=_origin(name),
                    user_id=f"user-{random.randint(1, subjects)}" if spread else "teacher",
                    org_id=None if spread else ORG,
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
