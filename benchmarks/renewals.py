"""Wallets whose grants are all renewed at one instant, and the consumption of others meanwhile."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import asyncpg

from benchmarks.accounting import Observer
from benchmarks.events import until
from benchmarks.paced import paced_load
from benchmarks.servers import SPREAD
from benchmarks.service import Service
from benchmarks.wrk import Sample

SQL = Path(__file__).parent / "sql"
DUE = "SELECT count(*) FROM credit_balances WHERE next_due_at <= now()"
"""Read from each side's own checkout, because it names its tables."""
CONSUMPTIONS_A_SECOND = 100
CONSUME_PACED = f"consume, at {CONSUMPTIONS_A_SECOND}/s, PostgreSQL"
CONSUME_MEANWHILE = f"consume while renewals are recorded, at {CONSUMPTIONS_A_SECOND}/s, PostgreSQL"
ON_RECORD_WITHIN_S = 1_800
LOOK_EVERY_S = 0.1

_runs = count(1)


def write_renewals(*, url: str, run: int, wallets: int) -> None:
    """Write wallets of which a grant is renewed now; ``run``, below 4,096, makes ids unique."""
    asyncio.run(_write(url, run, wallets))


async def _write(url: str, run: int, wallets: int) -> None:
    now_ms = time.time_ns() // 1_000_000
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.execute(
                f"CREATE TEMP TABLE due AS SELECT 'due-{run}-' AS prefix, {wallets} AS wallets, "
                f"'{now_ms:012x}70018{run:03x}' AS id_prefix, now() AS at"
            )
            await connection.execute((SQL / "renewals_postgres.sql").read_text(encoding="utf-8"))
    finally:
        await connection.close()


class Renewals:
    """Makes wallets of a service due, and waits until its background pass has recorded them."""

    def __init__(self, service: Service, observer: Observer, wallets: int) -> None:
        self._service = service
        self._observer = observer
        self._wallets = wallets
        self._due = service.side.text(f"{__name__}:DUE")

    def record(self, _seconds: int) -> Sample:
        """Measure from the first renewals on record until the last one."""
        self._write()
        left = self._until(lambda due: due < self._wallets)
        with self._service.metered() as usage:
            started = time.perf_counter()
            self._until(lambda due: due == 0)
            rate = left / (time.perf_counter() - started)
        return usage.of(Sample(rate=rate, operations=left))

    def consume_meanwhile(self, seconds: int) -> Sample:
        """Let others consume from the instant the wallets are due until all are on record."""
        self._write()
        with ThreadPoolExecutor(max_workers=1) as pool:
            recorded = threading.Event()
            waiting = pool.submit(self._wait, recorded)
            sample = consume_paced(self._service, seconds, until=recorded)
            waiting.result()
        return sample

    def _write(self) -> None:
        self._service.side.call(
            f"{__name__}:write_renewals",
            url=self._service.database_url,
            run=next(_runs),
            wallets=self._wallets,
        )

    def _wait(self, recorded: threading.Event) -> None:
        try:
            self._until(lambda due: due == 0)
        finally:
            recorded.set()

    def _until(self, is_enough: Callable[[int], bool]) -> int:
        return until(
            lambda: self._observer.value(self._service.database_url, self._due),
            is_enough,
            patience_s=ON_RECORD_WITHIN_S,
            every_s=LOOK_EVERY_S,
        )


def consume_paced(
    service: Service, seconds: int, *, until: threading.Event | None = None
) -> Sample:
    return paced_load(
        service.url,
        "consume",
        who=SPREAD,
        rate=CONSUMPTIONS_A_SECOND,
        seconds=seconds,
        token=service.token,
        until=until,
    )
