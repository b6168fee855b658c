"""RESULTS.md: one table of ratios against their targets, with the machine they were measured on."""

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
from benchmarks.history import FILTERS, LONG, READERS, SHORT
from benchmarks.paced import LONGER
from benchmarks.places import MILLION_WALLETS
from benchmarks.renewals import CONSUME_MEANWHILE, CONSUME_PACED
from benchmarks.run import Cell, Results, a_second
from benchmarks.scenes import MANY_DUE, SCENES
from benchmarks.servers import POSTGRES_SETTINGS, SHAPES
from benchmarks.sides import Side
from benchmarks.suite import CHECKS_A_SECOND, ENGINES
from benchmarks.wrk import CONNECTIONS, THREADS, Sample
from tests.servers import postgres_binaries

Samples = Mapping[str, list[Sample]]
Memory = Mapping[str, tuple[int, int]]

FIGURES = (
    "p50 ms",
    "p99 ms",
    "service CPU us",
    "PostgreSQL CPU us",
    "batch",
    "WAL bytes",
    "round trips",
)
COSTS = (
    "CPU time is the kernel's account of all processes of the service and of PostgreSQL, backends "
    "of other databases left out, per operation, without Redis, Kafka and vacuum. In process the "
    "service is the whole process, load generation included. Round trips to PostgreSQL are "
    "counted in a separate pass, in which batches are smaller. WAL is "
    "PostgreSQL's write-ahead log."
)


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
    *(
        Ratio(
            f"{kind}, spread over {MILLION_WALLETS:,} wallets, PostgreSQL",
            f"{kind}, spread, PostgreSQL",
            None,
        )
        for kind in ("check", "consume")
    ),
    *(
        Ratio(f"entitlement check, {shape}, {engine}", f"check, {shape}, {engine}", None)
        for engine in ENGINES
        for shape in SHAPES
    ),
    *(
        Ratio(f"consume in process, {scene}, {engine}", f"consume in process, hot, {engine}", None)
        for engine in ENGINES
        for scene in SCENES
        if scene != MANY_DUE
    ),
    *(
        Ratio(
            f"operations{filtered}, wallet of {LONG.operations:,}, {engine}",
            f"operations{filtered}, wallet of {SHORT.operations:,}, {engine}",
            None,
        )
        for engine in ENGINES
        for filtered in FILTERS
    ),
    Ratio("consume, hot, SQLite", "consume, hot, PostgreSQL", None),
    Ratio("consume, spread, SQLite", "consume, spread, PostgreSQL", None),
    Ratio("consume, hot, PostgreSQL", "consume in process, hot, PostgreSQL", None),
    Ratio("consume, spread, PostgreSQL", "consume in process, spread, PostgreSQL", None),
    Ratio("consume in process, hot, SQLite", "consume in process, hot, PostgreSQL", 0.5),
    Ratio("consume in process, spread, SQLite", "consume in process, spread, PostgreSQL", 0.5),
    *(
        Ratio(f"consume embedded, {shape}, {engine}", f"consume{other}, {shape}, {engine}", None)
        for engine in ("PostgreSQL", "SQLite")
        for shape in ("hot", "spread")
        for other in (" in process", "")
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
P99_MS: dict[str, int | None] = {
    "check, half load, PostgreSQL": 10,
    "framework ceiling, at that rate": None,
    "consume, half load, PostgreSQL": 25,
    "pgbench same writes, at that rate": None,
    **{
        f"check{reading}, at {CHECKS_A_SECOND}/s, {engine}": None
        for engine in ENGINES
        for reading in ("", f" while {READERS} read history")
    },
    CONSUME_PACED: None,
    CONSUME_MEANWHILE: None,
    **{f"consume in process, {MANY_DUE}, {engine}": None for engine in ENGINES},
    "commit to consumer, one client": None,
    BROKER_UP: None,
    BROKER_DOWN: None,
}
P99_RATIOS: tuple[tuple[str, str, float | None], ...] = (
    (CONSUME_MEANWHILE, CONSUME_PACED, None),
    *(
        (
            f"check while {READERS} read history, at {CHECKS_A_SECOND}/s, {engine}",
            f"check, at {CHECKS_A_SECOND}/s, {engine}",
            None,
        )
        for engine in ENGINES
    ),
    (BROKER_DOWN, BROKER_UP, 1.25),
)
"""Rows whose p99 may be at most this many times that of the other row; None: it is reported."""

IDLE_MB, PEAK_MB = 80, 200


def render(
    results: Results, side: Side, memory: Memory, notes: list[str], *, rounds: int, seconds: int
) -> str:
    """Return the page as Markdown, without rows that were not measured."""
    samples = results.of(side.name)
    method = (
        f"Written by `make bench` on {today()}. Medians of "
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
        *(f"* {line}" for line in (*machine(), interpreter(side), *notes)),
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
        COSTS,
        "",
        table_row("load", "per second", "lowest", "highest", *FIGURES),
        f"|---|--:|--:|--:|{'--:|' * len(FIGURES)}",
        *(
            _sample_row(name, taken, results.trips.get(Cell(name, side.name)))
            for name, taken in samples.items()
        ),
        *lacking(results, side),
    ]
    return "\n".join(lines) + "\n"


def lacking(results: Results, *sides: Side) -> list[str]:
    """List rows without figures, with the reason, and ledgers that fail verification."""
    lines = [
        *(f"* {failure}" for side in sides for failure in side.failures),
        *(f"* {cell.row}, {cell.side}: skipped: {why}" for cell, why in results.skipped.items()),
        *(f"* {cell.row}, {cell.side}: failed: {why}" for cell, why in results.failed.items()),
    ]
    return ["", "## Not measured", "", *lines] if lines else []


def _ratio_rows(samples: Samples) -> list[str]:
    rows: list[str] = []
    for measure, against, target in RATIOS:
        if measure not in samples or against not in samples:
            continue
        # The ratio of each round, then the median: both were measured under the same conditions.
        pairs = zip(samples[measure], samples[against], strict=False)
        ratio = median(ours.rate / theirs.rate for ours, theirs in pairs)
        aim = ("", "") if target is None else (f"≥ {target:g}", _verdict(met=ratio >= target))
        cells = (measure, _rate(samples[measure]), against, _rate(samples[against]))
        rows.append(table_row(*cells, f"{ratio:.2f}", *aim))
    return rows


def _limit_rows(samples: Samples, memory: Memory) -> list[str]:
    rows: list[str] = []
    for name, most in P99_MS.items():
        if name in samples:
            p99 = median(sample.p99_ms or 0 for sample in samples[name])
            rows.append(table_row(f"p99, {name}", f"{p99:.1f} ms", *_at_most(p99, most, " ms")))
    for name, against, most_times in P99_RATIOS:
        if name in samples and against in samples:
            pairs = zip(samples[name], samples[against], strict=False)
            times = median((one.p99_ms or 0) / (other.p99_ms or 1) for one, other in pairs)
            aim = _at_most(times, most_times)
            rows.append(table_row(f"p99, {name} / {against}", f"{times:.2f}", *aim))
    if CONSUME_MEANWHILE in samples:
        lasted_s = median(one.operations / one.rate for one in samples[CONSUME_MEANWHILE])
        rows.append(table_row("renewals are on record after", f"{lasted_s:.0f} s", "", ""))
    for engine, (idle, peak) in memory.items():
        for state, mb, most in (("idle", idle, IDLE_MB), ("under load", peak, PEAK_MB)):
            met = _verdict(met=mb <= most)
            rows.append(table_row(f"memory {state}, {engine}", f"{mb} MB", f"≤ {most} MB", met))
    return rows


def _sample_row(name: str, taken: list[Sample], trips: float | None) -> str:
    rates = [sample.rate for sample in taken]
    cells = (a_second(min(rates)), a_second(max(rates)), *latencies(taken), *costs(taken, trips))
    return table_row(name, _rate(taken), *cells)


def latencies(taken: list[Sample]) -> tuple[str, str]:
    return (
        typical([sample.p50_ms for sample in taken], ".1f"),
        typical([sample.p99_ms for sample in taken], ".1f"),
    )


def costs(taken: list[Sample], trips: float | None) -> tuple[str, ...]:
    """Format CPU of service and PostgreSQL, batch, log and round trips of one operation."""
    return (
        typical([sample.service_us for sample in taken], ",.1f"),
        typical([sample.postgres_us for sample in taken], ",.1f"),
        typical([sample.batch_size for sample in taken], ",.1f"),
        typical([sample.wal_bytes for sample in taken], ",.0f"),
        typical([trips], ".3f"),
    )


def typical(values: list[float | None], form: str) -> str:
    """Format the median of the measured values; empty if there is none."""
    measured = [value for value in values if value is not None]
    return format(median(measured), form) if measured else ""


def _rate(taken: list[Sample]) -> str:
    return a_second(median(sample.rate for sample in taken))


def _at_most(value: float, most: float | None, unit: str = "") -> tuple[str, str]:
    """Format a target and whether it is met; empty without a target."""
    return ("", "") if most is None else (f"≤ {most:g}{unit}", _verdict(met=value <= most))


def _verdict(*, met: bool) -> str:
    return "yes" if met else "**no**"


def table_row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def today() -> str:
    return time.strftime("%Y-%m-%d", time.gmtime())


def interpreter(side: Side) -> str:
    warning = f" (**{side.build.warning}**)" if side.build.warning else ""
    return f"{side.name}: commit {side.commit}, {side.build}{warning}"


def machine() -> list[str]:
    settings = ", ".join(f"{name} {value}" for name, value in POSTGRES_SETTINGS.items())
    memory_gib = round(psutil.virtual_memory().total / 2**30)
    return [
        f"{os.cpu_count()} cores, {_processor()}, {memory_gib} GiB memory",
        f"{platform.system()} {platform.release()}",
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
