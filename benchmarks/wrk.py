"""wrk as load generator: 64 connections from 2 threads."""

import contextlib
import shutil
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from random import Random

import msgspec

from benchmarks.requests import STEPS, YES, answer, refuse_lacking, request

CONNECTIONS = 64
THREADS = 2
NO_TOKEN = ""
SAMPLE_EVERY_S = 0.1
SCRIPT = Path(__file__).parent / "lua" / "entitlements.lua"

_runs = count(1)


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One round of one load: operations per second, latencies, and the cost of one operation.

    A field is None if it was not measured.
    """

    rate: float
    p50_ms: float | None = None
    p99_ms: float | None = None
    operations: float = 0
    service_us: float | None = None
    """CPU time of the service, in microseconds."""
    postgres_us: float | None = None
    wal_bytes: float | None = None
    batch_size: float | None = None

    @property
    def cpu_us(self) -> float | None:
        """CPU time of service and database, in microseconds."""
        if self.service_us is None:
            return self.postgres_us
        return self.service_us + (self.postgres_us or 0)


class _Result(msgspec.Struct):
    requests: int
    duration_us: int
    refused: int
    broken: int
    p50_us: int
    p99_us: int


def load(url: str, kind: str, *, who: str, seconds: int, token: str = NO_TOKEN) -> Sample:
    """Send ``kind`` for a while. A response other than 2xx fails the benchmark, and so does a
    denial in a sample of the responses.
    """
    refuse_lacking(url, kind, who=who, token=token)
    program = shutil.which("wrk")
    if program is None:
        raise SystemExit("wrk is missing: apt-get install wrk, or brew install wrk")
    shape = [f"-t{THREADS}", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "10s"]
    script = ["-s", str(SCRIPT), url, "--", kind, who]
    run = f"run{next(_runs)}"
    with _sampled(url, kind, who=who, token=token, run=run):
        ran = subprocess.run(
            [program, *shape, *script, run, token],
            capture_output=True,
            text=True,
            check=True,
            timeout=seconds + 60,
        )
    line = next(line for line in ran.stdout.splitlines() if line.startswith("RESULT "))
    result = msgspec.json.decode(line.removeprefix("RESULT "), type=_Result)
    if result.refused or result.broken or not result.requests:
        raise RuntimeError(f"{kind} at {url}: {line}")
    operations = result.requests / STEPS.get(kind, 1)
    return Sample(
        rate=operations * 1_000_000 / result.duration_us,
        operations=operations,
        p50_ms=result.p50_us / 1000,
        p99_ms=result.p99_us / 1000,
    )


@contextlib.contextmanager
def _sampled(url: str, kind: str, *, who: str, token: str, run: str) -> Iterator[None]:
    """Send some of the same requests while the block runs, and read their answers: wrk does not."""
    done = threading.Event()

    def sample() -> list[bytes]:
        random = Random(run)
        answers = []
        for number in count(1):
            whole = request(
                kind, who=who, name=f"{run}-sample-{number}", token=token, random=random
            )
            answers.append(answer(url, whole))
            if done.wait(SAMPLE_EVERY_S):
                break
        return answers

    with ThreadPoolExecutor(max_workers=1) as pool:
        answers = pool.submit(sample)
        try:
            yield
        finally:
            done.set()
    for found in answers.result():
        if YES[kind] not in found:
            raise RuntimeError(f"{kind} at {url}: {found!r}")
