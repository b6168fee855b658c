"""The checkouts that are compared: their programs and interpreters, and calls into their code."""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

HERE = Path(__file__).parents[1]
DRIVER = Path(__file__).parent / "driver.py"
THIS = "this"
CALL_TIMEOUT_S = 900

BUILD = """
import json, platform, sys, sysconfig
print(json.dumps({
    "version": platform.python_version(),
    "config_args": sysconfig.get_config_var("CONFIG_ARGS") or "",
    "base_prefix": sys.base_prefix,
}))
"""

Answer = Literal["yes", "no", "unknown"]


class Lacking(Exception):
    """A side has no such function, keyword, route or column: skip its row."""


class Build(NamedTuple):
    """An interpreter's version, and the optimisations it was compiled with."""

    version: str
    pgo: Answer
    lto: Answer

    def __str__(self) -> str:
        return f"Python {self.version}, PGO {self.pgo}, LTO {self.lto}"

    @property
    def warning(self) -> str:
        """A warning for the page, or an empty text."""
        if "no" in (self.pgo, self.lto):
            return (
                "built without PGO or LTO: rates and CPU are 15-27 % worse than with an "
                "optimised build"
            )
        if "unknown" in (self.pgo, self.lto):
            return "its build cannot be read; distributions usually optimise theirs"
        return ""


def build_of(version: str, config_args: str, base_prefix: str) -> Build:
    """Derive the build from CONFIG_ARGS, in which a distribution's build leaves no trace."""
    absent: Answer = "unknown" if base_prefix == "/usr" else "no"
    pgo: Answer = "yes" if "--enable-optimizations" in config_args else absent
    lto: Answer = "yes" if "--with-lto" in config_args else absent
    return Build(version, pgo, lto)


class _Configuration(msgspec.Struct):
    version: str
    config_args: str
    base_prefix: str


class Done(msgspec.Struct):
    """A finished call: its value, and the CPU time of its process in the window."""

    value: msgspec.Raw = msgspec.Raw(b"null")
    cpu_s: float = 0


class _Line(Done):
    """Any answer of the driver."""

    window: str | None = None
    error: str | None = None
    lacking: str | None = None


class Call:
    """A function of a side, imported and waiting to run in a process of that side."""

    def __init__(self, function: str, process: "subprocess.Popen[bytes]") -> None:
        self._function = function
        self._process = process

    def run(self, metered: contextlib.AbstractContextManager[object] | None = None) -> Done:
        """Run it; ``metered`` is entered when its window begins and left when that ends."""
        self._write(b"go\n")
        with contextlib.ExitStack() as stack:
            while (line := self.read()).window is not None:
                if line.window == "began" and metered is not None:
                    stack.enter_context(metered)
                elif line.window == "ended":
                    stack.close()
                self._write(b"go\n")
        return line

    def read(self) -> _Line:
        """Return the next answer. Raises Lacking, or RuntimeError if the function failed."""
        assert self._process.stdout is not None
        text = self._process.stdout.readline()
        if not text:
            raise RuntimeError(f"{self._function} ended with {self._process.wait()}")
        line = msgspec.json.decode(text, type=_Line)
        if line.lacking is not None:
            raise Lacking(line.lacking)
        if line.error is not None:
            raise RuntimeError(f"{self._function}: {line.error}")
        return line

    def ask(self, window: str, arguments: Mapping[str, object]) -> None:
        asked = {"function": self._function, "window": window, "arguments": arguments}
        self._write(msgspec.json.encode(asked) + b"\n")

    def _write(self, line: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line)
        self._process.stdin.flush()


class Side:
    """A checkout with its virtual environment; ``number`` keeps names of databases apart."""

    def __init__(self, name: str, folder: Path, number: int) -> None:
        self.name = name
        self.folder = folder
        self.number = number
        self.failures: list[str] = []
        """Errors of verifying this side's ledgers after the loads."""
        self._bin = Path(sys.executable).parent if folder == HERE else folder / ".venv" / "bin"

    @property
    def program(self) -> str:
        return str(self._bin / "entitlements")

    @property
    def python(self) -> str:
        return str(self._bin / "python")

    def set_up(self) -> None:
        """Create the virtual environment if there is none."""
        if Path(self.python).exists() and Path(self.program).exists():
            return
        if not (self.folder / "Makefile").exists():
            raise SystemExit(f"{self.folder} is not a checkout of this project")
        print(f"make setup in {self.folder}", flush=True)
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
        subprocess.run(["make", "setup"], cwd=self.folder, env=environment, check=True)

    @cached_property
    def commit(self) -> str:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        return described.stdout.strip() or "unknown commit"

    @cached_property
    def build(self) -> Build:
        ran = subprocess.run([self.python, "-c", BUILD], capture_output=True, check=True)
        found = msgspec.json.decode(ran.stdout, type=_Configuration)
        return build_of(found.version, found.config_args, found.base_prefix)

    @contextlib.contextmanager
    def prepared(self, function: str, window: str, /, **arguments: object) -> Iterator[Call]:
        """Import ``module:name`` in a process of this side. Raises Lacking.

        ``window`` names the function in the same module that is to be measured.
        """
        command = [self.python, "-P", str(DRIVER)]
        with subprocess.Popen(
            command,
            cwd=self.folder,
            env=clean_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            timer = threading.Timer(CALL_TIMEOUT_S, process.kill)
            timer.start()
            try:
                call = Call(function, process)
                call.ask(window, arguments)
                call.read()
                yield call
            finally:
                timer.cancel()
                process.kill()

    def call(self, function: str, **arguments: object) -> Done:
        with self.prepared(function, "", **arguments) as call:
            return call.run()

    def fill(
        self, url: str, *, schools: Mapping[str, int], users: bool, topic_prefix: str = "huleedu"
    ) -> None:
        """Create tables in a new database, and wallets: organisations by their number of grants."""
        self.call("fill", url=url, schools=schools, users=users, topic_prefix=topic_prefix)

    def text(self, constant: str) -> str:
        """The value of a constant of this side, ``module:NAME``."""
        return msgspec.json.decode(self.call(constant).value, type=str)


def clean_environment() -> dict[str, str]:
    """Return our environment without settings of the service and Python search paths."""
    return {
        name: value
        for name, value in os.environ.items()
        if "ENTITLEMENTS" not in name and name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    }


def sides(against: Sequence[Path]) -> list[Side]:
    """Return this checkout and the others, each with a virtual environment."""
    found = [Side(THIS, HERE, 0)]
    for number, folder in enumerate(against, start=1):
        taken = {side.name for side in found}
        name = folder.resolve().name
        found.append(
            Side(name if name not in taken else f"{name}-{number}", folder.resolve(), number)
        )
    for side in found:
        side.set_up()
    return found
