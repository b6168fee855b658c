"""Assembles the use cases over one store, and runs the background tasks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import NoReturn, Protocol

from entitlements.app.access.keys import Act
from entitlements.app.credits.ahead import AheadLog
from entitlements.app.credits.checks import Checks
from entitlements.app.credits.committer import Committer
from entitlements.app.credits.holds import Holds
from entitlements.app.credits.reader import Reader
from entitlements.app.credits.transaction import TransactionCommands
from entitlements.app.credits.unreadable import UnreadableLog
from entitlements.app.credits.upkeep import NotPriced, Upkeep, wallet_name
from entitlements.app.inbox.conflicts import Conflicts
from entitlements.app.inbox.intake import EventProcessor
from entitlements.app.inbox.parsing import Parser
from entitlements.app.inbox.status import Stateful
from entitlements.app.inbox.store import Inbox
from entitlements.app.lifecycle.store import LifecycleCalls, WaitingCall
from entitlements.app.limits.backfill import LimitBackfill, Recounting
from entitlements.app.limits.events import LimitEvents
from entitlements.app.limits.limiter import Limiter, Limits, SharedLimiter
from entitlements.app.limits.peers import LimitPeers
from entitlements.app.outbox.announce import Announcer
from entitlements.app.outbox.relay import Destination, Relay, relay_name
from entitlements.app.outbox.store import Outbox
from entitlements.app.policy.active import Policies
from entitlements.app.policy.cache_copy import PolicyCopier, PolicyCopy
from entitlements.app.policy.watch import PolicyWatch
from entitlements.app.ports import (
    Acts,
    ApiKeys,
    Backlog,
    Connections,
    ImportedHistory,
    Ledger,
    LedgerReads,
    LimitStore,
    PolicyVersions,
    Transactions,
)
from entitlements.app.process.clock import in_ms, utc_now
from entitlements.app.process.log import EventLog
from entitlements.app.process.loop import background, every
from entitlements.app.webhooks.store import WebhookStore
from entitlements.core.commands import ApplyDue, Origin, PriceDebt
from entitlements.core.model import WalletKey
from entitlements.core.outcomes import Refusal
from entitlements.core.reasons import RefusalCode
from entitlements.ids import uuid7

log = EventLog(__name__)

RECEIPTS_RETENTION_S = 30 * 86_400
UPKEEP_S = 5.0
RECOUNT_S = 1.0
RECOUNT_FIRST_S = 10.0
"""How long a start waits for the recount. A longer one continues while requests are served."""
DUE_DEADLINE_S = 2.0
"""Due effects of a wallet that is locked for longer are retried later."""
PURGED_AT_ONCE = 5_000
UNPRICED_MAX = 10_000


class Store(Protocol):
    """One database: a port for each aggregate."""

    @property
    def ledger(self) -> Ledger: ...

    @property
    def transactions(self) -> Transactions: ...

    @property
    def reads(self) -> LedgerReads: ...

    @property
    def acts(self) -> Acts: ...

    @property
    def keys(self) -> ApiKeys: ...

    @property
    def policies(self) -> PolicyVersions: ...

    @property
    def lifecycle(self) -> LifecycleCalls: ...

    @property
    def limits(self) -> LimitStore: ...

    @property
    def imports(self) -> ImportedHistory: ...

    @property
    def inbox(self) -> Inbox: ...

    @property
    def outbox(self) -> Outbox: ...

    @property
    def webhooks(self) -> WebhookStore: ...

    @property
    def kind(self) -> str:
        """The engine's name, for people."""

    def connections(self) -> Connections | None:
        """Return the connection usage; None if connections are not pooled."""

    async def check_schema(self) -> None:
        """Check the schema. Raises SchemaMismatch."""

    async def ping(self) -> None:
        """Check the connection. Raises StoreUnavailable."""

    async def close(self) -> None: ...


@dataclass
class ProcessStats:
    """State that is polled every few seconds, so that probes and metrics do not wait for it."""

    backlog: Backlog | None = None
    open_letters: int | None = None
    oldest_call: WaitingCall | None = None
    """The call of a lifecycle handler that has waited the longest."""
    unpriced: int | None = None
    """Debts without a price, counted up to `UNPRICED_MAX`."""
    consumer: Stateful | None = None
    """The event consumer of this process."""


@dataclass(frozen=True)
class Engine:
    """The collaborators of a request: the use cases that transports call.

    Receipts of keys last ``receipts_retention_s``. Without ``counts_operators`` the rate limit of
    adjustments is off.
    """

    store: Store
    policies: Policies
    committer: Committer
    commands_in: Callable[[Ledger], TransactionCommands]
    """Returns what decides commands in an open transaction."""
    reader: Reader
    limits: Limits
    limit_events: LimitEvents
    checks: Checks
    holds: Holds
    conflicts: Conflicts
    intake: EventProcessor
    clock: Callable[[], datetime]
    new_id: Callable[[], str]
    receipts_retention_s: int
    counts_operators: bool
    unreadable: UnreadableLog
    ahead: AheadLog
    watch: ProcessStats = field(default_factory=ProcessStats)
    history: LimitBackfill | None = None
    """Set if this process alone counts its limits."""
    peers: LimitPeers | None = None
    """Set if `history` is."""
    relay: Relay | None = None
    """Set if this process publishes events."""


@asynccontextmanager
async def running(
    store: Store,
    *,
    local: Limiter,
    shared: SharedLimiter | None = None,
    recounting: Recounting | None = None,
    policy_text: str | None,
    policy_source: str,
    topic_prefix: str = "huleedu",
    source_service: str = "entitlements_service",
    deadline_s: float = 6.0,
    new_id: Callable[[], str] = uuid7,
    policy_file: Path | None = None,
    policy_copy: PolicyCopy | None = None,
    policy_copy_ttl_s: int | None = None,
    destination: Destination | None = None,
    clock: Callable[[], datetime] = utc_now,
    receipts_retention_s: int = RECEIPTS_RETENTION_S,
    counts_operators: bool = False,
) -> AsyncIterator[Engine]:
    """Run an engine that accepts commands; on exit it finishes those it accepted.

    Without ``policy_text`` the engine uses the policy that is active in the database. Whenever
    ``policy_file`` changes, its content is activated; ``policy_copy`` holds a copy for other
    services. Limits are counted in ``shared`` if given, else in ``local``; ``recounting`` is the
    limiter that must read past usage from the ledger, if any. Without ``destination``, events wait
    for the relay of another process.

    Raises PolicyError for an invalid policy, StoreUnavailable without a database.
    """

    def act() -> Act:
        return Act(
            actor="system",
            client="system",
            at=clock(),
            new_id=new_id,
            correlation_id=new_id(),
        )

    policies = await Policies.start(store.policies, policy_text, name=policy_source, act=act())
    copier = None
    if policy_copy is not None:
        copier = PolicyCopier(store.policies, policies, policy_copy, policy_copy_ttl_s)
    watch = PolicyWatch(store.policies, policies, act, file=policy_file, copier=copier)
    announcer = Announcer(prefix=topic_prefix, source=source_service, new_id=new_id)
    limit_events = LimitEvents(store.limits, announcer, clock)
    limits = Limits(policies, local, shared, limit_events.note_near)
    unreadable = UnreadableLog()
    ahead = AheadLog(clock)
    async with AsyncExitStack() as stack:
        relay = None
        if destination is not None:
            relay = await stack.enter_async_context(relaying(store, destination, source_service))
        announced = relay.wake if relay is not None else lambda: None
        # After the last commit, whose uses can be near a limit.
        stack.push_async_callback(limit_events.flush)
        committer = Committer(
            store.ledger,
            policies,
            announcer,
            new_id,
            limits.count,
            announced=announced,
            deadline_s=deadline_s,
            unreadable=unreadable,
            ahead=ahead,
        )
        await stack.enter_async_context(committer)
        reader = Reader(store.reads, policies, unreadable)
        checks = Checks(policies, reader, limits, limit_events)
        holds = Holds(policies, reader, committer, limits, limit_events)
        conflicts = Conflicts(store.inbox, policies, clock, new_id)
        intake = EventProcessor(
            Parser(topic_prefix, new_id),
            conflicts=conflicts,
            committer=committer,
            holds=holds,
            policies=policies,
            clock=clock,
            new_id=new_id,
        )
        history = peers = None
        if recounting is not None:
            peers = LimitPeers(store.limits, policies, relay_name())
            history = LimitBackfill(store.limits, policies, recounting, lambda: in_ms(clock()))
        engine = Engine(
            store=store,
            policies=policies,
            committer=committer,
            commands_in=partial(
                TransactionCommands,
                policies=policies,
                announcer=announcer,
                new_id=new_id,
                record_uses=limits.count,
                announced=announced,
                deadline_s=deadline_s,
            ),
            reader=reader,
            limits=limits,
            limit_events=limit_events,
            checks=checks,
            holds=holds,
            conflicts=conflicts,
            intake=intake,
            clock=clock,
            new_id=new_id,
            receipts_retention_s=receipts_retention_s,
            counts_operators=counts_operators,
            unreadable=unreadable,
            ahead=ahead,
            history=history,
            peers=peers,
            relay=relay,
        )
        clock_s = asyncio.get_running_loop().time
        due = Upkeep(store.reads.due_wallets, partial(_apply_due, engine), clock_s, wallet_name)
        unpriced = Upkeep(partial(_priceable, engine), partial(_price, engine), clock_s, str)
        works: list[Callable[[], Awaitable[None]]] = [
            partial(_keep_up, engine),
            due.catch_up,
            unpriced.catch_up,
        ]
        if peers is not None:
            works.append(peers.poll)
            stack.push_async_callback(peers.leave)
        loops = [every(UPKEEP_S, work, log, "upkeep") for work in works]
        await stack.enter_async_context(background(*loops, limit_events.run(), watch.run()))
        if history is not None:
            await stack.enter_async_context(_recounting(history))
        yield engine


@asynccontextmanager
async def relaying(store: Store, destination: Destination, source: str) -> AsyncIterator[Relay]:
    """Run a relay; on exit it publishes the events that the engine committed last."""
    relay = Relay(store.outbox, destination, name=relay_name(), source=source)
    relay.start()
    try:
        yield relay
    finally:
        await relay.stop()


@asynccontextmanager
async def _recounting(history: LimitBackfill) -> AsyncIterator[None]:
    """Recount the windows of the policy and of later ones; wait a moment for the first recount.

    After an error the next round retries; until then limits let more pass.
    """
    is_over = asyncio.Event()

    async def follow() -> None:
        try:
            await history.follow()
        finally:
            is_over.set()

    async with background(every(RECOUNT_S, follow, log, "recount", first_s=0)):
        with suppress(TimeoutError):
            await asyncio.wait_for(is_over.wait(), RECOUNT_FIRST_S)
        yield


async def watching(store: Store, watch: ProcessStats) -> NoReturn:
    """Poll the backlog, for a process that does nothing else."""

    async def poll() -> None:
        watch.backlog = await store.outbox.backlog()

    await every(UPKEEP_S, poll, log, "watch", first_s=0)


async def _keep_up(engine: Engine) -> None:
    """Run one round: update the watch and delete expired receipts."""
    engine.watch.backlog = await engine.store.outbox.backlog()
    engine.watch.open_letters = await engine.store.inbox.open_dead_letters()
    engine.watch.oldest_call = next(iter(await engine.store.lifecycle.waiting(1)), None)
    engine.watch.unpriced = await engine.store.reads.unpriced_total(UNPRICED_MAX)
    # Receipts can expire faster than one call per round deletes them.
    await engine.store.limits.purge(PURGED_AT_ONCE)
    while await engine.store.acts.purge(PURGED_AT_ONCE) == PURGED_AT_ONCE:
        pass


async def _apply_due(engine: Engine, key: WalletKey) -> None:
    command_id = engine.new_id()
    command = ApplyDue(id=command_id, origin=_system(command_id, command_id), wallet=key)
    await engine.committer.submit(command, deadline_s=DUE_DEADLINE_S)


async def _priceable(engine: Engine, limit: int, *, without: Collection[str] = ()) -> list[str]:
    """Return operations that filed work without a price which the active policy can price."""
    policy = engine.policies.active
    known = None if policy.unknown_metrics_free else policy.costs.keys() | policy.limits.keys()
    return await engine.store.reads.unpriced_work(known, limit, without=without)


async def _price(engine: Engine, operation_id: str) -> None:
    """Charge work that was filed without a price. Raises NotPriced."""
    operation = await engine.store.reads.operation(operation_id)
    if operation is None:
        raise NotPriced("no such operation")
    command_id = engine.new_id()
    command = PriceDebt(
        id=command_id,
        origin=_system(command_id, operation.correlation_id),
        operation=operation,
        by_operator=False,
    )
    outcome = await engine.committer.submit(command, deadline_s=DUE_DEADLINE_S)
    is_done = (RefusalCode.PRICED, RefusalCode.DEBT_CLOSED)
    if isinstance(outcome, Refusal) and outcome.code not in is_done:
        raise NotPriced(outcome.detail)


def _system(command_id: str, correlation_id: str) -> Origin:
    return Origin(
        actor="system",
        client="system",
        correlation_id=correlation_id,
        key=f"u:{command_id}",
        fingerprint="",
        lifetime_s=0,
    )
