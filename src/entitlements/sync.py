"""The synchronous interface, for Django, Celery and scripts: an event loop in its own thread."""

from __future__ import annotations

import asyncio
import concurrent.futures.thread
import os
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from functools import wraps
from typing import Any, Concatenate, Final, ParamSpec, Self, TypeVar
from weakref import WeakSet

from msgspec import Struct

from entitlements.api import Call, Entitlements
from entitlements.contracts.errors import Closed
from entitlements.holding import holding

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound=Struct)


class LoopThread:
    """An event loop thread that runs coroutines for any thread, until closed or forked."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._starting = threading.Lock()
        self._is_closing = False
        self._under_way: set[Future[Any]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="entitlements", daemon=True
        )
        self._thread.start()

    @property
    def is_ours(self) -> bool:
        """Return whether the thread is in this process; a forked child has no copy of it."""
        return self._pid == os.getpid()

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Schedule the coroutine and return a future for its result. Raise Closed."""
        reason = self._why_not()
        if reason is None:
            with self._starting:
                if not self._is_closing:
                    future = asyncio.run_coroutine_threadsafe(work, self._loop)
                    self._under_way.add(future)
                    future.add_done_callback(self._under_way.discard)
                    return future
                reason = "it is closed"
        work.close()
        raise Closed(reason)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the coroutine's result; it is cancelled if the caller is interrupted."""
        future = self.start(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _why_not(self) -> str | None:
        if not self.is_ours:
            return "it was opened before this process was forked: open it again in each process"
        if threading.current_thread() is self._thread:
            return "it was called from its own event loop: use the asynchronous interface"
        return None

    def close(self, leaving: Coroutine[Any, Any, None] | None = None) -> None:
        """Accept no more calls, wait for those in progress, and then run ``leaving``."""
        with self._starting:
            self._is_closing = True
        concurrent.futures.wait(list(self._under_way))
        try:
            if leaving is not None:
                asyncio.run_coroutine_threadsafe(leaving, self._loop).result()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


def _sync(
    method: Callable[Concatenate[Entitlements, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[SyncEntitlements, P], T]:
    """Return a blocking version of the method."""

    @wraps(method)
    def call(self: SyncEntitlements, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._loop.run(method(self._asked, *args, **kwargs))

    return call


def _sync_within(
    work: Callable[Concatenate[Entitlements, P], AbstractAsyncContextManager[T]],
) -> Callable[Concatenate[SyncEntitlements, P], AbstractContextManager[T]]:
    """Return a blocking version of the context manager."""

    @wraps(work)
    @contextmanager
    def within(self: SyncEntitlements, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        context = work(self._asked, *args, **kwargs)
        value = self._loop.run(_enter(context))
        try:
            yield value
        except BaseException as error:
            self._loop.run(_leave(context, error))
            raise
        self._loop.run(_leave(context))

    return within


class SyncEntitlements:
    """`Entitlements` for callers without an event loop. It is thread-safe.

    It is open after construction. Close it with `close` or as a context; at interpreter exit it
    closes automatically.
    """

    def __init__(self, opening: AbstractAsyncContextManager[Entitlements]) -> None:
        self._opening = opening
        self._loop = LoopThread()
        self._is_open = True
        self._closing = threading.Lock()
        try:
            self._asked = self._loop.run(_enter(opening))
        except BaseException:
            self._loop.close()
            raise
        _opened.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Finish accepted calls and release all resources.

        A second call, or a call in a forked child, does nothing.
        """
        if not self._loop.is_ours:
            return
        with self._closing:
            if self._is_open:
                self._is_open = False
                self._loop.close(_leave(self._opening))

    def started(self, call: Call[S]) -> Future[S]:
        """Return a future for the response, for callers with another event loop."""
        return self._loop.start(self._asked.ask(call))

    check = _sync(Entitlements.check)
    check_all = _sync(Entitlements.check_all)
    consume = _sync(Entitlements.consume)
    consume_all = _sync(Entitlements.consume_all)
    reverse = _sync(Entitlements.reverse)
    take_hold = _sync(Entitlements.take_hold)
    settle = _sync(Entitlements.settle)
    extend = _sync(Entitlements.extend)
    release = _sync(Entitlements.release)
    hold = _sync(Entitlements.hold)
    holds = _sync(Entitlements.holds)
    holding = _sync_within(holding)
    balance = _sync(Entitlements.balance)
    open_account = _sync(Entitlements.open_account)
    adjust = _sync(Entitlements.adjust)
    set_balance = _sync(Entitlements.set_balance)
    open_accounts = _sync(Entitlements.open_accounts)
    adjust_all = _sync(Entitlements.adjust_all)
    set_balances = _sync(Entitlements.set_balances)
    grant = _sync(Entitlements.grant)
    entitlement = _sync(Entitlements.entitlement)
    entitlements = _sync(Entitlements.entitlements)
    revoke = _sync(Entitlements.revoke)
    revoke_reference = _sync(Entitlements.revoke_reference)
    check_access = _sync(Entitlements.check_access)
    check_access_all = _sync(Entitlements.check_access_all)
    check_feature = _sync(Entitlements.check_feature)
    spend = _sync(Entitlements.spend)
    summary = _sync(Entitlements.summary)
    set_member = _sync(Entitlements.set_member)
    remove_member = _sync(Entitlements.remove_member)
    member = _sync(Entitlements.member)
    members = _sync(Entitlements.members)
    activate_subscription = _sync(Entitlements.activate_subscription)
    change_subscription = _sync(Entitlements.change_subscription)
    cancel_subscription = _sync(Entitlements.cancel_subscription)
    mark_subscription_past_due = _sync(Entitlements.mark_subscription_past_due)
    expire_subscription = _sync(Entitlements.expire_subscription)
    subscription = _sync(Entitlements.subscription)
    subscriptions = _sync(Entitlements.subscriptions)
    lifecycle_calls = _sync(Entitlements.lifecycle_calls)
    operations = _sync(Entitlements.operations)
    operation = _sync(Entitlements.operation)
    imported_operations = _sync(Entitlements.imported_operations)
    debts = _sync(Entitlements.debts)
    settle_debt = _sync(Entitlements.settle_debt)
    write_off_debt = _sync(Entitlements.write_off_debt)
    price_debt = _sync(Entitlements.price_debt)
    rate_limits = _sync(Entitlements.rate_limits)
    reset_rate_limit = _sync(Entitlements.reset_rate_limit)
    policies = _sync(Entitlements.policies)
    policy = _sync(Entitlements.policy)
    diff_policies = _sync(Entitlements.diff_policies)
    check_policy = _sync(Entitlements.check_policy)
    apply_policy = _sync(Entitlements.apply_policy)


async def _enter(context: AbstractAsyncContextManager[T]) -> T:
    return await context.__aenter__()


async def _leave(
    context: AbstractAsyncContextManager[Any], error: BaseException | None = None
) -> None:
    kind, trace = (type(error), error.__traceback__) if error is not None else (None, None)
    await context.__aexit__(kind, error, trace)


def _close_all() -> None:
    for opened in list(_opened):
        opened.close()


_opened: Final[WeakSet[SyncEntitlements]] = WeakSet()
# Stores need threads to close. Thread pools shut down in a hook that concurrent.futures.thread
# registers on import. Hooks run in reverse order, so this one runs before it.
threading._register_atexit(_close_all)  # type: ignore[attr-defined]  # noqa: SLF001
