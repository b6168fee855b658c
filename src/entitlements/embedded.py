"""The embedded engine, on a SQLite file or PostgreSQL, without a service or HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Self, TypeVar, cast

from msgspec import Struct
from msgspec.structs import replace

from entitlements import api, wiring
from entitlements.api import Call
from entitlements.app import engine
from entitlements.app.access.keys import Caller, Role
from entitlements.app.credits.checks import Checked
from entitlements.app.engine import Engine
from entitlements.app.operations import (
    administration,
    balances,
    checks,
    consumption,
    debts,
    holds,
    ledger,
    policies,
    rate_limits,
)
from entitlements.app.operations.refusals import to_api_error
from entitlements.app.operations.request import Request, optional_text
from entitlements.app.outbox.bus import Bus, BusEvent, Handler
from entitlements.app.policy.document import PolicyError, text_of
from entitlements.app.ports import AddressUnusable, NoDatabase, SchemaMismatch, StoreUnavailable
from entitlements.app.process.clock import utc_now
from entitlements.contracts import errors, verbs
from entitlements.contracts.errors import invalid
from entitlements.contracts.fields import visible_key
from entitlements.contracts.kinds import normalised, parameters
from entitlements.contracts.verbs import Verb
from entitlements.sync import SyncEntitlements
from entitlements.wiring import Limiters

__all__ = ["BusEvent", "Entitlements", "PolicyError", "SchemaMismatch", "migrate"]

T = TypeVar("T", bound=Struct)
Clock = Callable[[], datetime]
Answering = Callable[[Request, Call[Any]], Awaitable[Struct]]

DEADLINE_S: Final = 6.0


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

    async def ask(self, call: Call[T]) -> T:
        self._require_own_loop()
        key = None if call.key is None else visible_key("key", call.key)
        request = Request(self._engine, call.path, self._caller, key, is_its_own=True)
        request.correlation_header = optional_text("correlation_id", call.correlation_id)
        try:
            return cast("T", await _ANSWERS[call.verb](request, _normalised(request, call)))
        except Exception as error:
            refusal = to_api_error(error)
            if refusal is None:
                raise
            refusal.correlation_id = request.correlation_id
            if refusal is error:
                raise
            raise refusal from error


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


async def migrate(url: str) -> list[str]:
    """Migrate a PostgreSQL database to this version's schema. SQLite migrates when opened."""
    return (await wiring.migrate(url)).applied


def _normalised(request: Request, call: Call[T]) -> Call[T]:
    """Return the call with its path parameters and its body normalised. Raise InvalidRequest."""
    named, body = parameters(call.named, invalid), call.body
    if body is not None:
        body = request.read(body) if call.verb.method == "POST" else normalised(body, invalid)
    return replace(call, body=body, named=named) if named or body is not call.body else call


async def _check(request: Request, call: Call[Any]) -> Struct:
    checked = await checks.check(request, call.body, explained=call.explained)
    return checks.answer(checked)


async def _check_all(request: Request, call: Call[Any]) -> Struct:
    checked = await checks.check_all(request, call.body, explained=call.explained)
    return checks.answer_all(checked, request.correlation_id)


async def _balance(request: Request, call: Call[Any]) -> Struct:
    return await balances.balance(request, call.named["user_id"], call.body.org_id)


async def _take_hold(request: Request, call: Call[Any]) -> Struct:
    taken = await holds.take(request, call.body)
    if isinstance(taken, Checked):
        raise errors.denied(checks.answer_all(taken, request.correlation_id))
    return taken


def _of_named(
    parameter: str, answer: Callable[[Request, str, Any], Awaitable[Struct]]
) -> Answering:
    """Return a handler that takes a path parameter and the body."""
    return lambda request, call: answer(request, call.named[parameter], call.body)


async def _show_hold(request: Request, call: Call[Any]) -> Struct:
    return await holds.show(request, call.named["hold_id"])


async def _operation(request: Request, call: Call[Any]) -> Struct:
    return await ledger.operation(request, call.named["operation_id"])


async def _rate_limits(request: Request, call: Call[Any]) -> Struct:
    return await rate_limits.usage(request, call.named["subject_id"])


async def _policy(request: Request, call: Call[Any]) -> Struct:
    return await policies.show(request, call.named["version"])


def _of_body(answer: Callable[[Request, Any], Awaitable[Struct]]) -> Answering:
    """Return a handler that takes the body alone."""
    return lambda request, call: answer(request, call.body)


_ANSWERS: Final[Mapping[Verb[Any], Answering]] = {
    verbs.CHECK: _check,
    verbs.CHECK_ALL: _check_all,
    verbs.CONSUME: _of_body(consumption.consume),
    verbs.CONSUME_ALL: _of_body(consumption.consume_all),
    verbs.REVERSE: _of_named("operation_id", consumption.reverse),
    verbs.HOLD: _take_hold,
    verbs.SETTLE_HOLD: _of_named("hold_id", holds.settle),
    verbs.EXTEND_HOLD: _of_named("hold_id", holds.extend),
    verbs.RELEASE_HOLD: _of_named("hold_id", holds.release),
    verbs.SHOW_HOLD: _show_hold,
    verbs.BALANCE: _balance,
    verbs.OPEN_ACCOUNT: _of_body(administration.open_account),
    verbs.ADJUST: _of_body(administration.adjust),
    verbs.SET_BALANCE: _of_body(administration.set_balance),
    verbs.OPEN_ACCOUNTS: _of_body(administration.open_accounts),
    verbs.ADJUST_ALL: _of_body(administration.adjust_all),
    verbs.SET_BALANCES: _of_body(administration.set_balances),
    verbs.OPERATIONS: _of_body(ledger.operations),
    verbs.OPERATION: _operation,
    verbs.HOLDS: _of_body(holds.holds),
    verbs.DEBTS: _of_body(debts.debts),
    verbs.SETTLE_DEBT: _of_named("operation_id", debts.settle),
    verbs.WRITE_OFF_DEBT: _of_named("operation_id", debts.write_off),
    verbs.PRICE_DEBT: _of_named("operation_id", debts.price),
    verbs.RATE_LIMITS: _rate_limits,
    verbs.RESET_RATE_LIMIT: _of_body(rate_limits.reset),
    verbs.POLICIES: _of_body(policies.history),
    verbs.POLICY: _policy,
    verbs.DIFF_POLICIES: _of_body(policies.diff),
    verbs.CHECK_POLICY: _of_body(policies.check),
    verbs.APPLY_POLICY: _of_body(policies.apply),
}
