"""Every measure by name; what a measure needs is started when it first runs."""

import asyncio
import contextlib
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path

import asyncpg

from benchmarks import ceiling, floors
from benchmarks.brokered import Brokered
from benchmarks.in_process import in_process_load
from benchmarks.limiters import SUBJECTS, memory_load, redis_load
from benchmarks.paced import paced_load
from benchmarks.service import WALLETS_BY_GRANTS, Service, running_service
from benchmarks.wallets import SCHOOL, USERS, fill, school, users
from benchmarks.wrk import Sample, load
from tests.servers import Postgres, PostgresServer, RedisServer

HOT, SPREAD = SCHOOL, str(USERS)
SHAPES = {"hot": HOT, "spread": SPREAD}
ENGINES = {
    "PostgreSQL": "_on_postgres",
    "SQLite": "_on_sqlite",
    "PostgreSQL and Redis": "_on_redis",
}

# Room for the working set. Checkpoints come between rounds, as `settle` says, and keep the log's
# segments for use again, as they are on a server that has run for a while. Durability stays on.
POSTGRES_SETTINGS: dict[str, str | int] = {
    "fsync": "on",
    "synchronous_commit": "on",
    "shared_buffers": "'512MB'",
    "min_wal_size": "'4GB'",
    "max_wal_size": "'16GB'",
    "checkpoint_timeout": "'1h'",
}

Measure = Callable[[int], Sample]


class Suite:
    """The servers under test, and the measures that load them for some seconds."""

    def __init__(self, stack: contextlib.ExitStack, folder: Path) -> None:
        self._stack = stack
        self._folder = folder
        self._peaks: dict[str, float] = {}
        self._in_process_urls: dict[tuple[str, str], str] = {}
        self._brokered = Brokered(stack, lambda: self._postgres, self.settle)

    def measures(self) -> dict[str, Measure]:
        """Floors and ceilings first, then ours, each beside what it is compared with."""
        found: dict[str, Measure] = {}
        for shape, who in SHAPES.items():
            found[f"framework ceiling, {shape}"] = partial(self._ceiling, who)
            subjects = USERS if shape == "spread" else 1
            found[f"pgbench same writes, {shape}"] = partial(self._floor, "same_writes", subjects)
            found[f"pgbench lean, {shape}"] = partial(self._floor, "lean", subjects)
        for engine in ("PostgreSQL", "SQLite"):
            for kind in ("check", "consume"):
                for shape, who in SHAPES.items():
                    name = f"{kind}, {shape}, {engine}"
                    found[name] = partial(self._load, name, engine, kind, who)
            for shape in SHAPES:
                name = f"consume in process, {shape}, {engine}"
                found[name] = partial(self._in_process, engine, shape)
                name = f"consume embedded, {shape}, {engine}"
                found[name] = partial(self._in_process, engine, shape, embedded=True)
        for shape, who in SHAPES.items():
            name = f"hold and settle, {shape}, PostgreSQL"
            found[name] = partial(self._load, name, "PostgreSQL", "hold", who)
        found["explain, hot, PostgreSQL"] = partial(
            self._load, "explain, hot, PostgreSQL", "PostgreSQL", "explain", HOT
        )
        for shape, who in SHAPES.items():
            name = f"check, {shape}, PostgreSQL and Redis"
            found[name] = partial(self._load, name, "PostgreSQL and Redis", "check", who)
            subjects = SUBJECTS if shape == "spread" else 1
            found[f"memory limiter, 3 windows, {shape}"] = partial(self._memory, subjects)
            found[f"Redis limiter, 3 windows, {shape}"] = partial(self._redis_limiter, subjects)
        for grants, org in WALLETS_BY_GRANTS.items():
            name = f"consume, wallet of {grants:,} grants, PostgreSQL"
            found[name] = partial(self._load, name, "PostgreSQL", "consume", org)
        for kind in ("check", "consume"):
            found[f"{kind}, half load, PostgreSQL"] = partial(self._half_load, kind)
        found["pgbench same writes, at that rate"] = self._floor_at_half_load
        reported = {
            f"reported use in process, {shape}, PostgreSQL": partial(
                self._in_process, "PostgreSQL", shape, reported=True
            )
            for shape in SHAPES
        }
        return {**found, **reported, **self._brokered.measures()}

    def settle(self) -> None:
        """Write down what the round before has left in memory; the next one starts like it."""
        if "_postgres" in self.__dict__:
            asyncio.run(_checkpoint(self._postgres.admin_url))

    def memory(self) -> dict[str, tuple[int, int]]:
        """Idle and highest megabytes of the services that were started."""
        started = {engine: name for engine, name in ENGINES.items() if name in self.__dict__}
        services: dict[str, Service] = {e: getattr(self, name) for e, name in started.items()}
        return {engine: (one.idle_mb, one.peak_mb) for engine, one in services.items()}

    @cached_property
    def _postgres(self) -> Postgres:
        return self._stack.enter_context(PostgresServer(POSTGRES_SETTINGS))

    @cached_property
    def _floor_url(self) -> str:
        return floors.prepare(self._postgres)

    @cached_property
    def _ceiling_url(self) -> str:
        return self._stack.enter_context(ceiling.running_ceiling())

    @cached_property
    def _on_postgres(self) -> Service:
        url = self._postgres.create_database("bench_service")
        return self._stack.enter_context(running_service(url, many_grants=True))

    @cached_property
    def _on_sqlite(self) -> Service:
        url = f"sqlite:///{self._folder / 'bench.db'}"
        return self._stack.enter_context(running_service(url, many_grants=False))

    @cached_property
    def _redis(self) -> RedisServer:
        return self._stack.enter_context(RedisServer())

    @cached_property
    def _on_redis(self) -> Service:
        url = self._postgres.create_database("bench_service_and_redis")
        limited = running_service(url, many_grants=False, redis_url=self._redis.url)
        return self._stack.enter_context(limited)

    def _redis_limiter(self, subjects: int, seconds: int) -> Sample:
        return redis_load(self._redis.url, subjects=subjects, seconds=seconds)

    def _memory(self, subjects: int, seconds: int) -> Sample:
        return memory_load(subjects=subjects, seconds=seconds)

    def _ceiling(self, who: str, seconds: int) -> Sample:
        return load(self._ceiling_url, "check", who=who, seconds=seconds)

    def _floor(self, script: str, subjects: int, seconds: int) -> Sample:
        return floors.pgbench(self._floor_url, script, subjects=subjects, seconds=seconds)

    def _floor_at_half_load(self, seconds: int) -> Sample:
        """How long the database's own load generator waits where ours is judged."""
        rate = round(self._peaks.get("consume, spread, PostgreSQL", 2_000) / 2)
        self.settle()
        return floors.pgbench(
            self._floor_url, "same_writes", subjects=USERS, seconds=seconds, rate=rate
        )

    def _load(self, name: str, engine: str, kind: str, who: str, seconds: int) -> Sample:
        service: Service = getattr(self, ENGINES[engine])
        with service.watched():
            sample = load(service.url, kind, who=who, seconds=seconds, token=service.token)
        self._peaks[name] = sample.rate
        return sample

    def _in_process(self, engine: str, shape: str, seconds: int, **how: bool) -> Sample:
        name = f"bench_in_process_{shape}"
        url = self._in_process_urls.get((engine, shape))
        if url is None:
            url = f"sqlite:///{self._folder / name}.db"
            if engine == "PostgreSQL":
                url = self._postgres.create_database(name)
            asyncio.run(fill(url, [school()] if shape == "hot" else users()))
            self._in_process_urls[engine, shape] = url
        subjects = USERS if shape == "spread" else 1
        return in_process_load(url, subjects=subjects, seconds=seconds, **how)

    def _half_load(self, kind: str, seconds: int) -> Sample:
        name = f"{kind}, spread, PostgreSQL"
        if name not in self._peaks:
            self._load(name, "PostgreSQL", kind, SPREAD, seconds)
        service = self._on_postgres
        # Latency is not judged while the disk is busy with what the loads before have left.
        self.settle()
        return paced_load(
            service.url,
            kind,
            who=SPREAD,
            rate=self._peaks[name] / 2,
            seconds=seconds,
            token=service.token,
        )


async def _checkpoint(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("CHECKPOINT", timeout=120)
    finally:
        await connection.close()
