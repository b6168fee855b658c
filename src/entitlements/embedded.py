"""The embedded engine, on a SQLite file or PostgreSQL, without a service or HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Self, TypeVar, cast

from msgspec import Struct

from entitlements import api, wiring
from entitlements.api import Call
from entitlements.app import engine
from entitlements.app.access.keys import Caller, Role
from entitlements.app.credits.transaction import TransactionCommands
from entitlements.app.engine import Engine
from entitlements.app.operations.refusals import to_api_error
from entitlements.app.operations.request import Request, optional_text
from entitlements.app.operations.table import USE_CASES
from entitlements.app.outbox.bus import Bus, BusEvent, Handler
from entitlements.app.policy.document import PolicyError, text_of
from entitlements.app.ports import (
    AddressUnusable,
    ConnectionUnusable,
    NoDatabase,
    OpenTransaction,
    SchemaMismatch,
    StoreUnavailable,
    Submitter,
)
from entitlements.app.process.clock import utc_now
from entitlements.contracts import errors, http
from entitlements.contracts.errors import invalid
from entitlements.contracts.fields import visible_key
from entitlements.contracts.kinds import normalised, parameters
from entitlements.handling import CLIENT, calling_handlers
from entitlements.sync import SyncEntitlements
from entitlements.wiring import Limiters

__all__ = [
    "BusEvent",
    "Entitlements",
    "PolicyError",
    "SchemaMismatch",
    "Transaction",
    "migrate",
]

T = TypeVar("T", bound=Struct)
Clock = Callable[[], datetime]

DEADLINE_S: Final = 6.0
IN_TRANSACTIONS: Final = frozenset(
    (http.GRANT, http.CONSUME, http.CONSUME_ALL, http.SPEND, http.ADJUST)
)
"""The verbs that change wallets and read nothing else of the ledger: such reads would not show the
changes of the transaction.
"""


class Entitlements(api.Entitlements):
    """The engine that `open` returns; it has all operations of the service."""

    def __init__(self, running: Engine, bus: Bus, *, client: str, raise_on_shortfall: bool) -> None:
        self._require_own_loop()
        self._raise_on_shortfall = raise_on_shortfall
        self._caller = Caller("embedded", client, frozenset(Role))
        self._bus = bus
        self._engine = running

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        url: str,
        *,
        policy: str | Path | None = None,
        redis_url: str | None = None,
        limited: bool = True,
        clock: Clock | None = None,
        client: str = "embedded",
        pool_max: int = 10,
        statement_cache: bool = True,
        raise_on_shortfall: bool = False,
    ) -> AsyncIterator[Self]:
        """Open the engine on ``sqlite:///PATH`` or ``postgresql://…``.

        Leaving the context finishes accepted commands. ``policy`` is a document, or the path of a
        file that is reloaded when it changes; without it the active policy stays active, and a new
        database gets the default policy. Rate limits are counted in this process, or with
        ``redis_url`` together with other processes; without ``limited`` there are no limits.
        ``clock`` replaces the database's clock. ``client`` is the scope of the idempotency keys,
        and is recorded in the ledger. With ``raise_on_shortfall`` a consumption that no payer
        covers raises `Shortfall`.

        Raise ValueError for a URL without a usable database, PolicyError, Unavailable, or
        SchemaMismatch if `migrate` has not run.
        """
        try:
            async with AsyncExitStack() as stack:
                bus = Bus()
                running = await _running(
                    stack,
                    url,
                    bus=bus,
                    policy=policy,
                    counting=await _counting(stack, redis_url, clock, limited=limited),
                    clock=clock,
                    pool_max=pool_max,
                    statement_cache=statement_cache,
                )
                handlers = calling_handlers(running.store.lifecycle, for_handlers(running))
                await stack.enter_async_context(handlers)
                yield cls(
                    running,
                    bus,
                    client=client,
                    raise_on_shortfall=raise_on_shortfall,
                )
        except NoDatabase as error:
            raise AddressUnusable("the database", f"cannot be opened: {error}") from error
        except StoreUnavailable as error:
            detail = f"the database cannot be opened: {str(error).removeprefix('database: ')}"
            raise errors.Unavailable("unavailable", detail, applied="no") from error

    @classmethod
    def open_sync(
        cls,
        url: str,
        *,
        policy: str | Path | None = None,
        redis_url: str | None = None,
        limited: bool = True,
        clock: Clock | None = None,
        client: str = "embedded",
        pool_max: int = 10,
        statement_cache: bool = True,
        raise_on_shortfall: bool = False,
    ) -> SyncEntitlements:
        """Open the engine as `open` does, for callers without an event loop."""
        return SyncEntitlements(
            cls.open(
                url,
                policy=policy,
                redis_url=redis_url,
                limited=limited,
                clock=clock,
                client=client,
                pool_max=pool_max,
                statement_cache=statement_cache,
                raise_on_shortfall=raise_on_shortfall,
            )
        )

    def subscribe(self, handler: Handler, *event_types: str) -> Callable[[], None]:
        """Call ``await handler(event)`` for every unpublished event of these types.

        ``*`` in a type matches any text; without types, all events match. Return a function that
        ends the subscription.

        Delivery is at least once and in order per wallet. Events of other processes arrive within
        a second. If the handler raises, the event is delivered again later, at most ten times;
        then it is parked. If several processes use the database, one of them gets each event; if a
        service publishes to Kafka, none does.
        """
        return self._bus.subscribe(handler, *event_types)

    @asynccontextmanager
    async def transaction(self, connection: Any = None) -> AsyncIterator[Transaction]:
        """Run commands and your own statements in one transaction: they are committed together, or
        not at all.

        Without a connection the engine begins one, on PostgreSQL or SQLite: run your statements
        with `Transaction.execute`. It commits at the end of the block, and rolls back if the block
        raises. With a ``connection`` to the engine's PostgreSQL database, of asyncpg, or an
        AsyncSession or AsyncConnection of SQLAlchemy on asyncpg, commands become part of the
        transaction that is open on it; you end it, and call `Transaction.committed` after its
        COMMIT.

        Wallets stay locked until the end, so keep it short; a SQLite file has one lock for all.
        Raise InvalidRequest for a connection that cannot be used, and Unavailable.
        """
        self._require_own_loop()
        transactions = self._engine.store.transactions
        try:
            opening = transactions.begin() if connection is None else transactions.join(connection)
            async with opening as opened:
                part = Transaction(
                    self,
                    opened,
                    self._engine.commands_in(opened),
                    raise_on_shortfall=self._raise_on_shortfall,
                )
                try:
                    yield part
                finally:
                    part.is_over = True
        except ConnectionUnusable as error:
            raise invalid("connection", str(error)) from error
        except Exception as error:
            refusal = to_api_error(error)
            if refusal is None or refusal is error:
                raise
            raise refusal from error
        if connection is None:
            part.committed()

    async def ask(self, call: Call[T]) -> T:
        return await self.answered(call)

    async def answered(self, call: Call[T], committer: Submitter | None = None) -> T:
        """Answer the call; ``committer`` decides its commands, by default the engine's."""
        self._require_own_loop()
        key = None if call.key is None else visible_key("key", call.key)
        request = Request(
            self._engine, call.path, self._caller, key, is_its_own=True, committer=committer
        )
        request.correlation_header = optional_text("correlation_id", call.correlation_id)
        try:
            request.params = parameters(call.named, invalid)
            request.explained = call.explained
            answer = await USE_CASES[call.verb](request, _normalised(request, call))
            return cast("T", answer)
        except Exception as error:
            refusal = to_api_error(error)
            if refusal is None:
                raise
            refusal.correlation_id = request.correlation_id
            if refusal is error:
                raise
            raise refusal from error


class Transaction(api.Entitlements):
    """Grants, consumption, consumption by type and adjustments in one transaction, with those
    statements of yours that it runs.

    Refused commands change nothing. Reads by others, also by `Entitlements` itself, do not show the
    commands before the transaction is committed.
    """

    def __init__(
        self,
        engine: Entitlements,
        opened: OpenTransaction,
        commands: TransactionCommands,
        *,
        raise_on_shortfall: bool,
    ) -> None:
        self._raise_on_shortfall = raise_on_shortfall
        self._engine = engine
        self._opened = opened
        self._commands = commands
        self.is_over = False

    async def ask(self, call: Call[T]) -> T:
        self._require_open()
        if call.verb not in IN_TRANSACTIONS:
            names = ", ".join(sorted(verb.name for verb in IN_TRANSACTIONS))
            raise invalid(
                "transaction", f"has no {call.verb.name}, only {names}: ask the engine itself"
            )
        return await self._engine.answered(call, self._commands)

    async def execute(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows.

        Parameters are ``$1``, ``$2`` …, by their numbers. Raise the errors of the driver, asyncpg
        or apsw, and InvalidRequest once a statement has ended the transaction.
        """
        self._require_open()
        async with self._commands.turn:
            return await self._opened.execute(sql, *values)

    def committed(self) -> None:
        """Count the consumption in rate limits, and publish the events at once.

        Call it after the COMMIT of your own connection's transaction. Without the call, the limits
        of this process never count it, and events are published within a second.
        """
        self._commands.committed()

    def _require_open(self) -> None:
        if self.is_over:
            raise errors.Closed("the block of its transaction has ended")


async def _counting(
    stack: AsyncExitStack, redis_url: str | None, clock: Clock | None, *, limited: bool
) -> Limiters:
    if not limited:
        return wiring.UNLIMITED
    return await wiring.limiters(redis_url, clock or utc_now, stack)


async def _running(
    stack: AsyncExitStack,
    url: str,
    *,
    bus: Bus,
    policy: str | Path | None,
    counting: Limiters,
    clock: Clock | None,
    pool_max: int,
    statement_cache: bool,
) -> Engine:
    now = clock or utc_now
    file = policy if isinstance(policy, Path) else None
    text = text_of(policy) if isinstance(policy, Path) else policy
    store = await wiring.open_store(
        url, clock=clock, pool_max=pool_max, statement_cache=statement_cache
    )
    stack.push_async_callback(store.close)
    return await stack.enter_async_context(
        engine.running(
            store,
            local=counting.local,
            shared=counting.shared,
            recounting=counting.recounting,
            policy_text=text,
            policy_source=str(file or "policy"),
            policy_file=file,
            destination=wiring.bus_destination(bus),
            deadline_s=DEADLINE_S,
            clock=now,
        )
    )


def for_handlers(running: Engine) -> Entitlements:
    """Return the engine as lifecycle handlers use it."""
    return Entitlements(running, Bus(), client=CLIENT, raise_on_shortfall=False)


async def migrate(url: str) -> list[str]:
    """Migrate a PostgreSQL database to this version's schema. SQLite migrates when opened."""
    return (await wiring.migrate(url)).applied


def _normalised(request: Request, call: Call[T]) -> Struct | None:
    """Return the body or the query, normalised. Raise InvalidRequest."""
    if call.body is None:
        return None
    body: Struct = call.body
    return request.read(body) if call.verb.has_body else normalised(body, invalid)
