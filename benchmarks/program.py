"""A program under test in its own process, which does not outlive the benchmark."""

import contextlib
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from time import monotonic, sleep

import psutil

from tests.servers import ServerProcess

READY_WITHIN_S = 120


class Program(ServerProcess):
    """A command with its environment; it is ready when ``url`` returns ``status``."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        url: str = "",
        status: int = 200,
    ) -> None:
        super().__init__("benchmark")
        self._command = command
        self._environment = environment
        self._url = url
        self._status = status

    def start(self) -> None:
        """Run the command, and wait until it is ready."""
        with (self.home / "log").open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                env=dict(self._environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        (self.home / "pid").write_text(str(self._process.pid))
        if self._url:
            self._wait(self._process)

    def close(self) -> None:
        """Stop it, by force if necessary, and remove its files."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._end(signal.SIGTERM)
        super().close()

    def family(self) -> list[psutil.Process]:
        """Return its process and all descendants."""
        process = psutil.Process(self.pid)
        return [process, *process.children(recursive=True)]

    def _wait(self, process: "subprocess.Popen[bytes]") -> None:
        deadline = monotonic() + READY_WITHIN_S
        while monotonic() < deadline and process.poll() is None:
            if _status(self._url) == self._status:
                return
            sleep(0.05)
        end = (self.home / "log").read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{self._url} is not ready; exit code {process.poll()}; {end}")


def _status(url: str) -> int | None:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:  # noqa: S310 -- loopback
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        refused.close()
        return refused.code
    except OSError:
        return None
