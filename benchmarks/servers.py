"""Servers that all sides share, started on first use, and the floors that run on them."""

import contextlib
import subprocess
from collections.abc import Callable
from functools import cached_property, partial
from typing import NamedTuple

from benchmarks import ceiling, floors
from benchmarks.accounting import Observer, metered
from benchmarks.paced import paced_load
from benchmarks.peaks import Peaks
from benchmarks.wallets import SCHOOL, USERS
from benchmarks.wrk import NO_TOKEN, Sample, load
from tests.kafka import STEADY, KafkaServer
from tests.servers import PostgresServer, RedisServer

SHAPES = {"hot": SCHOOL, "spread": str(USERS)}
"""The payers: one organisation, or a number of users."""
SPREAD = SHAPES["spread"]

# Room for the working set. Vacuum and checkpoints run between rounds, in `settle`: during a round
# they would be charged to the row that happens to run. WAL segments are kept for reuse, as on a
# server that has run for a while. Durability stays on.
POSTGRES_SETTINGS: dict[str, str | int] = {
    "fsync": "on",
    "synchronous_commit": "on",
    "shared_buffers": "'512MB'",
    "min_wal_size": "'4GB'",
    "max_wal_size": "'16GB'",
    "checkpoint_timeout": "'1h'",
    "autovacuum": "off",
}

Measure = Callable[[int], Sample]


class Row(NamedTuple):
    """A measurement over some seconds, and a count of round trips per operation if possible."""

    measure: Measure
    trips: Callable[[int], float] | None = None


class Servers:
    """PostgreSQL, Redis and Kafka, and the rows that belong to no side."""

    def __init__(self, stack: contextlib.ExitStack, peaks: Peaks) -> None:
        self._stack = stack
        self._peaks = peaks

    def rows(self) -> dict[str, Row]:
        """Floors and ceilings."""
        found: dict[str, Measure] = {}
        for shape, who in SHAPES.items():
            found[f"framework ceiling, {shape}"] = partial(self._ceiling, who)
            subjects = USERS if shape == "spread" else 1
            found[f"pgbench same writes, {shape}"] = partial(self._floor, "same_writes", subjects)
            found[f"pgbench lean, {shape}"] = partial(self._floor, "lean", subjects)
        return {name: Row(measure) for name, measure in found.items()}

    def rows_at_half_load(self) -> dict[str, Row]:
        """Latency of floor and ceiling at the rates at which the service is measured."""
        return {
            "framework ceiling, at that rate": Row(self._ceiling_at_half_load),
            "pgbench same writes, at that rate": Row(self._floor_at_half_load),
        }

    def settle(self) -> None:
        """Vacuum and checkpoint, so that each round starts from the same state."""
        if "postgres" in self.__dict__:
            self.observer.vacuum()
            self.observer.checkpoint()

    @cached_property
    def postgres(self) -> PostgresServer:
        server = PostgresServer(POSTGRES_SETTINGS)
        self._stack.callback(_end, server)
        server.start()
        return server

    @cached_property
    def observer(self) -> Observer:
        return self._stack.enter_context(contextlib.closing(Observer(self.postgres)))

    @cached_property
    def redis(self) -> RedisServer:
        return self._stack.enter_context(RedisServer())

    @cached_property
    def kafka(self) -> KafkaServer:
        return self._stack.enter_context(KafkaServer(java=STEADY))

    @cached_property
    def _floor_url(self) -> str:
        return floors.prepare(self.postgres)

    @cached_property
    def _running_ceiling(self) -> tuple[str, Callable[[], float]]:
        return self._stack.enter_context(ceiling.running_ceiling())

    def _ceiling(self, who: str, seconds: int) -> Sample:
        url, cpu_s = self._running_ceiling
        with metered(cpu_s, None, url="") as usage:
            sample = load(url, "check", who=who, seconds=seconds)
        return usage.of(sample)

    def _ceiling_at_half_load(self, seconds: int) -> Sample:
        url, cpu_s = self._running_ceiling
        rate = self._peaks.half("check, spread, PostgreSQL", seconds)
        with metered(cpu_s, None, url="") as usage:
            sample = paced_load(
                url, "check", who=SPREAD, rate=rate, seconds=seconds, token=NO_TOKEN
            )
        return usage.of(sample)

    def _floor(
        self, script: str, subjects: int, seconds: int, *, rate: int | None = None
    ) -> Sample:
        url = self._floor_url
        with metered(lambda: 0, self.observer, url=url) as usage:
            sample = floors.pgbench(url, script, subjects=subjects, seconds=seconds, rate=rate)
        usage.service_s = None
        return usage.of(sample)

    def _floor_at_half_load(self, seconds: int) -> Sample:
        rate = round(self._peaks.half("consume, spread, PostgreSQL", seconds))
        self.settle()
        return self._floor("same_writes", USERS, seconds, rate=rate)


def _end(server: PostgresServer) -> None:
    """Stop without a last checkpoint of gigabytes, and do not wait until files are removed."""
    with contextlib.suppress(FileNotFoundError):
        server.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.close()
