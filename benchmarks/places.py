"""The services of one side: each on its own database, started when a row first needs it."""

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.history import LONG, SHORT, Shape, fill_history
from benchmarks.renewals import Renewals
from benchmarks.servers import Row, Servers
from benchmarks.service import Service, running_service
from benchmarks.sides import Side
from benchmarks.started import Started
from benchmarks.trips import Counter, counting
from benchmarks.wallets import SCHOOL
from benchmarks.wrk import Sample

POSTGRES, SQLITE, REDIS = "PostgreSQL", "SQLite", "PostgreSQL and Redis"
HISTORY_OF = {POSTGRES: "PostgreSQL, long history", SQLITE: "SQLite, long history"}
FEATURES = {POSTGRES: "PostgreSQL, features", SQLITE: "SQLite, features"}
RENEWALS = "PostgreSQL, renewals"
MILLION = "PostgreSQL, 1,000,000 wallets"
WALLETS_BY_GRANTS = {1: "one-grant", 50: "fifty-grants", 10_000: "many-grants"}
MILLION_WALLETS = 1_000_000
OPERATIONS = 4_000_000
DUE_AT_ONCE, DUE_AT_ONCE_QUICK = 100_000, 2_000
VERIFIED_MAX = 1_000_000
"""The longest history that is verified; a longer one would take minutes."""

Load = Callable[[Service, int], Sample]
"""Sends requests to a service for some seconds."""


class Places:
    """Starts the services, and runs loads on them."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        folder: Path,
        side: Side,
        servers: Servers,
        *,
        operations: int,
        renewals: int,
    ) -> None:
        self.notes: list[str] = []
        self._stack = stack
        self._folder = folder
        self._side = side
        self._servers = servers
        self._operations = operations
        self._renewals = renewals
        self._services = Started(self._start)
        self._counted = contextlib.ExitStack()
        self._counters: dict[str, tuple[Service, Counter]] = {}
        stack.push(self._counted)

    def row(self, place: str, send: Load) -> Row:
        """Return a row that loads the service, and counts round trips if it has PostgreSQL."""
        has_postgres = not place.startswith(SQLITE)
        trips = partial(self.trips, place, send) if has_postgres else None
        return Row(partial(self.measure, place, send), trips)

    def run(self, place: str, send: Load, seconds: int) -> Sample:
        """Load the service without measuring its cost."""
        return send(self._services[place], seconds)

    def measure(self, place: str, send: Load, seconds: int) -> Sample:
        service = self._services[place]
        with service.metered() as usage:
            sample = send(service, seconds)
        return usage.of(sample)

    def renewals(self) -> Renewals:
        """Return the renewals in a service of their own."""
        note = f"{self._renewals:,} renewals due at once"
        if note not in self.notes:
            self.notes.append(note)
        return Renewals(self._services[RENEWALS], self._servers.observer, self._renewals)

    def trips(self, place: str, send: Load, seconds: int) -> float:
        """Return the round trips per operation, from a second process of the service by a proxy."""
        if place not in self._counters:
            service = self._services[place]
            counter = self._counted.enter_context(counting(service.database_url))
            second = self._counted.enter_context(service.again(counter.url))
            self._counters[place] = (second, counter)
        second, counter = self._counters[place]
        with counter.lap():
            sample = send(second, seconds)
        return counter.turns / sample.operations

    def stop_counting(self) -> None:
        """End the second processes."""
        self._counters.clear()
        self._counted.close()

    def memory(self) -> dict[str, tuple[int, int]]:
        """Return the idle and the highest megabytes of the services that were started."""
        return {
            place: (service.idle_mb, service.peak_mb) for place, service in self._services.items()
        }

    def _start(self, place: str) -> Service:
        if place == POSTGRES:
            schools = {SCHOOL: 1} | {org: grants for grants, org in WALLETS_BY_GRANTS.items()}
            return self._run(self._postgres("service"), schools=schools)
        if place == SQLITE:
            return self._run(self._sqlite("service"))
        if place == REDIS:
            settings = {"ENTITLEMENTS_REDIS_URL": self._servers.redis.url}
            return self._run(self._postgres("service_and_redis"), settings=settings)
        if place in (RENEWALS, *FEATURES.values()):
            name = "renewals" if place == RENEWALS else "features"
            return self._run(self._url(place, name), has_feature=name == "features")
        if place == MILLION:
            each = self._operations // MILLION_WALLETS
            shape = Shape("user-", MILLION_WALLETS, each, 1)
            return self._run(self._postgres("million"), shape, users=False)
        return self._run(self._url(place, "history"), SHORT, LONG)

    def _run(
        self,
        url: str,
        *histories: Shape,
        schools: dict[str, int] | None = None,
        users: bool = True,
        has_feature: bool = False,
        settings: dict[str, str] | None = None,
    ) -> Service:
        self._side.fill(url, schools=schools or {SCHOOL: 1}, users=users)
        if has_feature:
            self._side.call("benchmarks.scenes:give_feature", url=url)
        written = sum(shape.wallets * shape.operations for shape in histories)
        is_verified = written <= VERIFIED_MAX
        if histories:
            took_s = fill_history(self._side, url, *histories)
            note = f"history of {written:,} operations written in {took_s:.0f} s"
            self.notes.append(note if is_verified else f"{note}, not verified after the loads")
            print(f"{self._side.name}: {note}", flush=True)
        running = running_service(
            self._side,
            url,
            observer=None if url.startswith("sqlite:") else self._servers.observer,
            settings=settings,
            verified=is_verified,
        )
        return self._stack.enter_context(running)

    def _url(self, place: str, name: str) -> str:
        return self._sqlite(name) if place.startswith(SQLITE) else self._postgres(name)

    def _postgres(self, name: str) -> str:
        return self._servers.postgres.create_database(f"bench{self._side.number}_{name}")

    def _sqlite(self, name: str) -> str:
        return f"sqlite:///{self._folder / name}.db"
