"""Failure modes of a batch, and the requests that they must not affect."""

import asyncio
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import asyncpg
import msgspec
import pytest
import structlog

from entitlements.app.credits import batch, committer
from entitlements.app.credits.batch import DeadlineExceeded
from entitlements.app.credits.committer import Overloaded
from entitlements.app.ports import StoreUnavailable, WriteRejected
from entitlements.app.process import failpoints
from entitlements.core.commands import AnyCommand, Consume
from entitlements.core.ledger.apply import apply
from entitlements.core.ledger.book import Book
from entitlements.core.model import WalletKey
from entitlements.core.outcomes import AnyOutcome, Consumed, Refusal
from tests.concurrency.scene import (
    balance,
    consume,
    engines,
    given,
    grant,
    paid,
    paid_together,
    submit,
    submit_all,
    together,
    user,
    waits_for,
)
from tests.waiting import PATIENCE_S


def once(action: Callable[[], object]) -> Callable[[], None]:
    """Return a function that runs the action at its first call only."""
    left = [action]

    def act() -> None:
        if left:
            left.pop()()

    return act


def execute_aside(url: str, sql: str) -> None:
    """Execute the SQL in a separate session, from within a failpoint that blocks the event loop."""

    async def run() -> None:
        db = await asyncpg.connect(url)
        await db.execute(sql)
        await db.close()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, run()).result()


async def test_a_full_queue_refuses_immediately_and_keeps_accepted_commands(
    any_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committer, "QUEUE_MAX", 20)
    async with engines(any_url) as [engine]:
        names = [f"u{n}" for n in range(30)]
        outcomes = await asyncio.gather(
            *(submit(engine, grant(user(name), 10)) for name in names), return_exceptions=True
        )
        refused = [one for one in outcomes if isinstance(one, Overloaded)]
        assert len(refused) == 10
        assert refused[0].retry_after_s >= 1
        assert sum([await balance(engine, user(name)) for name in names]) == 200
        assert engine.committer.depth == 0


async def test_one_root_subject_fills_only_its_share_of_the_queue(
    any_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committer, "ROOT_SHARE_MAX", 5)
    async with engines(any_url) as [engine]:
        commands = [consume(f"u{n}", 1, org_id="school", metric="gratis") for n in range(8)]
        outcomes = await asyncio.gather(
            *(submit(engine, command) for command in commands),
            *(submit(engine, consume(f"u{n}", 1, metric="gratis")) for n in range(8)),
            return_exceptions=True,
        )
        assert [isinstance(one, Overloaded) for one in outcomes] == (
            [False] * 5 + [True] * 3 + [False] * 8
        )
        assert isinstance(await submit(engine, commands[7]), Consumed)


async def test_each_item_of_a_joint_command_counts_in_queue_share_and_batch(
    any_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committer, "ROOT_SHARE_MAX", 12)
    monkeypatch.setattr(committer, "COMMANDS_MAX", 5)
    async with engines(any_url) as [engine]:
        sizes: list[int] = []
        engine.committer.batch_sizes = sizes.append
        commands = [
            together(*(consume(f"u{n}", 1, metric="gratis") for n in range(number)))
            for number in (2, 3, 1, 7, 1)
        ]
        outcomes = await asyncio.gather(
            *(submit(engine, command) for command in commands), return_exceptions=True
        )
        assert sizes == [2, 1, 1], "batches of 2 + 3, 1 and 7 items"
        assert [isinstance(one, Overloaded) for one in outcomes] == [False] * 4 + [True]
        assert engine.committer.depth == 0
        assert len(paid_together([await submit(engine, commands[4])])) == 1


def test_the_share_of_a_root_subject_is_a_quarter_of_the_queue() -> None:
    assert committer.ROOT_SHARE_MAX * 4 == committer.QUEUE_MAX


async def test_a_command_past_its_deadline_is_dropped_before_it_changes_anything(
    any_url: str,
) -> None:
    async with engines(any_url) as [engine]:
        await given(engine, user("ada"), 100)
        late = waits_for(engine, consume("ada", 10, key="late"), deadline_s=0)
        beside = waits_for(engine, consume("ada", 1))
        with pytest.raises(DeadlineExceeded):
            await late
        await beside
        assert await balance(engine, user("ada")) == 99
        again = await submit(engine, consume("ada", 10, key="late"))
        assert isinstance(again, Consumed)
        assert not again.replayed


async def test_with_a_hanging_database_commands_end_at_their_deadline(
    any_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with engines(any_url) as [engine]:
        await given(engine, user("ada"), 100)
        commit = engine.store.ledger.commit
        reached, goes_on = asyncio.Event(), asyncio.Event()

        async def stuck(*batch: Any, **options: Any) -> None:
            reached.set()
            await goes_on.wait()
            await commit(*batch, **options)

        monkeypatch.setattr(engine.store.ledger, "commit", stuck)
        monkeypatch.setattr(committer, "GRACE_S", 0)
        under_way = waits_for(engine, consume("ada", 10, key="under way"), deadline_s=0.02)
        await reached.wait()
        queued = waits_for(engine, consume("ada", 1, key="queued"), deadline_s=0.02)
        with pytest.raises(StoreUnavailable) as refused:
            await under_way
        with pytest.raises(DeadlineExceeded):
            await queued
        goes_on.set()
        assert refused.value.applied == "no"
        assert await balance(engine, user("ada")) == 100
        again = await submit(engine, consume("ada", 10, key="under way"))
        assert isinstance(again, Consumed)
        assert not again.replayed
        assert await balance(engine, user("ada")) == 90


async def test_a_batch_continues_when_one_of_its_callers_is_cancelled(any_url: str) -> None:
    async with engines(any_url) as [engine]:
        await given(engine, user("ada"), 100)
        leaving = waits_for(engine, consume("ada", 10, key="left"))
        beside = waits_for(engine, consume("ada", 1))
        failpoints.on("decided", once(leaving.cancel))
        await asyncio.wait([leaving, beside])
        assert leaving.cancelled()
        assert (await beside).new_balance == 89
        again = await submit(engine, consume("ada", 10, key="left"))
        assert isinstance(again, Consumed)
        assert again.replayed


async def test_a_command_that_raises_fails_alone(
    any_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = apply

    def broken(book: Book, command: AnyCommand, wallets: set[WalletKey]) -> AnyOutcome | Refusal:
        if isinstance(command, Consume) and command.units == 13:
            raise ZeroDivisionError
        return sound(book, command, wallets)

    monkeypatch.setattr(batch, "apply", broken)
    async with engines(any_url) as [engine]:
        await given(engine, user("ada"), 100)
        outcomes = await asyncio.gather(
            *(submit(engine, consume("ada", units)) for units in (1, 13, 2)),
            return_exceptions=True,
        )
        assert isinstance(outcomes[1], ZeroDivisionError)
        assert await balance(engine, user("ada")) == 97


async def test_a_failing_log_leaves_no_caller_waiting_and_batches_continue(
    any_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(committer, "log", structlog.wrap_logger(structlog.PrintLogger(closed)))
    async with engines(any_url) as [engine]:
        await given(engine, user("ada"), 100)
        sound = engine.store.ledger.commit
        engine.store.ledger.commit = _broken  # type: ignore[method-assign]
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(ValueError, match="closed file"):
                await submit(engine, consume("ada", 1))
            engine.store.ledger.commit = sound  # type: ignore[method-assign]
            assert isinstance(await submit(engine, consume("ada", 1)), Consumed)


async def _broken(*_needed: Any, **_options: Any) -> None:
    raise ZeroDivisionError


async def test_a_conflict_is_halved_until_its_culprit_fails_alone(
    any_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The culprit is decided on a wallet version that differs from the database's."""
    async with engines(any_url) as [engine]:
        names = [f"u{n}" for n in range(11)]
        await submit_all([engine], [grant(user(name), 100) for name in names])
        sound = engine.store.ledger.commit
        sizes: list[int] = []

        async def stale(needs: Any, decide: Any, **options: Any) -> None:
            def deciding(book: Book) -> Any:
                if wallet := book.wallets.get(user("u4")):
                    book.put_wallet(msgspec.structs.replace(wallet, version=wallet.version + 7))
                return decide(book)

            sizes.append(len(needs.receipts))
            await sound(needs, deciding, **options)

        monkeypatch.setattr(engine.store.ledger, "commit", stale)
        async with asyncio.timeout(PATIENCE_S):
            outcomes = await asyncio.gather(
                *(submit(engine, consume(name, 1)) for name in names), return_exceptions=True
            )
        monkeypatch.undo()
        assert isinstance(outcomes[4], WriteRejected)
        assert len(paid([one for one in outcomes if not isinstance(one, BaseException)])) == 10
        assert sizes[0] == 11
        assert sizes.count(1) >= 2
        assert [await balance(engine, user(name)) for name in names] == (
            [99] * 4 + [100] + [99] * 6
        )


async def test_a_grant_reduced_outside_the_ledger_is_not_overdrawn(url: str) -> None:
    """If the grant is changed outside the ledger, the database's guard refuses the batch."""
    async with engines(url) as [engine]:
        await given(engine, user("ada"), 100)
        tamper = "UPDATE grants SET remaining = remaining - 95"
        failpoints.on("decided", once(lambda: execute_aside(url, tamper)))
        with pytest.raises(WriteRejected):
            await submit(engine, consume("ada", 10))
        execute_aside(url, "UPDATE grants SET remaining = remaining + 95")
        outcome = await submit(engine, consume("ada", 10))
        assert isinstance(outcome, Consumed)
        assert outcome.new_balance == 90


async def test_a_stopping_engine_finishes_what_it_accepted_and_accepts_no_more(
    any_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committer, "COMMANDS_MAX", 8)
    async with engines(any_url) as [engine]:
        await given(engine, user("ada"), 100)
        accepted = [waits_for(engine, consume("ada", 1)) for _ in range(50)]
        await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE_S):
        assert len(paid(await asyncio.gather(*accepted))) == 50
    with pytest.raises(Overloaded):
        await submit(engine, consume("ada", 1))
    async with engines(any_url) as [engine]:
        assert await balance(engine, user("ada")) == 50


KILL_OTHERS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


@pytest.mark.parametrize(
    "at", ["loaded", "decided", "mid-record", "before-commit", "committed-unanswered"]
)
async def test_a_batch_whose_connection_breaks_is_retried_and_applied_once(
    url: str, at: str
) -> None:
    async with engines(url) as [engine]:
        await given(engine, user("ada"), 100)
        failpoints.on(at, once(lambda: execute_aside(url, KILL_OTHERS)))
        outcomes = paid(await submit_all([engine], [consume("ada", 1) for _ in range(10)]))
        assert len(outcomes) == 10
        assert not any(one.replayed for one in outcomes)
        with suppress(StoreUnavailable):  # a pooled connection can still be broken
            await balance(engine, user("ada"))
        assert await balance(engine, user("ada")) == 90


async def test_after_a_lost_commit_acknowledgement_receipts_give_the_first_outcome(
    any_url: str,
) -> None:
    """The commit succeeds, but its acknowledgement is lost."""
    async with engines(any_url) as [engine]:
        await given(engine, user("ada"), 100)
        sound = engine.store.ledger.commit
        lost = [True]

        async def unanswered(*needed: Any, **options: Any) -> None:
            await sound(*needed, **options)
            if lost:
                lost.pop()
                raise StoreUnavailable("the connection was closed")

        engine.store.ledger.commit = unanswered  # type: ignore[method-assign]
        pair = together(consume("ada", 2), consume("ada", 3))
        outcomes = await submit_all([engine], [*(consume("ada", 1) for _ in range(10)), pair])
        engine.store.ledger.commit = sound  # type: ignore[method-assign]
        answers = [*paid(outcomes), *paid_together(outcomes)[0].results]
        assert len(answers) == 12
        assert not any(one.replayed for one in answers)
        assert await balance(engine, user("ada")) == 85


async def test_an_outcome_is_returned_only_after_the_commit(url: str) -> None:
    async with engines(url) as [engine]:
        await given(engine, user("ada"), 100)
        ours = waits_for(engine, consume("ada", 1))
        seen: list[bool] = []
        failpoints.on("before-commit", lambda: seen.append(ours.done()))
        sound = engine.store.ledger.commit

        async def slow(*needed: Any, **options: Any) -> None:
            await sound(*needed, **options)
            await asyncio.sleep(0.05)
            seen.append(ours.done())

        engine.store.ledger.commit = slow  # type: ignore[method-assign]
        await ours
        assert seen == [False, False]
