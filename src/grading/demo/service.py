"""The real service, as a child process on a free loopback port."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import httpx2
import msgspec
from msgspec import Struct

PATIENCE_S: Final = 60
STOP_S: Final = 20
LOG_SHOWN: Final = 2_000
PREFIX: Final = "ENTITLEMENTS_"
POLICY: Final = Path(__file__).with_name("policy.yaml")


class ServiceFailed(RuntimeError):
    """The service did not start, or a command of its program failed."""


class _Key(Struct, frozen=True):
    id: str
    secret: str


class ServiceProcess(Struct, frozen=True):
    """The service's address, and an admin's secret."""

    url: str
    secret: str
    environment: dict[str, str]

    def verify(self) -> tuple[bool, str]:
        """Return whether the books balance, and the output of `entitlements verify`."""
        done = _entitlements("verify", environment=self.environment)
        return done.returncode == 0, (done.stdout + done.stderr).strip()


@contextmanager
def running(database: str | None, settings: Mapping[str, str]) -> Iterator[ServiceProcess]:
    """Run a service on ``database``; default: a SQLite file that is removed afterwards.

    Its key is revoked on exit. Raises ServiceFailed.
    """
    with TemporaryDirectory(prefix="entitlements-demo-") as folder:
        home = Path(folder)
        port = _free_port()
        url = f"http://127.0.0.1:{port}"
        environment = _environment(database or f"sqlite:///{home / 'demo.db'}", port, settings)
        with _admin_key(environment) as secret, (home / "log").open("wb") as log:
            child = subprocess.Popen(  # noqa: S603 - the service's program
                _command("serve"), env=environment, stdout=log, stderr=log, cwd=home
            )
            try:
                _wait_until_ready(url, child, home / "log")
                yield ServiceProcess(url, secret, environment)
            finally:
                _stop(child)


@contextmanager
def _admin_key(environment: dict[str, str]) -> Iterator[str]:
    """Create a key: the service creates none at start in a database that has keys already."""
    _succeed("migrate", environment=environment)
    create = ("keys", "create", "demo", "--role", "admin", "--json")
    key = msgspec.json.decode(_succeed(*create, environment=environment), type=_Key)
    try:
        yield key.secret
    finally:
        _succeed("keys", "revoke", key.id, environment=environment)


def _environment(database: str, port: int, settings: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment with other settings: the scenario needs its own policy."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return inherited | {
        f"{PREFIX}ACTOR": "demo",
        f"{PREFIX}DATABASE_URL": database,
        f"{PREFIX}HTTP_PORT": str(port),
        f"{PREFIX}LOG_LEVEL": "WARNING",
        f"{PREFIX}POLICY_FILE": str(POLICY),
        f"{PREFIX}SHUTDOWN_DELAY_S": "0",
        **settings,
    }


def _wait_until_ready(url: str, child: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    with httpx2.Client(base_url=url, timeout=5) as client:
        while child.poll() is None and time.monotonic() < deadline:
            try:
                if client.get("/readyz").status_code == httpx2.codes.OK:
                    return
            except httpx2.TransportError:
                pass
            time.sleep(0.1)
    said = log.read_text("utf-8", errors="replace")[-LOG_SHOWN:]
    raise ServiceFailed(f"The service did not become ready.\n{said}")


def _stop(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _succeed(*arguments: str, environment: dict[str, str]) -> str:
    done = _entitlements(*arguments, environment=environment)
    if done.returncode != 0:
        said = (done.stdout + done.stderr)[-LOG_SHOWN:].strip()
        raise ServiceFailed(f"`entitlements {' '.join(arguments)}` failed.\n{said}")
    return done.stdout.strip()


def _entitlements(*arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - the service's program
        _command(*arguments), env=environment, capture_output=True, text=True, check=False
    )


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "entitlements", *arguments]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
