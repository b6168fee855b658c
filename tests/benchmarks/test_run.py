"""Selection, repetition and order of benchmark rows."""

import pytest

from benchmarks.run import SHARED, Cell, Run, figure, select
from benchmarks.servers import Row
from benchmarks.sides import Lacking
from benchmarks.wrk import Sample

ROWS = ("check, hot", "consume, hot", "consume, spread")


class Cpu:
    """A row with a given CPU time per operation for each round; the last value repeats."""

    def __init__(self, log: list[str], name: str, *cpu_us: float) -> None:
        self._log = log
        self._name = name
        self._cpu_us = list(cpu_us)

    def __call__(self, _seconds: int) -> Sample:
        self._log.append(self._name)
        first = self._cpu_us[0]
        self._cpu_us = self._cpu_us[1:] or self._cpu_us
        return Sample(rate=1, service_us=first)


def lacks_the_route(_seconds: int) -> Sample:
    raise Lacking("no route for hold: 404")


def breaks(_seconds: int) -> Sample:
    raise RuntimeError("connection reset")


def run(
    rows: dict[Cell, Row],
    *,
    rounds: int = 5,
    rounds_max: int = 15,
    deadline: float = float("inf"),
) -> Run:
    running = Run(
        rows,
        ("this", "other"),
        list(dict.fromkeys(cell.row for cell in rows)),
        rounds=rounds,
        rounds_max=rounds_max,
        seconds=1,
        deadline=deadline,
    )
    running()
    return running


def test_rows_are_selected_by_a_regular_expression() -> None:
    assert select(ROWS, "^consume|spread") == ["consume, hot", "consume, spread"]
    assert select(ROWS, "") == list(ROWS)


def test_a_pattern_without_a_match_lists_the_rows() -> None:
    with pytest.raises(SystemExit, match=r"(?s)no row matches 'nothing'.*consume, spread"):
        select(ROWS, "nothing")


def test_an_invalid_regular_expression_is_named() -> None:
    with pytest.raises(SystemExit, match="not a regular expression"):
        select(ROWS, "(")


def test_sides_alternate_and_change_their_order_between_rounds() -> None:
    log: list[str] = []
    rows = {
        Cell("check", "this"): Row(Cpu(log, "this", 1)),
        Cell("check", "other"): Row(Cpu(log, "other", 1)),
    }

    run(rows, rounds=2, rounds_max=2)

    assert log[:4] == ["this", "other", "other", "this"]


def test_rounds_are_added_only_to_rows_with_an_uncertain_ratio() -> None:
    log: list[str] = []
    noisy = [1.0, 2.0] * 10
    rows = {
        Cell("sure", "this"): Row(Cpu(log, "sure", 1)),
        Cell("sure", "other"): Row(Cpu(log, "sure", 1)),
        Cell("noisy", "this"): Row(Cpu(log, "noisy", *noisy)),
        Cell("noisy", "other"): Row(Cpu(log, "noisy", 1)),
    }

    results = run(rows).results

    assert len(results.samples[Cell("sure", "this")]) == 5
    assert len(results.samples[Cell("noisy", "this")]) == 15


def test_no_rounds_are_added_when_the_time_is_up() -> None:
    log: list[str] = []
    rows = {
        Cell("check", "this"): Row(Cpu(log, "this", 1)),
        Cell("check", "other"): Row(Cpu(log, "other", 1)),
    }

    results = run(rows, deadline=0).results

    assert results.ran_out_of_time
    assert log == ["this", "other"]


def test_a_row_that_a_side_lacks_is_skipped_with_the_reason() -> None:
    log: list[str] = []
    rows = {
        Cell("hold", "this"): Row(Cpu(log, "this", 1)),
        Cell("hold", "other"): Row(lacks_the_route),
    }

    results = run(rows).results

    assert results.skipped == {Cell("hold", "other"): "no route for hold: 404"}
    assert not results.failed
    assert len(results.samples[Cell("hold", "this")]) == 5


def test_a_row_that_fails_is_named_with_its_side_and_the_others_continue() -> None:
    log: list[str] = []
    rows = {
        Cell("check", "this"): Row(breaks),
        Cell("check", "other"): Row(Cpu(log, "other", 1)),
        Cell("consume", "this"): Row(Cpu(log, "this", 1)),
        Cell("consume", "other"): Row(Cpu(log, "other", 1)),
    }

    results = run(rows).results

    assert results.failed == {Cell("check", "this"): "RuntimeError: connection reset"}
    assert len(results.samples[Cell("consume", "this")]) == 5


def test_a_row_that_sides_share_runs_once_a_round() -> None:
    log: list[str] = []

    run({Cell("ceiling", SHARED): Row(Cpu(log, "ceiling", 1))}, rounds=3)

    assert log == ["ceiling"] * 3


def test_cpu_time_is_compared_where_both_sides_have_it() -> None:
    ours = [Sample(rate=1, service_us=300, postgres_us=100, p99_ms=1)]
    theirs = [Sample(rate=1, service_us=600, postgres_us=200, p99_ms=1)]

    assert figure(ours, theirs) == ("CPU", [0.5])


def test_without_cpu_time_p99_is_compared_and_then_the_rate() -> None:
    assert figure([Sample(rate=1, p99_ms=2)], [Sample(rate=1, p99_ms=4)]) == ("p99", [0.5])
    assert figure([Sample(rate=200)], [Sample(rate=100)]) == ("1 / rate", [0.5])
