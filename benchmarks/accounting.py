"""The cost of a load: CPU time from kernel accounting, write-ahead log, and batch sizes."""

import asyncio
import contextlib
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import msgspec
import psutil

from benchmarks.wrk import Sample
from tests.servers import PostgresServer

T = TypeVar("T")

OBSERVER = "bench_observer"
"""The role of the benchmark's own connections; their CPU time is not counted."""
BATCHES = re.compile(r"^entitlements_batch_size_(sum|count)(?:\{[^}]*\})? (\S+)$", re.MULTILINE)
NANOSECONDS = 1e9
REAPED_WITHIN_S = 1.0
SERVED = "SELECT datname FROM pg_database WHERE datname ~ '^bench' AND datname !~ 'in_process'"
"""Other databases are copied or dropped, which fails while a session is connected."""


class Titled(NamedTuple):
    """The user and database in the title of a PostgreSQL process."""

    user: str
    database: str


def titled(title: str) -> Titled | None:
    """Parse ``postgres: USER DATABASE HOST(PORT) …``; None for the server's own processes."""
    words = title.removeprefix("postgres: ").split()
    if words[:2] == ["autovacuum", "worker"]:
        return Titled("", words[2]) if len(words) > 2 else None
    is_client = len(words) > 2 and ("(" in words[2] or words[2].startswith("[local]"))
    return Titled(words[0], words[1]) if is_client else None


class ServerCpu(NamedTuple):
    """CPU seconds of a server; ``others`` are processes that are not counted, by process id."""

    counted_s: float
    others: dict[int, float]


def spent_s(before: ServerCpu, after: ServerCpu) -> float:
    """Return the CPU seconds between two readings.

    A process that has ended is in its parent's account with its whole CPU time, so the part that
    processes of other databases had used before is subtracted.
    """
    ended = sum(used for pid, used in before.others.items() if pid not in after.others)
    return max(0.0, after.counted_s - before.counted_s - ended)


@dataclass(kw_only=True)
class Usage:
    """Resources used by a block, set when the block ends; None if they cannot be measured."""

    service_s: float | None = None
    postgres_s: float | None = None
    wal_bytes: int | None = None
    batch_size: float | None = None

    def of(self, sample: Sample) -> Sample:
        """Return the sample with the measured cost of one operation."""

        def each(total: float | None, scale: float = 1) -> float | None:
            is_known = total is not None and sample.operations
            return (total or 0) * scale / sample.operations if is_known else None

        def known(value: float | None, before: float | None) -> float | None:
            return before if value is None else value

        return msgspec.structs.replace(
            sample,
            service_us=known(each(self.service_s, 1e6), sample.service_us),
            postgres_us=known(each(self.postgres_s, 1e6), sample.postgres_us),
            wal_bytes=known(each(self.wal_bytes), sample.wal_bytes),
            batch_size=known(self.batch_size, sample.batch_size),
        )


class Observer:
    """Reads a server's accounts on connections that stay open, so that none ends during a load."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._loop = asyncio.new_event_loop()
        self._connections: dict[str, asyncpg.Connection] = {}
        self._await(_create_role(server.admin_url))

    def close(self) -> None:
        for connection in self._connections.values():
            connection.terminate()
        self._loop.close()

    def value(self, url: str, query: str) -> int:
        """Return the first column of the first row."""

        async def fetch() -> int:
            found: int = await (await self._connected(url)).fetchval(query, timeout=120)
            return found

        return self._await(fetch())

    def vacuum(self) -> None:
        """Vacuum every database of a service, as autovacuum would in time."""

        async def run() -> None:
            admin = await self._connected(self._server.admin_url)
            for name in await admin.fetch(SERVED):
                connection = await self._connected(self._server.url(str(name["datname"])))
                await connection.execute("VACUUM (ANALYZE)", timeout=300)

        self._await(run())

    def checkpoint(self) -> None:
        async def run() -> None:
            await (await self._connected(self._server.admin_url)).execute("CHECKPOINT", timeout=300)

        self._await(run())

    @contextlib.contextmanager
    def metered(self, usage: Usage, url: str) -> Iterator[None]:
        """Set the server's CPU time for the database of ``url``, and the bytes of log written."""
        database = urlsplit(url).path.removeprefix("/")
        wal, cpu = self._wal(), self._cpu(database)
        yield
        usage.postgres_s = spent_s(cpu, self._cpu(database))
        usage.wal_bytes = self._wal() - wal

    def _wal(self) -> int:
        query = "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint"
        return self.value(self._server.admin_url, query)

    def _cpu(self, database: str) -> ServerCpu:
        """Read the postmaster with its ended children, the helpers, and the database's backends."""
        postmaster = psutil.Process(self._server.pid)
        deadline = time.monotonic() + REAPED_WITHIN_S
        while True:
            try:
                return _server_cpu(postmaster, database)
            except psutil.NoSuchProcess:
                # It has just ended, and is in no account until the postmaster has reaped it.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.002)

    async def _connected(self, url: str) -> asyncpg.Connection:
        if url not in self._connections:
            self._connections[url] = await asyncpg.connect(_as_observer(url), timeout=10)
        return self._connections[url]

    def _await(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)


@contextlib.contextmanager
def metered(
    service_cpu_s: Callable[[], float], observer: Observer | None, *, url: str, metrics: str = ""
) -> Iterator[Usage]:
    """Measure a service, and with an observer the database behind ``url``.

    ``metrics`` is the URL of the service's metrics, for batch sizes.
    """
    usage = Usage()
    batches = _batches(metrics)
    database = observer.metered(usage, url) if observer else contextlib.nullcontext()
    with database:
        used = service_cpu_s()
        yield usage
        usage.service_s = service_cpu_s() - used
    usage.batch_size = mean_size(batches, _batches(metrics))


def mean_size(before: dict[str, float], after: dict[str, float]) -> float | None:
    """Return commands per batch between two readings of the histogram."""
    count = after.get("count", 0) - before.get("count", 0)
    return (after["sum"] - before.get("sum", 0)) / count if count else None


def tree_cpu_s(family: Iterable[psutil.Process]) -> float:
    """Return the CPU seconds of processes and of their ended children."""
    return sum(cpu_s(member) for member in family)


def cpu_s(process: psutil.Process) -> float:
    """Return the CPU seconds of a process and of its ended children."""
    times = process.cpu_times()
    ended = getattr(times, "children_user", 0) + getattr(times, "children_system", 0)
    return float(times.user + times.system + ended)


def _server_cpu(postmaster: psutil.Process, database: str) -> ServerCpu:
    """Raise NoSuchProcess if a process ends during the reading."""
    counted, others = cpu_s(postmaster), {}
    for process in postmaster.children():
        who = titled(" ".join(process.cmdline()))
        used = _exact_cpu_s(process)
        if who and (who.user == OBSERVER or who.database != database):
            others[process.pid] = used
        else:
            counted += used
    return ServerCpu(counted, others)


def _exact_cpu_s(process: psutil.Process) -> float:
    """Return the CPU seconds of a single-threaded process, in ticks if schedstat is missing."""
    try:
        on_cpu = Path(f"/proc/{process.pid}/schedstat").read_text().split()[0]
    except OSError:
        return cpu_s(process)
    return int(on_cpu) / NANOSECONDS


def _batches(metrics: str) -> dict[str, float]:
    """Read the histogram of a service; empty if it has none."""
    if not metrics:
        return {}
    try:
        with urllib.request.urlopen(metrics, timeout=10) as answer:  # noqa: S310 -- loopback
            text = answer.read().decode()
    except urllib.error.HTTPError:
        return {}
    return {name: float(value) for name, value in BATCHES.findall(text)}


def _as_observer(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{OBSERVER}@{parts.netloc.rpartition('@')[2]}"))


async def _create_role(url: str) -> None:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        await connection.execute(f"CREATE ROLE {OBSERVER} SUPERUSER LOGIN")
    finally:
        await connection.close()
