"""Detection of other processes that count limits without a shared limiter."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from entitlements.adapters.memory.limiter import MemoryLimiter, Unlimited
from entitlements.app import engine
from entitlements.app.engine import Engine, running
from entitlements.app.process.clock import in_ms, utc_now
from entitlements.observe.health import engine_health
from tests.concurrency.conftest import any_url
from tests.concurrency.scene import open_store
from tests.stores.clerk import Clock
from tests.waiting import until

__all__ = ["any_url"]

POLICY = "costs: {essay: 1}\nrate_limits: {essay: 5/hour}\n"


@asynccontextmanager
async def a_process(
    url: str, *, policy: str = POLICY, counts: bool = True
) -> AsyncIterator[Engine]:
    """Run a process on a database; it counts limits in memory, or not at all."""
    store = await open_store(url)
    limiter = MemoryLimiter(lambda: in_ms(utc_now())) if counts else None
    try:
        async with running(
            store,
            local=limiter or Unlimited(),
            recounting=limiter,
            policy_text=policy,
            policy_source="test",
        ) as process:
            yield process
    finally:
        await store.close()


@pytest.fixture(autouse=True)
def _short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "UPKEEP_S", 0.05)


def others(process: Engine) -> int:
    assert process.peers is not None
    return process.peers.others


async def test_processes_that_count_limits_separately_detect_each_other_and_warn(
    any_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with a_process(any_url) as first:
        async with a_process(any_url) as second:
            await until(lambda: (others(first), others(second)) == (1, 1))
            limiter = (await engine_health(first))["limiter"]
            assert limiter.status == "warning"
            assert limiter.message == "1 other processes count limits alone: set REDIS_URL for all"
            assert "limits.counted_apart" in caplog.text
        await until(lambda: others(first) == 0)
        assert (await engine_health(first))["limiter"].status == "healthy"


@pytest.mark.parametrize("options", [{"counts": False}, {"policy": "costs: {essay: 1}\n"}])
async def test_a_process_without_limits_does_not_announce_itself(
    tmp_path: Path, options: dict[str, bool | str]
) -> None:
    url = f"sqlite:///{tmp_path}/books.db"
    async with AsyncExitStack() as stack:
        process = await stack.enter_async_context(a_process(url, **options))  # type: ignore[arg-type]
        if process.peers is not None:
            await process.peers.poll()
        store = await open_store(url)
        stack.push_async_callback(store.close)

        assert await store.limits.announce_limiter("asking", 0) == 0


async def test_an_announcement_ends_with_its_lease_even_if_the_clock_was_ahead(
    any_url: str,
) -> None:
    clock = Clock()
    store = await open_store(any_url, clock)
    try:
        assert await store.limits.announce_limiter("a", 20) == 0
        assert await store.limits.announce_limiter("b", 20) == 1
        clock.now += timedelta(seconds=20)
        assert await store.limits.announce_limiter("b", 20) == 0

        clock.now += timedelta(days=2)
        await store.limits.announce_limiter("c", 20)
        clock.now -= timedelta(days=2)
        assert await store.limits.announce_limiter("b", 20) == 0
    finally:
        await store.close()
