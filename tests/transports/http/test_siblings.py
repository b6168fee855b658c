"""Merged metrics of several processes."""

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from entitlements.observe.siblings import MergedMetrics, giving, merged


def text(*, requests: int = 0, **gauges: float) -> bytes:
    registry = CollectorRegistry()
    counter = Counter("requests", "Requests.", ["route"], registry=registry)
    counter.labels('/a"\n').inc(requests)
    seconds = Histogram("seconds", "Seconds.", registry=registry, buckets=(1, 2))
    for _ in range(requests):
        seconds.observe(1.5)
    for name, value in gauges.items():
        Gauge(name, "A gauge.", registry=registry).set(value)
    return generate_latest(registry)


def lines(merged_text: bytes) -> set[str]:
    return {line for line in merged_text.decode().splitlines() if "_created" not in line}


def test_counters_and_histograms_are_summed() -> None:
    found = lines(merged([text(requests=2), text(requests=3)]))

    assert {
        'requests_total{route="/a\\"\\n"} 5.0',
        'seconds_bucket{le="1.0"} 0.0',
        'seconds_bucket{le="2.0"} 5.0',
        "seconds_count 5.0",
        "seconds_sum 7.5",
        "# TYPE requests_total counter",
    } <= found


@pytest.mark.parametrize(
    ("gauge", "value"),
    [
        ("entitlements_commands_waiting", 5.0),
        ("entitlements_database_pool_connections", 5.0),
        ("entitlements_outbox_depth", 3.0),
        ("entitlements_limiter_degraded", 3.0),
        ("entitlements_consumer_running", 2.0),
    ],
)
def test_a_gauge_of_shared_state_is_not_summed(gauge: str, value: float) -> None:
    assert f"{gauge} {value}" in lines(merged([text(**{gauge: 2}), text(**{gauge: 3})]))


async def test_counters_of_ended_processes_stay_but_not_their_gauges(tmp_path: Path) -> None:
    together = MergedMetrics()
    first, second = tmp_path / "1", tmp_path / "2"

    async def of_first() -> bytes:
        return text(requests=2, entitlements_commands_waiting=7)

    async def of_second() -> bytes:
        return text(requests=3, entitlements_commands_waiting=1)

    async with giving(second, of_second):
        async with giving(first, of_first):
            await together.text([first, second])
        together.ended(first)
        found = lines(await together.text([second]))

    assert 'requests_total{route="/a\\"\\n"} 5.0' in found
    assert "entitlements_commands_waiting 1.0" in found
    assert 'requests_total{route="/a\\"\\n"} 5.0' in lines(await together.text([second])), (
        "a process that does not respond keeps its last values"
    )
