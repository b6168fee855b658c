"""Building blocks of concurrency tests: commands, engines, and a rival transaction."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from hashlib import sha256
from math import inf
from typing import Any, Self

import asyncpg

from entitlements.adapters.memory.limiter import Unlimited
from entitlements.adapters.postgres.loading import load
from entitlements.adapters.postgres.rows import wallet as wallet_of_row
from entitlements.adapters.postgres.store import PostgresStore
from entitlements.adapters.postgres.writing import write_batch
from entitlements.adapters.sqlite.store import SqliteStore
from entitlements.app.access.keys import Act
from entitlements.app.credits.batch import BatchDecision, Submission
from entitlements.app.engine import Engine, Store, running
from entitlements.app.outbox.announce import Announcer
from entitlements.app.ports import Batch
from entitlements.app.process.clock import utc_now
from entitlements.core.commands import (
    Adjust,
    AnyCommand,
    Consume,
    CreateGrant,
    Origin,
    ReleaseHold,
    SettleHold,
    TakeHold,
    Together,
)
from entitlements.core.model import GrantDetails, Hold, JobKey, WalletKey, facts_of
from entitlements.core.outcomes import (
    AnyOutcome,
    Consumed,
    DoneTogether,
    Granted,
    Refusal,
)
from entitlements.core.reasons import GrantReason
from entitlements.ids import uuid7
from tests.waiting import until_waited_for

POLICY = "costs: {credit: 1, token: {cost: 1, credit_type: tokens}, gratis: 0}\n"


def user(name: str) -> WalletKey:
    return WalletKey("user", name, "credits")


def org(name: str) -> WalletKey:
    return WalletKey("org", name, "credits")


def _origin(content: tuple[Any, ...], key: str | None) -> Origin:
    return Origin(
        actor="test",
        client="test",
        correlation_id=uuid7(),
        key=key or uuid7(),
        fingerprint=sha256(repr(content).encode()).hexdigest(),
        lifetime_s=86_400,
    )


def consume(
    user_id: str,
    units: int,
    *,
    org_id: str | None = None,
    metric: str = "credit",
    key: str | None = None,
    job: str | None = None,
) -> Consume:
    """Return a consumption of ``units`` credits, of the job named ``job`` if any."""
    return Consume(
        id=uuid7(),
        origin=_origin((user_id, org_id, metric, units, job), key),
        user_id=user_id,
        org_id=org_id,
        metric=metric,
        units=units,
        job=JobKey(user_id, "scorer", job, metric) if job else None,
    )


def together(*items: Consume) -> Together:
    """Return an atomic command of the items."""
    return Together(id=uuid7(), origin=_origin((), None), items=items)


def hold(
    user_id: str, units: int, *, org_id: str | None = None, ttl_s: int = 600, key: str | None = None
) -> TakeHold:
    """Return a command to hold ``units`` credits."""
    return TakeHold(
        id=uuid7(),
        origin=_origin((user_id, org_id, units, ttl_s), key),
        user_id=user_id,
        org_id=org_id,
        requirements={"credit": units},
        ttl_s=ttl_s,
    )


def settle(parts: Sequence[Hold], units: int, *, key: str | None = None) -> SettleHold:
    return SettleHold(
        id=uuid7(),
        origin=_origin((parts[0].id, units), key),
        hold=facts_of(parts),
        requirements={"credit": units},
    )


def release(parts: Sequence[Hold]) -> ReleaseHold:
    return ReleaseHold(id=uuid7(), origin=_origin((), None), hold=facts_of(parts))


def grant(wallet: WalletKey, credits: int, *, key: str | None = None, **lot: Any) -> CreateGrant:
    return CreateGrant(
        id=uuid7(),
        origin=_origin((wallet, credits, lot), key),
        wallet=wallet,
        quantity=credits,
        reason=GrantReason.PURCHASE,
        details=GrantDetails(granted_by="test"),
        **lot,
    )


def adjust(wallet: WalletKey, amount: int) -> Adjust:
    return Adjust(
        id=uuid7(),
        origin=_origin((wallet, amount), None),
        wallet=wallet,
        amount=amount,
        reason="a test",
    )


def an_act() -> Act:
    return Act(actor="test", client="test", at=utc_now(), new_id=uuid7, correlation_id="test")


async def open_store(url: str, clock: Callable[[], datetime] | None = None) -> Store:
    if url.startswith("sqlite:///"):
        file = await SqliteStore.open(url.removeprefix("sqlite:///"), clock=clock)
        await file.migrate()
        return file
    return await PostgresStore.open(url, clock=clock, pool_max=4)


@asynccontextmanager
async def engines(
    url: str,
    number: int = 1,
    *,
    policy: str = POLICY,
    clock: Callable[[], datetime] | None = None,
    **options: Any,
) -> AsyncIterator[list[Engine]]:
    """Run ``number`` engines on one database, each with its own connections and queue."""
    if clock is not None:
        options["clock"] = clock
    async with AsyncExitStack() as stack:
        started = []
        for _ in range(number):
            store = await open_store(url, clock)
            stack.push_async_callback(store.close)
            running_engine = running(
                store, local=Unlimited(), policy_text=policy, policy_source="test", **options
            )
            started.append(await stack.enter_async_context(running_engine))
        yield started


async def submit(engine: Engine, command: AnyCommand, **options: Any) -> AnyOutcome | Refusal:
    return await engine.committer.submit(command, **options)


async def submit_all(
    engines: Sequence[Engine], commands: Sequence[AnyCommand]
) -> list[AnyOutcome | Refusal]:
    """Submit all commands concurrently, distributed over the engines in turn."""
    return await asyncio.gather(
        *(submit(engines[n % len(engines)], command) for n, command in enumerate(commands))
    )


async def given(engine: Engine, wallet: WalletKey, credits: int, **lot: Any) -> str:
    """Commit a grant; return its id."""
    outcome = await submit(engine, grant(wallet, credits, **lot))
    assert isinstance(outcome, Granted)
    return outcome.grant_id


async def balance(engine: Engine, wallet: WalletKey) -> int:
    book = await engine.store.reads.books([wallet])
    return book.wallets[wallet].balance if wallet in book.wallets else 0


def paid(outcomes: Sequence[AnyOutcome | Refusal]) -> list[Consumed]:
    return [one for one in outcomes if isinstance(one, Consumed) and one.success]


def paid_together(outcomes: Sequence[AnyOutcome | Refusal]) -> list[DoneTogether]:
    """Return the outcomes with all items paid; assert that the others have none paid."""
    answers = [one for one in outcomes if isinstance(one, DoneTogether)]
    for answer in answers:
        assert len({_is_paid(result) for result in answer.results}) == 1, answer
    return [answer for answer in answers if _is_paid(answer.results[0])]


def _is_paid(outcome: AnyOutcome) -> bool:
    return isinstance(outcome, Consumed) and outcome.success


def waits_for(engine: Engine, command: AnyCommand, **options: Any) -> asyncio.Task[Any]:
    """Submit the command in a new task."""
    return asyncio.create_task(submit(engine, command, **options))


class Rival:
    """Another process in an open transaction, which the test commits or drops."""

    def __init__(self, db: asyncpg.Connection, engine: Engine) -> None:
        self._db = db
        self._engine = engine

    @classmethod
    @asynccontextmanager
    async def on(cls, url: str, engine: Engine) -> AsyncIterator[Self]:
        db = await asyncpg.connect(url)
        try:
            await db.execute("BEGIN")
            yield cls(db, engine)
        finally:
            await db.close()

    async def locks(self, key: WalletKey) -> None:
        row = await self._db.fetchrow(
            "SELECT subject_type, subject_id, credit_type, balance, held, overdraft, version,"
            " next_due_at, updated_at, balance_at_grant, unlimited, promised FROM credit_balances"
            " WHERE subject_type = $1 AND subject_id = $2 AND credit_type = $3 FOR UPDATE",
            *key,
        )
        assert row is not None, key
        self._wallet = wallet_of_row(row)

    async def writes(self, command: AnyCommand) -> None:
        """Write all changes of the command to the locked wallet, without committing."""
        engine = self._engine
        announcer = Announcer(prefix="huleedu", source="rival", new_id=uuid7)
        entry = Submission(command, self._wallet.key.subject, inf, asyncio.get_running_loop())
        decision = BatchDecision([entry], engine.policies, announcer, uuid7, may_lack_wallets=False)
        now = await self._db.fetchval("SELECT clock_timestamp()")
        batch = decision.decide(await load(self._db, decision.needs(), [self._wallet], now))
        assert isinstance(batch, Batch), decision.outcomes
        await write_batch(self._db, batch)

    async def commits(self) -> None:
        await self._db.execute("COMMIT")

    async def is_waited_for(self) -> None:
        """Wait until another session waits for a lock of this one."""
        await until_waited_for(self._db)
