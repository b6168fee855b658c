"""Captures the log events of the use cases."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _Keeper(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if event := getattr(record, "event", None):
            self.lines.append({"event": event, **getattr(record, "fields", {})})


@contextmanager
def captured_logs() -> Iterator[list[dict[str, Any]]]:
    """Yield the list of this package's events logged during the block, from INFO on."""
    ours = logging.getLogger("entitlements")
    keeper, level = _Keeper(), ours.level
    ours.addHandler(keeper)
    ours.setLevel(logging.INFO)
    try:
        yield keeper.lines
    finally:
        ours.removeHandler(keeper)
        ours.setLevel(level)
