"""The service as users run it: a side's `entitlements serve` in its own process, with real keys."""

import contextlib
import subprocess
import threading
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec
import psutil

from benchmarks.accounting import Observer, Usage, metered, tree_cpu_s
from benchmarks.program import Program
from benchmarks.sides import Side, clean_environment
from tests.servers import free_port

MEGABYTE = 1_000_000


class Keys(NamedTuple):
    """Secrets of API keys: one may check and consume, the other reads the ledger."""

    service: str
    reader: str


class Service:
    """A running service: its URL, keys, cost and memory."""

    def __init__(
        self,
        side: Side,
        url: str,
        program: Program,
        *,
        environment: Mapping[str, str],
        keys: Keys,
        observer: Observer | None,
    ) -> None:
        self.side = side
        self.url = url
        self.keys = keys
        self.environment = environment
        self.idle_mb = 0
        self.peak_mb = 0
        self._program = program
        self._observer = observer
        self._note_memory()
        self.idle_mb = self.peak_mb

    @property
    def token(self) -> str:
        return self.keys.service

    @property
    def database_url(self) -> str:
        return self.environment["ENTITLEMENTS_DATABASE_URL"]

    @contextlib.contextmanager
    def metered(self) -> Iterator[Usage]:
        """Measure the cost of the block for service and database, and update ``peak_mb``."""
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.2):
                self._note_memory()

        watcher = threading.Thread(target=watch)
        watcher.start()
        metrics = f"{self.url}/metrics"
        try:
            with metered(
                lambda: tree_cpu_s(self._program.family()),
                self._observer,
                url=self.database_url,
                metrics=metrics,
            ) as usage:
                yield usage
        finally:
            done.set()
            watcher.join()

    def again(self, database_url: str) -> contextlib.AbstractContextManager["Service"]:
        """Run another process of this service on the same database, by another URL."""
        environment = {**self.environment, "ENTITLEMENTS_DATABASE_URL": database_url}
        return _served(self.side, environment, self.keys, None)

    def _note_memory(self) -> None:
        """Record the memory of the largest process."""
        with contextlib.suppress(psutil.NoSuchProcess):
            largest = max(process.memory_info().rss for process in self._program.family())
            self.peak_mb = max(self.peak_mb, largest // MEGABYTE)


@contextlib.contextmanager
def running_service(
    side: Side,
    database_url: str,
    *,
    observer: Observer | None = None,
    settings: Mapping[str, str] | None = None,
    verified: bool = True,
) -> Iterator[Service]:
    """Run a service on a filled database; record it if its ledger fails verification afterwards."""
    environment = {
        **clean_environment(),
        "ENTITLEMENTS_ACTOR": "bench",
        "ENTITLEMENTS_DATABASE_URL": database_url,
        "ENTITLEMENTS_SHUTDOWN_DELAY_S": "0",
        **(settings or {}),
    }
    keys = Keys(*(_new_key(side, environment, role) for role in ("service", "reader")))
    with _served(side, environment, keys, observer) as service:
        yield service
    if verified:
        try:
            _ask(side, environment, "verify")
        except RuntimeError as error:
            side.failures.append(str(error))


@contextlib.contextmanager
def _served(
    side: Side, environment: Mapping[str, str], keys: Keys, observer: Observer | None
) -> Iterator[Service]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    served = {**environment, "ENTITLEMENTS_HTTP_PORT": str(port)}
    with Program([side.program, "serve"], served, url=f"{url}/readyz") as program:
        yield Service(side, url, program, environment=environment, keys=keys, observer=observer)


def _ask(side: Side, environment: Mapping[str, str], *arguments: str) -> bytes:
    ran = subprocess.run(
        [side.program, *arguments], env=environment, capture_output=True, check=False
    )
    if ran.returncode:
        said = ran.stderr or ran.stdout
        raise RuntimeError(f"entitlements {' '.join(arguments)} of {side.name}: {said!r}")
    return ran.stdout


def _new_key(side: Side, environment: Mapping[str, str], role: str) -> str:
    answer = _ask(side, environment, "keys", "create", f"bench-{role}", "--role", role, "--json")
    return str(msgspec.json.decode(answer, type=dict[str, object])["secret"])
