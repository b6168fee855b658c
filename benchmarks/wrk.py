"""wrk as load generator: 64 connections from 2 threads, and what it measured."""

import shutil
import subprocess
from itertools import count
from pathlib import Path

import msgspec

CONNECTIONS = 64
THREADS = 2
NOBODY = "nobody"
SCRIPT = Path(__file__).parent / "lua" / "entitlements.lua"

_runs = count(1)


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One round of one load: operations per second, and latencies where they were measured."""

    rate: float
    p50_ms: float | None = None
    p99_ms: float | None = None


class _Result(msgspec.Struct):
    requests: int
    duration_us: int
    refused: int
    broken: int
    p50_us: int
    p99_us: int


def load(
    url: str, kind: str, *, who: str, seconds: int, token: str = NOBODY, pause_ms: int = 0
) -> Sample:
    """Send ``kind`` for a while; an answer other than 2xx fails the benchmark."""
    program = shutil.which("wrk")
    if program is None:
        raise SystemExit("wrk is missing: apt-get install wrk, or brew install wrk")
    shape = [f"-t{THREADS}", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "10s"]
    script = ["-s", str(SCRIPT), url, "--", kind, who, str(pause_ms)]
    ran = subprocess.run(
        [program, *shape, *script, f"run{next(_runs)}", token],
        capture_output=True,
        text=True,
        check=True,
        timeout=seconds + 60,
    )
    line = next(line for line in ran.stdout.splitlines() if line.startswith("RESULT "))
    result = msgspec.json.decode(line.removeprefix("RESULT "), type=_Result)
    if result.refused or result.broken or not result.requests:
        raise RuntimeError(f"{kind} at {url}: {line}")
    return Sample(
        rate=result.requests * 1_000_000 / result.duration_us,
        p50_ms=result.p50_us / 1000,
        p99_ms=result.p99_us / 1000,
    )


def pause_for(rate: float) -> int:
    """The mean pause of each connection, in milliseconds, that yields about ``rate`` in total."""
    return max(1, round(1000 * CONNECTIONS / rate))
