"""One table of ratios against their targets, with the machine they were measured on."""

import os
import platform
import re
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import NamedTuple

import psutil

from benchmarks.brokered import BROKER_DOWN, BROKER_UP, PEAK
from benchmarks.paced import LONGER
from benchmarks.suite import POSTGRES_SETTINGS
from benchmarks.wrk import CONNECTIONS, THREADS, Sample
from tests.servers import postgres_binaries

Samples = Mapping[str, list[Sample]]
Memory = Mapping[str, tuple[int, int]]


class Ratio(NamedTuple):
    """``measure`` should reach ``target`` times ``against``; without a target it is reported."""

    measure: str
    against: str
    target: float | None


RATIOS = (
    Ratio("check, hot, PostgreSQL", "framework ceiling, hot", 0.5),
    Ratio("check, spread, PostgreSQL", "framework ceiling, spread", 0.4),
    Ratio("explain, hot, PostgreSQL", "check, hot, PostgreSQL", None),
    Ratio("check, hot, PostgreSQL and Redis", "framework ceiling, hot", 0.3),
    Ratio("check, spread, PostgreSQL and Redis", "framework ceiling, spread", 0.3),
    Ratio("Redis limiter, 3 windows, hot", "memory limiter, 3 windows, hot", None),
    Ratio("Redis limiter, 3 windows, spread", "memory limiter, 3 windows, spread", None),
    Ratio("consume, hot, PostgreSQL", "pgbench same writes, hot", 5.0),
    Ratio("consume, hot, PostgreSQL", "pgbench lean, hot", 5.0),
    Ratio("consume, spread, PostgreSQL", "pgbench same writes, spread", 1.2),
    Ratio("consume, spread, PostgreSQL", "pgbench lean, spread", 0.7),
    Ratio("hold and settle, hot, PostgreSQL", "consume, hot, PostgreSQL", 0.45),
    Ratio("hold and settle, spread, PostgreSQL", "consume, spread, PostgreSQL", 0.45),
    Ratio(
        "consume, wallet of 50 grants, PostgreSQL", "consume, wallet of 1 grants, PostgreSQL", 0.7
    ),
    Ratio(
        "consume, wallet of 10,000 grants, PostgreSQL",
        "consume, wallet of 1 grants, PostgreSQL",
        0.5,
    ),
    Ratio("consume, hot, SQLite", "consume, hot, PostgreSQL", None),
    Ratio("consume, spread, SQLite", "consume, spread, PostgreSQL", None),
    Ratio("consume, hot, PostgreSQL", "consume in process, hot, PostgreSQL", None),
    Ratio("consume, spread, PostgreSQL", "consume in process, spread, PostgreSQL", None),
    Ratio("consume in process, hot, SQLite", "consume in process, hot, PostgreSQL", 0.5),
    Ratio("consume in process, spread, SQLite", "consume in process, spread, PostgreSQL", 0.5),
    *(
        Ratio(f"consume embedded, {shape}, {engine}", f"consume{beside}, {shape}, {engine}", None)
        for engine in ("PostgreSQL", "SQLite")
        for shape in ("hot", "spread")
        for beside in (" in process", "")
    ),
    *(
        Ratio(
            f"reported use, {shape}, relay {relay}",
            f"reported use in process, {shape}, PostgreSQL",
            least,
        )
        for shape in ("hot", "spread")
        for relay, least in (("off", 0.5), ("on", None))
    ),
    Ratio("relay, what waited", "reported use, spread, relay off", None),
    Ratio(PEAK, "consume, spread, PostgreSQL", None),
    Ratio("check, hot, SQLite", "check, hot, PostgreSQL", None),
    Ratio("check, spread, SQLite", "check, spread, PostgreSQL", None),
)
P99_MS = {
    "check, half load, PostgreSQL": 10,
    "consume, half load, PostgreSQL": 25,
    "pgbench same writes, at that rate": None,
    "commit to consumer, one client": None,
    BROKER_UP: None,
    BROKER_DOWN: None,
}
P99_RATIOS = ((BROKER_DOWN, BROKER_UP, 1.25),)
"""What must not be slower than so many times the other."""

IDLE_MB, PEAK_MB = 80, 200


def render(samples: Samples, memory: Memory, *, rounds: int, seconds: int) -> str:
    """The page as Markdown; what was not measured is left out."""
    method = (
        f"Written by `make bench` on {time.strftime('%Y-%m-%d', time.gmtime())}. Medians of "
        f"{rounds} rounds of {seconds} s, at half load {LONGER * seconds} s, all loads in turn "
        f"within each round; {CONNECTIONS} "
        f"connections, {THREADS} threads. Ratios carry over to other machines, rates do not: "
        "load generator, service and database share this one."
    )
    lines = [
        "# Results",
        "",
        method,
        "",
        *(f"* {line}" for line in _machine()),
        "",
        "## Against the targets",
        "",
        "| work | per second | against | per second | ratio | target | met |",
        "|---|--:|---|--:|--:|--:|---|",
        *_ratio_rows(samples),
        "",
        "| limit | measured | target | met |",
        "|---|--:|--:|---|",
        *_limit_rows(samples, memory),
        "",
        "## Everything measured",
        "",
        "| load | per second | lowest | highest | p50 ms | p99 ms |",
        "|---|--:|--:|--:|--:|--:|",
        *(_sample_row(name, taken) for name, taken in samples.items()),
    ]
    return "\n".join(lines) + "\n"


def _ratio_rows(samples: Samples) -> list[str]:
    rows: list[str] = []
    for measure, against, target in RATIOS:
        if measure not in samples or against not in samples:
            continue
        # The ratio of each round, then the median: both sides saw the same weather.
        pairs = zip(samples[measure], samples[against], strict=True)
        ratio = median(ours.rate / theirs.rate for ours, theirs in pairs)
        aim = ("", "") if target is None else (f"≥ {target:g}", _verdict(met=ratio >= target))
        cells = (measure, _rate(samples[measure]), against, _rate(samples[against]))
        rows.append(_row(*cells, f"{ratio:.2f}", *aim))
    return rows


def _limit_rows(samples: Samples, memory: Memory) -> list[str]:
    rows: list[str] = []
    for name, most in P99_MS.items():
        if name in samples:
            p99 = median(sample.p99_ms or 0 for sample in samples[name])
            aim = ("", "") if most is None else (f"≤ {most} ms", _verdict(met=p99 <= most))
            rows.append(_row(f"p99, {name}", f"{p99:.1f} ms", *aim))
    for name, against, most_times in P99_RATIOS:
        if name in samples and against in samples:
            pairs = zip(samples[name], samples[against], strict=True)
            times = median((one.p99_ms or 0) / (other.p99_ms or 1) for one, other in pairs)
            met = _verdict(met=times <= most_times)
            rows.append(_row(f"p99, {name} / up", f"{times:.2f}", f"≤ {most_times:g}", met))
    for engine, (idle, peak) in memory.items():
        for state, mb, most in (("idle", idle, IDLE_MB), ("under load", peak, PEAK_MB)):
            met = _verdict(met=mb <= most)
            rows.append(_row(f"memory {state}, {engine}", f"{mb} MB", f"≤ {most} MB", met))
    return rows


def _sample_row(name: str, taken: list[Sample]) -> str:
    rates = [sample.rate for sample in taken]
    percentiles = [
        f"{median(values):.1f}" if values else ""
        for values in (
            [sample.p50_ms for sample in taken if sample.p50_ms is not None],
            [sample.p99_ms for sample in taken if sample.p99_ms is not None],
        )
    ]
    return _row(name, _rate(taken), f"{min(rates):,.0f}", f"{max(rates):,.0f}", *percentiles)


def _rate(taken: list[Sample]) -> str:
    return f"{median(sample.rate for sample in taken):,.0f}"


def _verdict(*, met: bool) -> str:
    return "yes" if met else "**no**"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _machine() -> list[str]:
    settings = ", ".join(f"{name} {value}" for name, value in POSTGRES_SETTINGS.items())
    memory_gib = round(psutil.virtual_memory().total / 2**30)
    return [
        f"{os.cpu_count()} cores, {_processor()}, {memory_gib} GiB memory",
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        f"{_postgres_version()}: {settings}",
    ]


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    model = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return model[1] if model else platform.processor() or platform.machine()


def _postgres_version() -> str:
    asked = [str(postgres_binaries() / "postgres"), "--version"]
    version = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    return version.strip().replace("postgres (PostgreSQL)", "PostgreSQL")
