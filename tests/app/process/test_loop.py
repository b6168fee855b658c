"""Background loops: they outlive every error, and log each once while it repeats."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest

from entitlements.app.ports import Contended, StoreUnavailable, Transient
from entitlements.app.process.log import EventLog
from entitlements.app.process.loop import background, every, retry_until_done
from tests.logs import captured_logs

log = EventLog("entitlements.test")


def rounds(*errors: Exception | None) -> tuple[Callable[[], Awaitable[None]], asyncio.Event]:
    """Return work that fails so in its rounds, and an event that is set after the last one."""
    coming: Iterator[Exception | None] = iter(errors)
    is_over = asyncio.Event()

    async def work() -> None:
        try:
            error = next(coming)
        except StopIteration:
            is_over.set()
            return
        if error is not None:
            raise error

    return work, is_over


@pytest.mark.parametrize(
    ("errors", "events"),
    [
        ([ValueError("a"), ValueError("a"), ValueError("a")], ["work.failed"]),
        ([ValueError("a"), None, ValueError("a")], ["work.failed", "work.failed"]),
        ([ValueError("a"), ValueError("b")], ["work.failed", "work.failed"]),
        ([Contended("a"), Contended("a"), KeyError("a")], ["work.postponed", "work.failed"]),
        ([StoreUnavailable("away"), StoreUnavailable("away")], []),
    ],
)
async def test_an_error_postpones_the_work_and_is_logged_once_while_it_repeats(
    errors: list[Exception | None], events: list[str]
) -> None:
    work, is_over = rounds(*errors)

    with captured_logs() as logs:
        async with background(every(0.001, work, log, "work")):
            await asyncio.wait_for(is_over.wait(), 60)

    assert [line["event"] for line in logs] == events


async def test_the_loops_end_with_their_block() -> None:
    ended: list[str] = []

    async def loop(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(name)

    async with background(loop("a"), loop("b")):
        await asyncio.sleep(0)

    assert ended == ["a", "b"]


async def test_work_is_retried_until_it_succeeds() -> None:
    work, _ = rounds(
        StoreUnavailable("away"), StoreUnavailable("away"), StoreUnavailable("still away"), None
    )

    with captured_logs() as logs:
        await retry_until_done(work, on=Transient, pause_s=0.001, log=log, event="work.waiting")

    assert [line["reason"] for line in logs] == ["away", "still away"]


async def test_retries_end_when_patience_does_and_other_errors_end_them_at_once() -> None:
    away, _ = rounds(*[StoreUnavailable("away")] * 1000)
    with pytest.raises(StoreUnavailable):
        await retry_until_done(
            away, on=Transient, pause_s=0.001, log=log, event="work.waiting", patience_s=0
        )

    broken, _ = rounds(ValueError("a bug"))
    with pytest.raises(ValueError, match="a bug"):
        await retry_until_done(broken, on=Transient, pause_s=0.001, log=log, event="work.waiting")
