"""The rates at which latency is measured: the same for all sides."""

from collections import defaultdict
from collections.abc import Callable

from benchmarks.sides import Lacking
from benchmarks.wrk import Sample

Measures = Callable[[str, int], Sample]


class Peaks:
    """The latest peak rates of each side, from which paced rows derive their rate."""

    def __init__(self) -> None:
        self._rates: defaultdict[str, dict[str, float]] = defaultdict(dict)
        self._sides: dict[str, Measures] = {}

    def join(self, side: str, measure: Measures) -> None:
        """Register a side; ``measure`` runs a row whose rate is not known yet."""
        self._sides[side] = measure

    def note(self, side: str, row: str, rate: float) -> None:
        self._rates[row][side] = rate

    def half(self, row: str, seconds: int) -> float:
        """Return half of the lowest rate over the sides that have the row. Raises Lacking."""
        for side, measure in self._sides.items():
            if side not in self._rates[row]:
                try:
                    self.note(side, row, measure(row, seconds).rate)
                except Lacking:
                    self.note(side, row, float("inf"))
        lowest = min(self._rates[row].values(), default=float("inf"))
        if lowest == float("inf"):
            raise Lacking(f"no side has the row {row}")
        return lowest / 2
