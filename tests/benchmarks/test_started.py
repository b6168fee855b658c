"""Values that are started once."""

from itertools import count

import pytest

from benchmarks.started import Started


def test_a_value_is_started_once() -> None:
    numbers = count(1)
    started = Started(lambda name: f"{name} {next(numbers)}")

    assert started["one"] == started["one"] == "one 1"
    assert started.items() == [("one", "one 1")]


def test_a_failed_start_raises_its_error_each_time_and_is_not_repeated() -> None:
    attempts: list[str] = []

    def start(name: str) -> str:
        attempts.append(name)
        raise RuntimeError("the disk is full")

    started = Started(start)

    for _ in range(2):
        with pytest.raises(RuntimeError, match="the disk is full"):
            started["one"]
    assert attempts == ["one"]
    assert started.items() == []
