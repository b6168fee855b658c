"""Print the ten slowest tests and files of a large run, so that slow ones are noticed."""

from collections import Counter
from typing import Final

import pytest

SHOWN: Final = 10
MANY: Final = 100
"""Runs of fewer tests print nothing."""


def slowest(durations: Counter[str]) -> list[str]:
    """Return a line with seconds and name for each of the slowest."""
    return [f"{seconds:8.2f} s  {name}" for name, seconds in durations.most_common(SHOWN)]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    tests: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                tests[report.nodeid] += report.duration  # type: ignore[assignment]
    if len(tests) < MANY:
        return
    files: Counter[str] = Counter()
    for name, seconds in tests.items():
        files[name.partition("::")[0]] += seconds
    for title, durations in (("tests", tests), ("files", files)):
        terminalreporter.section(f"slowest {title}")
        for line in slowest(durations):
            terminalreporter.write_line(line)
