"""CPU time, batches and costs per operation."""

import pytest

from benchmarks.accounting import ServerCpu, Titled, Usage, mean_size, spent_s, titled
from benchmarks.wrk import Sample


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("postgres: me bench 127.0.0.1(40312) idle", Titled("me", "bench")),
        ("postgres: me bench [local] SELECT", Titled("me", "bench")),
        ("postgres: autovacuum worker bench", Titled("", "bench")),
        ("postgres: checkpointer ", None),
        ("postgres: logical replication launcher ", None),
        ("postgres: autovacuum launcher ", None),
    ],
)
def test_a_title_names_the_database_that_a_process_works_for(
    title: str, expected: Titled | None
) -> None:
    assert titled(title) == expected


def test_cpu_time_is_the_difference_of_two_readings() -> None:
    before, after = ServerCpu(2.0, {7: 1.0}), ServerCpu(3.5, {7: 9.0})

    assert spent_s(before, after) == pytest.approx(1.5)


def test_cpu_time_of_an_ended_process_of_another_database_is_not_counted() -> None:
    before, after = ServerCpu(2.0, {7: 1.0}), ServerCpu(4.5, {})

    assert spent_s(before, after) == pytest.approx(1.5)


def test_the_batch_size_is_that_of_the_batches_in_between() -> None:
    before, after = {"sum": 100.0, "count": 10.0}, {"sum": 400.0, "count": 20.0}

    assert mean_size(before, after) == pytest.approx(30)
    assert mean_size(after, after) is None


def test_costs_are_given_per_operation() -> None:
    usage = Usage(service_s=2.0, postgres_s=1.0, wal_bytes=4_000, batch_size=30)

    sample = usage.of(Sample(rate=1, operations=1_000))

    assert (sample.service_us, sample.postgres_us, sample.wal_bytes) == (2_000, 1_000, 4)
    assert sample.cpu_us == pytest.approx(3_000)


def test_values_that_were_not_measured_stay_none() -> None:
    sample = Usage(service_s=1.0).of(Sample(rate=1, operations=100))

    assert (sample.postgres_us, sample.wal_bytes, sample.batch_size) == (None, None, None)
