"""The rates at which latency is judged: one for all sides, so that they carry the same load."""

from collections import defaultdict
from collections.abc import Callable

from benchmarks.sides import Lacking
from benchmarks.wrk import Sample

Measures = Callable[[str, int], Sample]


class Peaks:
    """The latest rates of rows that others are paced by, for each side."""

    def __init__(self) -> None:
        self._rates: defaultdict[str, dict[str, float]] = defaultdict(dict)
        self._sides: dict[str, Measures] = {}

    def join(self, side: str, measure: Measures) -> None:
        """``measure`` runs a row of the side whose rate nobody has measured yet."""
        self._sides[side] = measure

    def note(self, side: str, row: str, rate: float) -> None:
        self._rates[row][side] = rate

    def half(self, row: str, seconds: int) -> float:
        """Half of the lowest rate over the sides that have the row. Raises Lacking."""
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
