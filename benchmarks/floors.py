"""The rate of one transaction per operation: pgbench on the same server, disk and settings."""

import asyncio
import re
import subprocess
import tempfile
from itertools import count
from pathlib import Path
from statistics import quantiles

import asyncpg
import msgspec

from benchmarks.wrk import CONNECTIONS, THREADS, Sample
from entitlements.adapters.postgres.store import PostgresStore
from tests.servers import Postgres, postgres_binaries

SQL = Path(__file__).parent / "sql"

_runs = count(1)


def prepare(server: Postgres) -> str:
    """Return the URL of a database with the service's own tables, and wallets for the scripts."""

    async def run(url: str) -> None:
        store = await PostgresStore.open(url)
        await store.migrate()
        await store.close()
        connection = await asyncpg.connect(url)
        try:
            await connection.execute((SQL / "fill.sql").read_text())
        finally:
            await connection.close()

    url = server.create_database("bench_floor")
    asyncio.run(run(url))
    return url


def pgbench(
    url: str, script: str, *, subjects: int, seconds: int, rate: int | None = None
) -> Sample:
    """Run ``script`` with prepared statements; a failed transaction fails the benchmark.

    With a ``rate`` transactions start by the clock, and latency counts from when each was due.
    """
    with tempfile.TemporaryDirectory() as folder:
        paced = ["-R", str(rate), "-l", f"--log-prefix={folder}/log"] if rate else []
        sample = _pgbench(url, script, paced, subjects=subjects, seconds=seconds)
        if not rate:
            return sample
        lines = [
            line.split() for log in Path(folder).iterdir() for line in log.read_text().splitlines()
        ]
    percentiles = quantiles((int(fields[2]) / 1000 for fields in lines), n=100)
    return msgspec.structs.replace(sample, p50_ms=percentiles[49], p99_ms=percentiles[98])


def _pgbench(url: str, script: str, paced: list[str], *, subjects: int, seconds: int) -> Sample:
    shape = ["-n", "-M", "prepared", "-c", str(CONNECTIONS), "-j", str(THREADS), *paced]
    variables = ["-D", f"subjects={subjects}", "-D", "n=0", "-D", f"run={next(_runs)}"]
    ran = subprocess.run(
        [
            str(postgres_binaries() / "pgbench"),
            *shape,
            *variables,
            *("-T", str(seconds), "-f", str(SQL / f"{script}.sql"), url),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds + 60,
    )
    rate = re.search(r"^tps = ([\d.]+)", ran.stdout, re.MULTILINE)
    done = re.search(r"^number of transactions actually processed: (\d+)", ran.stdout, re.MULTILINE)
    if ran.returncode or not rate or not done:
        raise RuntimeError(f"pgbench {script}: {ran.stderr[-2000:]}")
    return Sample(rate=float(rate[1]), operations=int(done[1]))
