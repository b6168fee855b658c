"""Run the selected rows round by round, on every side in turn."""

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from benchmarks.compare import ROUNDS_MAX, median_interval, needs_round
from benchmarks.servers import Row, Servers
from benchmarks.sides import Lacking
from benchmarks.suite import Suite
from benchmarks.wrk import Sample

SHARED = "shared"
"""The side of floors and ceilings, which are the same for all."""
TRIPS_S = 1


class Cell(NamedTuple):
    """A row as one side runs it."""

    row: str
    side: str


@dataclass
class Results:
    """Samples by row and side, in the order of rounds; and rows that could not be measured."""

    samples: defaultdict[Cell, list[Sample]] = field(default_factory=lambda: defaultdict(list))
    trips: dict[Cell, float] = field(default_factory=dict)
    skipped: dict[Cell, str] = field(default_factory=dict)
    failed: dict[Cell, str] = field(default_factory=dict)
    ran_out_of_time: bool = False

    def of(self, side: str) -> dict[str, list[Sample]]:
        """Return the samples of a side by row, floors and ceilings included."""
        return {
            cell.row: taken for cell, taken in self.samples.items() if cell.side in (side, SHARED)
        }

    def is_out(self, cell: Cell) -> bool:
        return cell in self.skipped or cell in self.failed


class Figure(NamedTuple):
    """The measure a row is judged by, and its ratio in each round; below 1 is better."""

    basis: str
    ratios: list[float]


def figure(ours: Sequence[Sample], theirs: Sequence[Sample]) -> Figure:
    """Compare CPU time, or without it the p99, or the time per operation."""
    pairs = list(zip(ours, theirs, strict=False))
    if all(one.cpu_us and other.cpu_us for one, other in pairs):
        return Figure("CPU", [(a.cpu_us or 0) / (b.cpu_us or 1) for a, b in pairs])
    if all(one.p99_ms and other.p99_ms for one, other in pairs):
        return Figure("p99", [(a.p99_ms or 0) / (b.p99_ms or 1) for a, b in pairs])
    return Figure("1 / rate", [b.rate / a.rate for a, b in pairs])


def select(rows: Iterable[str], pattern: str) -> list[str]:
    """Return the names that match the regular expression. Raises SystemExit if none does."""
    names = list(dict.fromkeys(rows))
    try:
        found = [name for name in names if re.search(pattern, name)]
    except re.error as error:
        raise SystemExit(f"--rows: {pattern!r} is not a regular expression: {error}") from error
    if not found:
        raise SystemExit("\n".join([f"no row matches {pattern!r}; there are:", *names]))
    return found


def rows_of(servers: Servers, suites: Sequence[Suite]) -> dict[Cell, Row]:
    """Return every row of every side, in the order of a round."""
    first = {Cell(name, SHARED): row for name, row in servers.rows().items()}
    last = {Cell(name, SHARED): row for name, row in servers.rows_at_half_load().items()}
    own = {
        Cell(name, suite.side.name): row for suite in suites for name, row in suite.rows().items()
    }
    return {**first, **own, **last}


class Run:
    """Runs every row ``rounds`` times; with several sides, more often until it has a verdict."""

    def __init__(
        self,
        rows: Mapping[Cell, Row],
        sides: Sequence[str],
        names: Sequence[str],
        *,
        rounds: int,
        rounds_max: int = ROUNDS_MAX,
        seconds: int,
        deadline: float = float("inf"),
        settle: Callable[[], None] = lambda: None,
        counted: Callable[[str], None] = lambda _side: None,
    ) -> None:
        """Call ``settle`` before each round, and ``counted`` after a side's round trips."""
        self.results = Results()
        self._rows = rows
        self._sides = sides
        self._names = names
        self._rounds = rounds
        self._rounds_max = rounds_max
        self._seconds = seconds
        self._deadline = deadline
        self._settle = settle
        self._counted = counted

    def __call__(self) -> Results:
        self._count_trips()
        number = 0
        while (names := self._open(number)) and not self.results.ran_out_of_time:
            number += 1
            started = time.monotonic()
            self._settle()
            for name in names:
                if number > 1 and time.monotonic() > self._deadline:
                    self.results.ran_out_of_time = True
                    break
                self._measure_row(name, number)
            self._print_time(number, time.monotonic() - started)
        return self.results

    def _open(self, done: int) -> list[str]:
        """Return the rows that need another round after ``done`` rounds."""
        if done < self._rounds:
            return list(self._names)
        return [name for name in self._names if self._needs_round(name)]

    def _needs_round(self, name: str) -> bool:
        return any(
            needs_round(found.ratios, rounds_max=self._rounds_max)
            for found in self._figures(name)
            if found
        )

    def _figures(self, name: str) -> list[Figure | None]:
        """Compare this side with each other one; None if either has no samples of the row."""
        cells = [Cell(name, side) for side in self._sides]
        taken = [None if self.results.is_out(c) else self.results.samples.get(c) for c in cells]
        ours = taken[0]
        return [figure(ours, theirs) if ours and theirs else None for theirs in taken[1:]]

    def _measure_row(self, name: str, number: int) -> None:
        for cell in self._cells(name, number):
            if self.results.is_out(cell):
                continue
            try:
                sample = self._rows[cell].measure(self._seconds)
            except Lacking as lacking:
                self._skip(cell, lacking)
            except Exception as error:  # noqa: BLE001 -- the other rows are still worth running
                self._fail(cell, error)
            else:
                self.results.samples[cell].append(sample)
                print(f"{number:>2}  {_progress(cell, sample)}", flush=True)
        self._print_ratios(name, number)

    def _cells(self, name: str, number: int) -> list[Cell]:
        """Return the row of each side, in an order that changes from round to round."""
        if Cell(name, SHARED) in self._rows:
            return [Cell(name, SHARED)]
        cells = [Cell(name, side) for side in self._sides]
        return cells if number % 2 else cells[::-1]

    def _count_trips(self) -> None:
        """Count before the measured rounds, which it warms up."""
        for side in self._sides:
            for name in self._names:
                cell = Cell(name, side)
                row = self._rows.get(cell)
                if row is None or row.trips is None:
                    continue
                try:
                    self.results.trips[cell] = trips = row.trips(TRIPS_S)
                except Lacking as lacking:
                    self._skip(cell, lacking)
                except Exception as error:  # noqa: BLE001 -- the row itself can still be measured
                    self._fail(Cell(f"round trips of {name}", side), error)
                else:
                    print(f" -  {_label(cell)}{trips:10.3f} round trips", flush=True)
            self._counted(side)

    def _skip(self, cell: Cell, lacking: Lacking) -> None:
        self.results.skipped[cell] = str(lacking)
        print(f" -  {_label(cell)}skipped: {lacking}", flush=True)

    def _fail(self, cell: Cell, error: Exception) -> None:
        self.results.failed[cell] = f"{type(error).__name__}: {error}"
        print(f" -  {_label(cell)}FAILED: {self.results.failed[cell]}", flush=True)

    def _print_time(self, number: int, took_s: float) -> None:
        left_s = self._deadline - time.monotonic()
        left = f", {max(0.0, left_s) / 60:.1f} minutes left" if left_s < float("inf") else ""
        print(f"{number:>2}  round of {took_s / 60:.1f} minutes{left}", flush=True)

    def _print_ratios(self, name: str, number: int) -> None:
        for side, found in zip(self._sides[1:], self._figures(name), strict=True):
            if found:
                interval = median_interval(found.ratios)
                ratio = f"{found.basis} {interval.median:.3f} ± {interval.spread:.1f} %"
                print(f"{number:>2}  {name:<60}{self._sides[0]}/{side}: {ratio}", flush=True)


def a_second(rate: float) -> str:
    """Format a rate, slow ones with a decimal."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"


def _label(cell: Cell) -> str:
    return f"{cell.row:<60}{cell.side:<16}"


def _progress(cell: Cell, sample: Sample) -> str:
    cpu = "" if sample.cpu_us is None else f"{sample.cpu_us:10,.0f} us CPU"
    p99 = "" if sample.p99_ms is None else f"  p99 {sample.p99_ms:.1f} ms"
    return f"{_label(cell)}{a_second(sample.rate):>10}/s{cpu}{p99}"
