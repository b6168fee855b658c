"""The engine in this process, over a SQLite file or PostgreSQL: no service, no HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Self, TypeVar, cast

from msgspec import Struct

from entitlements import api, wiring
from entitlements.api import Call
from entitlements.app import engine
from entitlements.app.access import Caller, Role
from entitlements.app.bus import Bus, BusEvent, Handler
from entitlements.app.checks import Checked
from entitlements.app.clock import utc_now
from entitlements.app.engine import Engine
from entitlements.app.policy_document import PolicyError, text_of
from entitlements.app.ports import SchemaMismatch, Unavailable
from entitlements.app.requests import administration, balances, checks, consumption, holds, ledger
from entitlements.app.requests.refusals import told
from entitlements.app.requests.request import Desk, Request
from entitlements.contracts import errors, verbs
from entitlements.contracts.fields import visible_key
from entitlements.sync import SyncEntitlements

__all__ = ["BusEvent", "Entitlements", "PolicyError", "SchemaMismatch", "migrate"]

T = TypeVar("T", bound=Struct)
Clock = Callable[[], datetime]
Answering = Callable[[Request, Call[Any]], Awaitable[Struct]]

RECEIPTS_RETENTION_S: Final = 30 * 86_400
DEADLINE_S: Final = 10.0


class Entitlements(api.Entitlements):
    """What `open` gives: all that a service answers, answered here."""

    def __init__(self, running: Engine, bus: Bus, *, client: str, clock: Clock) -> None:
        self._caller = Caller("embedded", client, frozenset(Role))
        self._bus = bus
        self._desk = Desk(
            committer=running.committer,
            reader=running.reader,
            records=running.store,
            policies=running.policies,
            limits=running.limits,
            checks=running.checks,
            holds=running.holds,
            conflicts=running.conflicts,
            clock=clock,
            new_id=running.new_id,
            receipts_retention_s=RECEIPTS_RETENTION_S,
            counts_operators=False,
        )

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        url: str,
        *,
        policy: str | Path | None = None,
        redis_url: str | None = None,
        clock: Clock | None = None,
        client: str = "embedded",
        pool_max: int = 10,
    ) -> AsyncIterator[Self]:
        """The engine over ``sqlite:///PATH`` or ``postgresql://…``; leaving it finishes what was
        accepted.

        ``policy`` is a document, or the path of one that is followed when it changes; without it
        the policy in force stays so, and a new database gets the shipped one. Limits are counted
        in this process, or with ``redis_url`` together with others. ``clock`` stands in for the
        database's. ``client`` is whose idempotency keys these are, and stands in the ledger.

        Raises PolicyError, SchemaMismatch before `migrate`, Unavailable.
        """
        try:
            async with AsyncExitStack() as stack:
                bus = Bus()
                running = await _running(
                    stack,
                    url,
                    bus=bus,
                    policy=policy,
                    redis_url=redis_url,
                    clock=clock,
                    pool_max=pool_max,
                )
                yield cls(running, bus, client=client, clock=clock or utc_now)
        except Unavailable as error:
            raise told(error) or error from error

    @classmethod
    def open_sync(
        cls,
        url: str,
        *,
        policy: str | Path | None = None,
        redis_url: str | None = None,
        clock: Clock | None = None,
        client: str = "embedded",
        pool_max: int = 10,
    ) -> SyncEntitlements:
        """As `open`, for callers without an event loop; it is open at once."""
        return SyncEntitlements(
            cls.open(
                url,
                policy=policy,
                redis_url=redis_url,
                clock=clock,
                client=client,
                pool_max=pool_max,
            )
        )

    def subscribe(self, handler: Handler, *event_types: str) -> Callable[[], None]:
        """Let ``await handler(event)`` see every event of these types that is yet to be shipped,
        whoever caused it; ``*`` stands for any text, and no type for all. What it answers ends
        the subscription.

        An event comes at least once, those of a wallet in order, and within a second also from
        other processes. A handler that raises sees it again later, ten times at most; then it is
        parked. Of several processes on a database one sees an event, and none where a service
        ships to Kafka.
        """
        return self._bus.subscribe(handler, *event_types)

    async def ask(self, call: Call[T]) -> T:
        key = None if call.key is None else visible_key("key", call.key)
        request = Request(self._desk, call.path, self._caller, key, is_its_own=True)
        request.correlation_header = request.optional_text("correlation_id", call.correlation_id)
        try:
            return cast("T", await _ANSWERS[call.verb.path](request, call))
        except Exception as error:
            refusal = told(error)
            if refusal is None:
                raise
            refusal.correlation_id = request.correlation_id
            if refusal is error:
                raise
            raise refusal from error


async def _running(
    stack: AsyncExitStack,
    url: str,
    *,
    bus: Bus,
    policy: str | Path | None,
    redis_url: str | None,
    clock: Clock | None,
    pool_max: int,
) -> Engine:
    now = clock or utc_now
    file = policy if isinstance(policy, Path) else None
    text = text_of(policy) if isinstance(policy, Path) else policy
    store = await wiring.open_store(url, clock=clock, pool_max=pool_max)
    stack.push_async_callback(store.close)
    counting = await wiring.limiters(redis_url, now, stack)
    return await stack.enter_async_context(
        engine.running(
            store,
            local=counting.local,
            shared=counting.shared,
            recounting=counting.recounting,
            policy_text=text,
            policy_source=str(file or "policy"),
            policy_file=file,
            shipping=wiring.bus_shipping(bus),
            deadline_s=DEADLINE_S,
            clock=now,
        )
    )


async def migrate(url: str) -> list[str]:
    """Bring a PostgreSQL database to this version's schema; a SQLite file does it by itself."""
    return await wiring.migrate(url)


async def _check(request: Request, call: Call[Any]) -> Struct:
    checked = await checks.check(request, call.body, explained=call.explained)
    return checks.answer(checked)


async def _check_all(request: Request, call: Call[Any]) -> Struct:
    checked = await checks.check_all(request, call.body, explained=call.explained)
    return checks.answer_all(checked, request.correlation_id)


async def _balance(request: Request, call: Call[Any]) -> Struct:
    return await balances.balance(request, call.named["user_id"], call.body.org_id)


async def _reverse(request: Request, call: Call[Any]) -> Struct:
    return await consumption.reverse(request, call.named["operation_id"], call.body)


async def _take_hold(request: Request, call: Call[Any]) -> Struct:
    taken = await holds.take(request, call.body)
    if isinstance(taken, Checked):
        raise errors.denied(checks.answer_all(taken, request.correlation_id))
    return taken


def _of_hold(answer: Callable[[Request, str, Any], Awaitable[Struct]]) -> Answering:
    """Those that change a hold that is named."""
    return lambda request, call: answer(request, call.named["hold_id"], call.body)


async def _show_hold(request: Request, call: Call[Any]) -> Struct:
    return await holds.show(request, call.named["hold_id"])


def _of_body(answer: Callable[[Request, Any], Awaitable[Struct]]) -> Answering:
    """Those that need nothing but what is asked."""
    return lambda request, call: answer(request, call.body)


_ANSWERS: Final[Mapping[str, Answering]] = {
    verbs.CHECK.path: _check,
    verbs.CHECK_ALL.path: _check_all,
    verbs.CONSUME.path: _of_body(consumption.consume),
    verbs.CONSUME_ALL.path: _of_body(consumption.consume_all),
    verbs.REVERSE.path: _reverse,
    verbs.HOLD.path: _take_hold,
    verbs.SETTLE_HOLD.path: _of_hold(holds.settle),
    verbs.EXTEND_HOLD.path: _of_hold(holds.extend),
    verbs.RELEASE_HOLD.path: _of_hold(holds.release),
    verbs.SHOW_HOLD.path: _show_hold,
    verbs.BALANCE.path: _balance,
    verbs.OPEN_ACCOUNT.path: _of_body(administration.open_account),
    verbs.ADJUST.path: _of_body(administration.adjust),
    verbs.SET_BALANCE.path: _of_body(administration.set_balance),
    verbs.OPERATIONS.path: _of_body(ledger.operations),
}
