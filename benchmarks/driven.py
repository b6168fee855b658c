"""Rows without HTTP: a side's own code, run in a process of that side."""

import contextlib
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec

from benchmarks.accounting import Usage
from benchmarks.limiters import SUBJECTS
from benchmarks.scenes import MANY_DUE, SCENES
from benchmarks.servers import Row, Servers
from benchmarks.sides import Done, Side
from benchmarks.trips import counting
from benchmarks.wallets import SCHOOL, USERS
from benchmarks.wrk import Sample

_PLAIN = str.maketrans(" ", "_", ",")
"""Makes the name of a shape one of a database."""


class Driven:
    """Rows that call the loads in a side's ``benchmarks``."""

    def __init__(self, folder: Path, side: Side, servers: Servers) -> None:
        self._folder = folder
        self._side = side
        self._servers = servers
        self._filled: set[str] = set()

    def scene(self, engine: str, name: str) -> Row:
        """Consume through the committer from the organisation of a scene."""
        how: dict[str, object] = {"policy": SCENES[name].policy}
        if name == MANY_DUE:  # the first consumption records what is due
            how["once"] = True
        return self.in_process(engine, name, **how)

    def in_process(self, engine: str, shape: str, **how: object) -> Row:
        """Consume through the committer, or with the options ``how``.

        ``shape`` is hot, spread or a scene.
        """
        if engine == "SQLite":
            return Row(partial(self._on_sqlite, shape, how))
        return Row(
            partial(self._on_postgres, shape, how), partial(self._trips_on_postgres, shape, how)
        )

    def limiter(self, kind: str, shape: str) -> Row:
        """Read rate-limit windows in memory or in Redis."""
        return Row(partial(self._limiter, kind, SUBJECTS if shape == "spread" else 1))

    def _on_sqlite(self, shape: str, how: dict[str, object], seconds: int) -> Sample:
        name = self._name(shape)
        template = self._folder / f"{name}.db"
        self._fill_once(f"sqlite:///{template}", shape)
        copy = self._folder / f"{name}_run.db"
        shutil.copy(template, copy)
        try:
            return self._consume(f"sqlite:///{copy}", shape, how, seconds)
        finally:
            for file in self._folder.glob(f"{copy.name}*"):
                file.unlink()

    def _on_postgres(self, shape: str, how: dict[str, object], seconds: int) -> Sample:
        with self._database(shape) as url:
            usage = Usage()
            metered = self._servers.observer.metered(usage, url)
            return usage.of(self._consume(url, shape, how, seconds, metered))

    def _trips_on_postgres(self, shape: str, how: dict[str, object], seconds: int) -> float:
        with self._database(shape) as url, counting(url) as counter:
            sample = self._consume(counter.url, shape, how, seconds, counter.lap())
            return counter.turns / sample.operations

    @contextlib.contextmanager
    def _database(self, shape: str) -> Iterator[str]:
        """Yield a copy of the filled database, so that every round starts from the same state."""
        servers, name = self._servers.postgres, self._name(shape)
        if servers.url(name) not in self._filled:
            servers.create_database(name)
        self._fill_once(servers.url(name), shape)
        yield servers.create_database(f"{name}_run", template=name)
        servers.drop_database(f"{name}_run")

    def _fill_once(self, url: str, shape: str) -> None:
        if url in self._filled:
            return
        if shape in SCENES:
            self._side.call("benchmarks.scenes:fill_scene", url=url, scene=shape)
        else:
            self._side.fill(
                url, schools={SCHOOL: 1} if shape == "hot" else {}, users=shape == "spread"
            )
        self._filled.add(url)

    def _consume(
        self,
        url: str,
        shape: str,
        how: dict[str, object],
        seconds: int,
        metered: contextlib.AbstractContextManager[object] | None = None,
    ) -> Sample:
        with self._side.prepared(
            "benchmarks.in_process:in_process_load",
            "_measured",
            url=url,
            subjects=USERS if shape == "spread" else 1,
            seconds=seconds,
            **how,
        ) as call:
            return _sample(call.run(metered), seconds)

    def _limiter(self, kind: str, subjects: int, seconds: int) -> Sample:
        where = {"url": self._servers.redis.url} if kind == "redis" else {}
        with self._side.prepared(
            f"benchmarks.limiters:{kind}_load",
            "_look",
            **where,
            subjects=subjects,
            seconds=seconds,
        ) as call:
            return _sample(call.run(), seconds)

    def _name(self, shape: str) -> str:
        return f"bench{self._side.number}_in_process_{shape.translate(_PLAIN)}"


def _sample(done: Done, seconds: int) -> Sample:
    """Return the sample of the load with the CPU time of its process.

    Older releases return no count, and a rate that includes the last operation, which ends about
    one latency after the window: the count follows from both.
    """
    sample = msgspec.json.decode(done.value, type=Sample)
    lasted_s = seconds + (sample.p50_ms or 0) / 1000
    operations = sample.operations or sample.rate * lasted_s
    return msgspec.structs.replace(
        sample, operations=operations, service_us=done.cpu_s * 1e6 / operations
    )
