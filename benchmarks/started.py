"""Values that are started once, on first use."""

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Started(Generic[T]):
    """Values by name. An error is raised again instead of a second start, which would hide it."""

    def __init__(self, start: Callable[[str], T]) -> None:
        self._start = start
        self._results: dict[str, T | Exception] = {}

    def __getitem__(self, name: str) -> T:
        if name not in self._results:
            try:
                self._results[name] = self._start(name)
            except Exception as error:  # noqa: BLE001 -- raised below, and by later calls
                self._results[name] = error
        found = self._results[name]
        if isinstance(found, Exception):
            raise found
        return found

    def items(self) -> list[tuple[str, T]]:
        """Return the values that have started."""
        return [
            (name, found)
            for name, found in self._results.items()
            if not isinstance(found, Exception)
        ]
