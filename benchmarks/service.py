"""The service as users run it: `entitlements serve` in a process of its own, with real keys."""

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import psutil

from benchmarks.ceiling import until_answering
from benchmarks.wallets import fill, school, users
from tests.servers import free_port

WALLETS_BY_GRANTS = {1: "one-grant", 50: "fifty-grants", 10_000: "many-grants"}

PROGRAM = str(Path(sys.executable).parent / "entitlements")
MEGABYTE = 1_000_000


class Service:
    """A running service: where it is, a key that may check and consume, and its memory."""

    def __init__(
        self, url: str, token: str, process: psutil.Process, environment: dict[str, str]
    ) -> None:
        self.url = url
        self.token = token
        self.environment = environment
        self._process = process
        self.idle_mb = self._resident_mb()
        self.peak_mb = self.idle_mb

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Keep ``peak_mb`` while the block runs."""
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.2):
                self.peak_mb = max(self.peak_mb, self._resident_mb())

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()

    def _resident_mb(self) -> int:
        """Of the largest process, should there be more than one."""
        family = [self._process, *self._process.children(recursive=True)]
        return max(process.memory_info().rss for process in family) // MEGABYTE


@contextlib.contextmanager
def running_service(
    database_url: str,
    *,
    many_grants: bool,
    redis_url: str = "",
    settings: Mapping[str, str] | None = None,
) -> Iterator[Service]:
    """A service on a new database, its wallets filled; afterwards its books must balance."""
    port = free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if "ENTITLEMENTS" not in name},
        "ENTITLEMENTS_DATABASE_URL": database_url,
        "ENTITLEMENTS_HTTP_PORT": str(port),
        "ENTITLEMENTS_REDIS_URL": redis_url,
        **(settings or {}),
    }
    wallets = [school(), *users()]
    if many_grants:
        for grants, name in WALLETS_BY_GRANTS.items():
            wallets += [school(name)] * grants
    prefix = environment.get("ENTITLEMENTS_TOPIC_PREFIX", "huleedu")
    asyncio.run(fill(database_url, wallets, topic_prefix=prefix))
    service = _new_key(environment, "service")
    url = f"http://127.0.0.1:{port}"
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen([PROGRAM, "serve"], env=environment, stdout=log, stderr=log) as process,
    ):
        try:
            until_answering(f"{url}/readyz", process)
            yield Service(url, service, psutil.Process(process.pid), environment)
        finally:
            process.terminate()
    _ask(environment, "verify")


def _ask(environment: dict[str, str], *arguments: str) -> bytes:
    ran = subprocess.run([PROGRAM, *arguments], env=environment, capture_output=True, check=False)
    if ran.returncode:
        raise RuntimeError(f"entitlements {' '.join(arguments)}: {(ran.stderr or ran.stdout)!r}")
    return ran.stdout


def _new_key(environment: dict[str, str], role: str) -> str:
    answer = _ask(environment, "keys", "create", f"bench-{role}", "--role", role, "--json")
    return str(msgspec.json.decode(answer, type=dict[str, object])["secret"])
