"""The program as child processes that start quickly.

Each is forked from a process that has imported the program, since the import takes longer than many
a test. From then on it behaves as if started by name, with its own environment, arguments and
output.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from entitlements.__main__ import main

_FORKS: Final = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    ["entitlements.service.program", "entitlements.transports.http.app", "uvicorn"]
)


class Program:
    """`entitlements` with arguments, writing to ``log``; otherwise as `subprocess.Popen`."""

    def __init__(self, *arguments: str, environment: Mapping[str, str], log: Path) -> None:
        self._process = _FORKS.Process(target=_run, args=(arguments, dict(environment), log))
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        status = self._process.exitcode
        if status is None:
            raise subprocess.TimeoutExpired("entitlements", timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(arguments: tuple[str, ...], environment: dict[str, str], log: Path) -> None:
    os.environ.clear()
    os.environ.update({"ENTITLEMENTS_SHUTDOWN_DELAY_S": "0", **environment})
    sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    with log.open("ab") as output, Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    sys.argv = ["entitlements", *arguments]
    main()
