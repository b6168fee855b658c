"""The shared limiter: all windows in one Redis or Valkey."""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from enum import IntEnum
from importlib.resources import files
from typing import Any, Final, Self
from urllib.parse import quote

import msgspec
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from entitlements.adapters.redis import connecting
from entitlements.app.limits.limiter import LimiterUnavailable, Report
from entitlements.app.process.log import EventLog
from entitlements.core.windows import LimitQuery, Use, WindowKey, WindowState
from entitlements.ids import uuid7

log = EventLog(__name__)

CALL_S: Final = 0.1
"""The timeout of a call from its arrival; at least half of it is left for the server."""
CONNECT_S: Final = 1.0
"""No caller waits for this: connecting happens in the background."""
GRACE_S: Final = 0.01
PROBE_S: Final = 0.5
STEADY_S: Final = 5.0
IDLE_S: Final = 1.0
"""After this long without a call, a ping checks whether the server still responds."""
WINDOWS_MAX: Final = 2_000
"""The maximum of uses and asks per script call."""
RECORDS_MAX: Final = 100_000
"""The maximum of uses that wait to be recorded."""

SCRIPT: Final = files("entitlements.adapters.redis").joinpath("limits.lua").read_bytes()
SHA: Final = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest()
NEVER: Final = -1
PROBE_KEY: Final = b"{entitlements}:window:probe:"
"""Cannot clash with a window's key, where a subject type follows."""

_decode = msgspec.msgpack.Decoder(list[int]).decode


_PROBLEMS: Final = {
    ("OutOfMemoryError", "OOM"): "is out of memory",
    ("ReadOnlyError", "READONLY"): "is a read-only replica",
    (
        "NoPermissionError",
        "NOPERM",
        "user executing the script",
    ): "does not let this user run the script",
    ("BusyLoadingError", "LOADING"): "is still loading its data",
    ("MISCONF",): "takes no writes because it cannot save them",
    ("NOREPLICAS",): "takes no writes because it has too few replicas",
    ("MasterDownError", "MASTERDOWN"): "is a replica without its primary",
    ("AuthenticationError", "NOAUTH", "WRONGPASS"): "refuses the user or password",
    ("MovedError", "AskError", "MOVED", "ASK "): "is a cluster node without the limits' keys",
    ("CLUSTERDOWN", "ClusterDownError"): "is a node of a cluster that is down",
}
"""By an error's class, or a code in its text."""


def problem_of(error: Exception) -> str:
    """Return the problem in a text that is safe to publish: the error may name hosts and users."""
    text = f"{type(error).__name__}: {error}"
    known = (words for marks, words in _PROBLEMS.items() if any(mark in text for mark in marks))
    return next(known, "cannot be reached")


class CallKind(IntEnum):
    """The operations, numbered as in the script."""

    RECORD = 0
    LOOK = 1
    RESET = 2


PROBE: Final = msgspec.msgpack.encode((0, [1], [CallKind.RECORD, 1, 1]))
"""One use in a window of one second, by the server's clock."""


class RedisCall:
    """An operation in the queue, and the future of its caller."""

    __slots__ = ("arrived_at", "future", "kind", "queries", "uses", "windows")

    def __init__(
        self,
        kind: CallKind,
        *,
        queries: Sequence[LimitQuery] = (),
        uses: Sequence[Use] = (),
        windows: Sequence[WindowKey] = (),
        future: asyncio.Future[list[WindowState]] | None = None,
        arrived_at: float = 0.0,
    ) -> None:
        self.kind = kind
        self.queries = queries
        self.uses = uses
        self.windows = windows
        self.future = future
        self.arrived_at = arrived_at

    @property
    def size(self) -> int:
        return len(self.queries) + len(self.uses) + len(self.windows)

    @property
    def is_abandoned(self) -> bool:
        return self.future is not None and self.future.done()


class RedisLimiter:
    """Implements `app.limits.Limiter` by the server's clock.

    One script call is in flight at a time, on one connection; operations that arrive meanwhile are
    sent together in the next call, in order. A call that was sent is never repeated, as it may have
    counted. The first failure opens the breaker; then every call fails at once until the script has
    written on a new connection. So a server that responds but is read-only counts as unavailable.
    ``clock_ms`` replaces the server's clock, for tests.
    """

    def __init__(
        self, url: str, *, call_s: float = CALL_S, clock_ms: Callable[[], int] | None = None
    ) -> None:
        self._connection = _connection(url)
        self._call_s = call_s
        self._clock_ms = clock_ms
        self._queue: deque[RedisCall] = deque()
        self._records = 0
        self._arrived = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._stopping = False
        self._tried_at = -STEADY_S
        self.is_available = False
        self.problem: str | None = None
        """Why it is unavailable; None before the first attempt."""
        self.failures = 0
        """How often the breaker has opened."""
        self.dropped_uses = 0
        """Uses that may not have been counted."""

    async def __aenter__(self) -> Self:
        """Start, even without a server; the worker connects once there is one."""
        await self._probe()
        self._worker = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Send the queued operations, then end."""
        worker, self._worker = self._worker, None
        assert worker is not None
        self._stopping = True
        self._arrived.set()
        await asyncio.wait({worker}, timeout=2 * self._call_s)
        worker.cancel()
        with suppress(asyncio.CancelledError):
            await worker
        self.is_available = False
        self._fail_waiting([])
        await self._disconnect()

    async def peek(self, queries: Sequence[LimitQuery]) -> list[WindowState]:
        return await self._answer(RedisCall(CallKind.LOOK, queries=queries)) if queries else []

    def count(self, uses: Sequence[Use], report: Report | None = None) -> None:
        if not uses:
            return
        if not self.is_available or self._records + len(uses) > RECORDS_MAX:
            self.dropped_uses += len(uses)
            return
        self._records += len(uses)
        # In chunks, so that no operation is larger than a script call may be.
        for at in range(0, len(uses), WINDOWS_MAX):
            part = uses[at : at + WINDOWS_MAX]
            self._send(RedisCall(CallKind.RECORD, uses=part))
            if report is not None:
                self._report(part, report)

    async def reset(self, windows: Sequence[WindowKey]) -> None:
        if windows:
            await self._answer(RedisCall(CallKind.RESET, windows=windows))

    def _report(self, uses: Sequence[Use], report: Report) -> None:
        """Look at the windows with a warn level right after their uses, in the same script call."""
        queries = [LimitQuery(use.window, use.warn.limit, 0) for use in uses if use.warn]
        if not queries:
            return

        def done(looked: asyncio.Future[list[WindowState]]) -> None:
            if looked.exception() is None:
                warned = (use for use in uses if use.warn)
                for use, state in zip(warned, looked.result(), strict=True):
                    report(use, state.used)

        self._ask(RedisCall(CallKind.LOOK, queries=queries)).add_done_callback(done)

    async def _answer(self, call: RedisCall) -> list[WindowState]:
        if not self.is_available:
            raise LimiterUnavailable
        return await self._ask(call)

    def _ask(self, call: RedisCall) -> asyncio.Future[list[WindowState]]:
        """Queue the operation; return the future of its result."""
        loop = asyncio.get_running_loop()
        call.future = loop.create_future()
        call.arrived_at = loop.time()
        self._send(call)
        return call.future

    def _send(self, call: RedisCall) -> None:
        self._queue.append(call)
        self._arrived.set()

    async def _work(self) -> None:
        while self._queue or not self._stopping:
            if not self.is_available:
                await self._recover()
                continue
            if not self._queue:
                await self._wait_or_ping()
                continue
            calls = self._gathered()
            try:
                await self._run(calls)
            except Exception as error:  # noqa: BLE001 - outermost
                self._open(calls, error)
                await self._disconnect()
            except BaseException:
                self._fail_waiting(calls)
                raise

    async def _recover(self) -> None:
        """Probe once; at once if the server was available for long, as then a connection broke."""
        if asyncio.get_running_loop().time() - self._tried_at < STEADY_S:
            await asyncio.sleep(PROBE_S)
        await self._probe()

    async def _wait_or_ping(self) -> None:
        """Wait for an operation; ping after idle time, so that a lost connection is noticed."""
        self._arrived.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(IDLE_S):
                await self._arrived.wait()
            return
        await self._probe()

    def _gathered(self) -> list[RedisCall]:
        """Return the operations to send now, without those whose callers went away."""
        calls: list[RedisCall] = []
        size = 0
        while self._queue and (not calls or size + self._queue[0].size <= WINDOWS_MAX):
            call = self._queue.popleft()
            self._records -= len(call.uses)
            if not call.is_abandoned:
                calls.append(call)
                size += call.size
        return calls

    async def _run(self, calls: list[RedisCall]) -> None:
        if not calls:
            return
        keys, arguments = _packed(calls, self._clock_ms() if self._clock_ms else 0)
        now = asyncio.get_running_loop().time()
        oldest = min((call.arrived_at for call in calls if call.future), default=now)
        patience_s = max(oldest + self._call_s - now, self._call_s / 2)
        reply = await _within(patience_s, self._evaluate(keys, arguments))
        numbers = iter(_decode(reply))
        for call in calls:
            states = list(_states(call, numbers))
            if call.future is not None and not call.future.done():
                call.future.set_result(states)

    async def _evaluate(self, keys: list[bytes], arguments: bytes) -> Any:
        try:
            return await self._ask_server("EVALSHA", SHA, len(keys), *keys, arguments)
        except NoScriptError:  # the script was not run
            return await self._ask_server("EVAL", SCRIPT, len(keys), *keys, arguments)

    async def _probe(self) -> None:
        """Run a script that writes, on the current connection or a new one."""
        if not self.is_available:
            self._tried_at = asyncio.get_running_loop().time()
        try:
            if not self._connection.is_connected:
                await _within(CONNECT_S, self._connection.connect())  # type: ignore[no-untyped-call]
            # A new key each time: Redis checks its memory only before a script's first write,
            # which for an existing key would be the deletion of old slices.
            key = PROBE_KEY + uuid7().encode()
            await _within(self._call_s, self._evaluate([key], PROBE))
        except Exception as error:  # noqa: BLE001 - outermost, as in `_work`
            await self._disconnect()
            self._open([], error)
            return
        except BaseException:
            await self._disconnect()
            raise
        if not self.is_available:
            self.is_available, self.problem = True, None
            with suppress(Exception):  # as in `_open`
                log.info("limiter.reached")

    async def _ask_server(self, *command: Any) -> Any:
        """Send once, read once; the driver closes the connection if either fails."""
        await self._connection.send_command(*command)
        return await self._connection.read_response()

    def _open(self, calls: list[RedisCall], error: Exception) -> None:
        """Open the breaker: every call fails at once. Each new reason is logged."""
        self.failures += self.is_available
        self.is_available = False
        self._fail_waiting(calls)
        before, self.problem = self.problem, problem_of(error)
        if self.problem != before:
            with suppress(Exception):  # a log that cannot be written must not end the worker
                log.warning("limiter.lost", reason=f"{type(error).__name__}: {error}")

    def _fail_waiting(self, sent: list[RedisCall]) -> None:
        calls = [*sent, *self._queue]
        self._queue.clear()
        self._records = 0
        for call in calls:
            self.dropped_uses += len(call.uses)
            if call.future is not None and not call.future.done():
                call.future.set_exception(LimiterUnavailable())
                call.future.exception()  # mark as retrieved: the caller may have gone away

    async def _disconnect(self) -> None:
        with suppress(RedisError, OSError, TimeoutError):
            await self._connection.disconnect(nowait=True)


async def _within(seconds: float, work: Coroutine[Any, Any, Any]) -> Any:
    """Return the result. Raises TimeoutError, but not if this event loop was late: a response that
    arrived in time is still read.
    """
    task = asyncio.create_task(work)
    try:
        for patience_s in (seconds, GRACE_S):
            done, _ = await asyncio.wait({task}, timeout=patience_s)
            if done:
                return task.result()
        raise TimeoutError("no response in time")
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _connection(url: str) -> AbstractConnection:
    """Return a connection that retries nothing and has no timeouts: the callers set those."""
    return connecting.connection(
        url,
        protocol=2,
        retry=Retry(NoBackoff(), 0),
        retry_on_timeout=False,
        health_check_interval=0,
        driver_info=None,
        decode_responses=False,
    )


def _packed(calls: list[RedisCall], clock_ms: int) -> tuple[list[bytes], bytes]:
    """Return the script's keys and its argument."""
    numbers: dict[WindowKey, int] = {}
    flat: list[int] = []

    def number(window: WindowKey) -> int:
        return numbers.setdefault(window, len(numbers) + 1)

    for call in calls:
        if call.queries:
            flat += (call.kind, len(call.queries))
            for query in call.queries:
                flat += (number(query.window), query.limit, query.amount)
        for use in call.uses:
            flat += (call.kind, number(use.window), use.amount)
        for window in call.windows:
            flat += (call.kind, number(window))
    seconds = [window.window_s for window in numbers]
    return [key_of(window) for window in numbers], msgspec.msgpack.encode((clock_ms, seconds, flat))


@functools.lru_cache(maxsize=65_536)
def key_of(window: WindowKey) -> bytes:
    """Return the key of a window. Ids and metrics are escaped, so that keys are unique; the hash
    tag in braces keeps all windows on one cluster node.
    """
    subject, metric, window_s = window
    held = ":".join(_escaped(part) for part in (subject.type, subject.id, metric))
    return f"{{entitlements}}:window:{held}:{window_s}".encode()


def _escaped(text: str) -> str:
    return quote(text, safe="", errors="surrogatepass")


def _states(call: RedisCall, numbers: Iterator[int]) -> Iterator[WindowState]:
    for _ in call.queries:
        used, passes_in_ms = next(numbers), next(numbers)
        yield WindowState(used, None if passes_in_ms == NEVER else passes_in_ms)
