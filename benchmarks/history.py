"""Wallets with a long history: written by SQL, and read page by page over HTTP.

`python -m benchmarks.history URL TOKEN PATH` reads pages until its standard input ends.
"""

import asyncio
import contextlib
import http.client
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode, urlsplit

import apsw
import asyncpg
import msgspec

from benchmarks.requests import NO_ROUTE
from benchmarks.service import Service
from benchmarks.sides import HERE, Lacking, Side, clean_environment
from benchmarks.wallets import CREDITS
from benchmarks.wrk import Sample

SQL = Path(__file__).parent / "sql"
OPERATIONS = "/v1/admin/credits/operations"
PAGE = 100
FILTERS = {
    "": {},
    " by metric": {"metric": "cj_comparison"},
    " by unused metric": {"metric": "spellcheck"},
}
"""Filters of a listing that match all, every second, or no operation of the wallet."""

DAY_MS = 86_400_000
BEGAN_MS, LASTED_MS = 60 * DAY_MS, 58 * DAY_MS
"""How long ago histories began, and how long they lasted; they end before any limit window."""
ANSWERED_WITHIN_S = 120
READERS = 3


class Shape(NamedTuple):
    """Wallets of users named ``prefix`` and a number, and the operations of each.

    ``salt``, below 4,096, makes ids unique among the histories of one database.
    """

    prefix: str
    wallets: int
    operations: int
    salt: int

    @property
    def table(self) -> str:
        """SQL that creates the table `shape` for the script."""
        began_ms = time.time_ns() // 1_000_000 - BEGAN_MS
        return (
            f"CREATE TEMP TABLE shape AS SELECT '{self.prefix}' AS prefix, "
            f"{self.wallets} AS wallets, {self.operations} AS operations, "
            f"{self.salt} AS salt, {CREDITS} AS credits, "
            f"{began_ms} AS began_ms, {LASTED_MS} AS lasted_ms"
        )


SHORT = Shape("short-", 1, 10, 1)
LONG = Shape("long-", 1, 200_000, 2)


def write_history(*, url: str, prefix: str, wallets: int, operations: int, salt: int) -> None:
    """Write wallets with a history into a database that has its tables and a policy."""
    shape = Shape(prefix, wallets, operations, salt)
    if url.startswith("sqlite:///"):
        _write_to_sqlite(url.removeprefix("sqlite:///"), shape)
    else:
        asyncio.run(_write_to_postgres(url, shape))


def fill_history(side: Side, url: str, *shapes: Shape) -> float:
    """Write histories with the side's own SQL, else with this checkout's; return the seconds.

    Raises Lacking if the SQL does not fit the side's tables.
    """
    started = time.monotonic()
    for shape in shapes:
        try:
            side.call("benchmarks.history:write_history", url=url, **shape._asdict())
        except Lacking:
            try:
                write_history(url=url, **shape._asdict())
            except (
                asyncpg.SyntaxOrAccessError,
                asyncpg.IntegrityConstraintViolationError,
                apsw.SQLError,
                apsw.ConstraintError,
            ) as error:
                raise Lacking(f"the SQL of the history does not fit: {error}") from error
    return time.monotonic() - started


async def _write_to_postgres(url: str, shape: Shape) -> None:
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.execute(shape.table)
            await connection.execute((SQL / "history_postgres.sql").read_text(encoding="utf-8"))
        await connection.execute("VACUUM (ANALYZE)")
    finally:
        await connection.close()


def _write_to_sqlite(path: str, shape: Shape) -> None:
    connection = apsw.Connection(path)
    try:
        with connection:
            connection.execute(shape.table)
            connection.execute((SQL / "history_sqlite.sql").read_text(encoding="utf-8"))
    finally:
        connection.close()


def listing(shape: Shape, filters: dict[str, str]) -> str:
    """Return the path of the newest page of the shape's first wallet."""
    wanted = {"subject_type": "user", "subject_id": f"{shape.prefix}1", "limit": PAGE, **filters}
    return f"{OPERATIONS}?{urlencode(wanted)}"


def listing_load(service: Service, path: str, *, seconds: float) -> Sample:
    """Request the same page repeatedly on one connection, at least once."""
    waits_ms: list[float] = []
    with contextlib.closing(_connected(service.url)) as connection:
        started = time.perf_counter()
        while not waits_ms or time.perf_counter() < started + seconds:
            asked_at = time.perf_counter()
            _page(connection, path, service.keys.reader)
            waits_ms.append((time.perf_counter() - asked_at) * 1000)
        lasted = time.perf_counter() - started
    waits_ms.sort()
    return Sample(
        rate=len(waits_ms) / lasted,
        operations=len(waits_ms),
        p50_ms=waits_ms[len(waits_ms) // 2],
        p99_ms=waits_ms[len(waits_ms) * 99 // 100],
    )


@contextlib.contextmanager
def readers(service: Service, seconds: float) -> Iterator[None]:
    """Run `READERS` that page through the long history in another process, for ``seconds``."""
    path = listing(LONG, {})
    command = [sys.executable, "-m", __name__, service.url, service.keys.reader, path]
    with subprocess.Popen(
        command, cwd=HERE, env=clean_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            if not process.stdout.readline():  # the first page has been read
                raise RuntimeError(f"the readers ended with {process.wait()}")
            timer = threading.Timer(seconds, process.terminate)
            timer.start()
            yield
            timer.join()
            if process.wait() != -signal.SIGTERM:
                raise RuntimeError(f"the readers ended with {process.returncode}")
        finally:
            process.kill()


class _Page(msgspec.Struct):
    next_cursor: str | None


def _page(connection: http.client.HTTPConnection, path: str, token: str) -> _Page:
    connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
    answer = connection.getresponse()
    body = answer.read()
    if str(answer.status).encode() in NO_ROUTE:
        raise Lacking(f"no route for operations: {answer.status}")
    if answer.status != http.client.OK:
        raise RuntimeError(f"GET {path}: {answer.status} {body!r}")
    return msgspec.json.decode(body, type=_Page)


def _connected(url: str) -> http.client.HTTPConnection:
    where = urlsplit(url)
    return http.client.HTTPConnection(str(where.hostname), where.port, timeout=ANSWERED_WITHIN_S)


def _read_through(url: str, token: str, path: str, first: threading.Event) -> None:
    """Follow the cursors to the oldest operation, then begin with the newest again."""
    with contextlib.closing(_connected(url)) as connection:
        cursor = None
        while True:
            after = f"&{urlencode({'cursor': cursor})}" if cursor else ""
            cursor = _page(connection, path + after, token).next_cursor
            first.set()


def main(url: str, token: str, path: str) -> None:
    first, failed = threading.Event(), threading.Event()

    def read() -> None:
        try:
            _read_through(url, token, path, first)
        finally:
            failed.set()
            first.set()

    for _ in range(READERS):
        threading.Thread(target=read, daemon=True).start()
    first.wait()
    if failed.is_set():
        raise SystemExit(1)
    print("reading", flush=True)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    failed.wait()
    raise SystemExit(1)


def _exit_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
