"""COMPARISON.md: this checkout against others, row by row."""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from statistics import median

from benchmarks.compare import ROUNDS_MAX, SPREAD_MAX, judge, median_interval
from benchmarks.paced import LONGER
from benchmarks.report import (
    COSTS,
    FIGURES,
    Memory,
    costs,
    interpreter,
    lacking,
    latencies,
    machine,
    table_row,
    today,
)
from benchmarks.run import SHARED, Cell, Results, a_second, figure
from benchmarks.sides import THIS, Side
from benchmarks.wrk import CONNECTIONS, THREADS, Sample

METHOD = (
    "Sides alternate within a round, and change their order between rounds. A ratio is this "
    "checkout's figure divided by the other's, the median over the rounds; ± is half the width of "
    "its distribution-free confidence interval of about 95 %, in percent of the median; in "
    "brackets is the median of the differences. Rounds are added to a row until it has a verdict, "
    f"up to {ROUNDS_MAX}. The verdict is from the CPU time of service and PostgreSQL together, "
    "which a busy machine distorts less than rates: `same` where the interval is within "
    f"{SPREAD_MAX:g} % of 1, `less` or `more` where it excludes 1 and is at most "
    f"± {SPREAD_MAX:g} % wide. Rows without CPU time are judged by p99 or by time per operation. "
    "At half load all sides carry one rate, half of the lowest peak."
)

Value = Callable[[Sample], float | None]
VALUES: dict[str, Value] = {
    "service CPU (us)": lambda sample: sample.service_us,
    "PostgreSQL CPU (us)": lambda sample: sample.postgres_us,
    "WAL": lambda sample: sample.wal_bytes,
    "rate": lambda sample: sample.rate,
    "p99": lambda sample: sample.p99_ms,
}


def render_comparison(
    results: Results,
    sides: Sequence[Side],
    memory: Mapping[str, Memory],
    notes: Sequence[str],
    *,
    seconds: int,
) -> str:
    """The page as Markdown."""
    windows = (
        f"Windows of {seconds} s, at half load {LONGER * seconds} s; "
        f"{CONNECTIONS} connections, {THREADS} threads."
    )
    lines = [
        "# Comparison",
        "",
        f"Written by `make bench AGAINST=…` on {today()}. {windows}",
        "",
        METHOD,
        "",
        *(f"* {interpreter(side)}" for side in sides),
        *(f"* {line}" for line in (*machine(), *notes)),
    ]
    if results.ran_out_of_time:
        lines.append("* **The time was up before all rows had their rounds.**")
    for side in sides[1:]:
        lines += ["", f"## {THIS} against {side.name}", "", *_verdicts(results, side)]
    lines += ["", "## Every side", "", COSTS, "", *_details(results, sides)]
    lines += ["", "## Memory", "", *_memory(memory), *lacking(results, *sides)]
    return "\n".join(lines) + "\n"


def _verdicts(results: Results, other: Side) -> list[str]:
    lines = [
        table_row("row", "verdict", "from", "ratio", "±", "rounds", *VALUES),
        f"|---|---|---|{'--:|' * (3 + len(VALUES))}",
    ]
    for cell, ours in results.samples.items():
        theirs = results.samples.get(Cell(cell.row, other.name))
        if cell.side != THIS or not theirs:
            continue
        basis, ratios = figure(ours, theirs)
        interval = median_interval(ratios)
        lines.append(
            table_row(
                cell.row,
                judge(ratios),
                basis,
                f"{interval.median:.3f}",
                f"{interval.spread:.1f} %",
                str(len(ratios)),
                *(
                    compared(ours, theirs, value, with_difference="(us)" in name)
                    for name, value in VALUES.items()
                ),
            )
        )
    return lines


def compared(
    ours: Sequence[Sample], theirs: Sequence[Sample], value: Value, *, with_difference: bool
) -> str:
    """The median of the rounds' ratios, its spread and the median difference, or nothing."""
    pairs = [
        (one, other)
        for a, b in zip(ours, theirs, strict=False)
        if (one := value(a)) and (other := value(b))
    ]
    if not pairs:
        return ""
    interval = median_interval([one / other for one, other in pairs])
    text = f"{interval.median:.3f} ± {interval.spread:.1f} %"
    if not with_difference:
        return text
    return f"{text} ({median(one - other for one, other in pairs):+,.0f})"


def _details(results: Results, sides: Sequence[Side]) -> list[str]:
    lines = [
        table_row("row", "side", "per second", *FIGURES),
        f"|---|---|--:|{'--:|' * len(FIGURES)}",
    ]
    names = [THIS, *(side.name for side in sides[1:]), SHARED]
    rows = dict.fromkeys(cell.row for cell in results.samples)
    for cell in chain.from_iterable([Cell(row, name) for name in names] for row in rows):
        if taken := results.samples.get(cell):
            rate = a_second(median(sample.rate for sample in taken))
            cells = (*latencies(taken), *costs(taken, results.trips.get(cell)))
            lines.append(table_row(cell.row, cell.side, rate, *cells))
    return lines


def _memory(memory: Mapping[str, Memory]) -> list[str]:
    return [
        "| service | side | idle MB | under load MB |",
        "|---|---|--:|--:|",
        *(
            table_row(place, side, str(idle), str(peak))
            for side, places in memory.items()
            for place, (idle, peak) in places.items()
        ),
    ]
