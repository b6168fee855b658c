"""Call a function of the checkout in the working directory, and report its CPU time.

The caller writes a line of JSON: `{"function": "module:name", "window": "_name", "arguments": …}`.
The answer is `{"ready": true}`, or `{"lacking": "why"}` if this checkout has no such function or
keyword. After another line the function runs. Its window is a coroutine function of the same module
that it calls once; without one it is the whole call. CPU time is measured in the window. When the
window begins and ends, the driver writes `{"window": "began"}` or `{"window": "ended"}` and waits
for a line, so that the caller can read the accounts of other processes. The last answer holds the
value.

This file runs in older releases, so it imports the project's modules by name only.
"""

import asyncio
import contextlib
import importlib
import inspect
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec


class Lacking(Exception):
    """The checkout has no such function, or it does not take such an argument."""


class Conversation:
    """Lines of JSON on standard output; output of the called functions goes to standard error."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def ask(self) -> str:
        """Return the caller's next line. Raises SystemExit at the end of input."""
        line = sys.stdin.readline()
        if not line:
            raise SystemExit(1)
        return line

    def answer(self, **fields: object) -> None:
        self._answers.write(json.dumps(fields) + "\n")
        self._answers.flush()


class Window:
    """The part of a call that is measured."""

    def __init__(self, caller: Conversation) -> None:
        self._caller = caller
        self.cpu_s: float | None = None

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        self._caller.answer(window="began")
        self._caller.ask()
        started = time.process_time()
        yield
        self.cpu_s = time.process_time() - started
        self._caller.answer(window="ended")
        self._caller.ask()

    def put_around(self, module: str, name: str) -> bool:
        """Measure the module's coroutine function; return False if it does not exist."""
        place = sys.modules[module]
        measured = getattr(place, name, None)
        if not inspect.iscoroutinefunction(measured):
            return False

        async def within(*values: object, **named: object) -> object:
            with self():
                return await measured(*values, **named)

        setattr(place, name, within)
        return True


def main() -> None:
    caller = Conversation()
    sys.path.insert(0, str(Path.cwd()))
    asked = json.loads(caller.ask())
    try:
        run = prepare(asked["function"], asked["arguments"])
    except Lacking as lacking:
        caller.answer(lacking=str(lacking))
        return
    window = Window(caller)
    module = asked["function"].partition(":")[0]
    is_inside = bool(asked["window"]) and window.put_around(module, asked["window"])
    caller.answer(ready=True)
    caller.ask()
    try:
        with contextlib.nullcontext() if is_inside else window():
            value = run()
    except Exception as error:  # noqa: BLE001 -- the caller names the row and the side
        traceback.print_exc()
        caller.answer(error=f"{type(error).__name__}: {error}")
        return
    caller.answer(value=msgspec.to_builtins(value), cpu_s=window.cpu_s)


def prepare(function: str, arguments: dict[str, Any]) -> Callable[[], object]:
    """Import the function and bind its arguments. Raises Lacking."""
    if function == "fill":
        return fill(**arguments)
    found = find(function)
    if not callable(found):
        return lambda: found
    return bound(found, **arguments)


def find(path: str) -> Any:
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise Lacking(f"{path}: {error}") from error


def bound(
    function: Callable[..., object], *values: object, **named: object
) -> Callable[[], object]:
    try:
        inspect.signature(function).bind(*values, **named)
    except TypeError as error:
        raise Lacking(f"{function.__name__}: {error}") from error
    return lambda: function(*values, **named)


def fill(
    *, url: str, schools: dict[str, int], users: bool, topic_prefix: str
) -> Callable[[], object]:
    """Create the tables and give each organisation that many grants, and each user one."""
    school = find("benchmarks.wallets:school")
    wallets = [school(name) for name, grants in schools.items() for _ in range(grants)]
    if users:
        wallets += find("benchmarks.wallets:users")()
    give = bound(find("benchmarks.wallets:fill"), url, wallets, topic_prefix=topic_prefix)

    async def run() -> None:
        await give()  # type: ignore[misc]

    return lambda: asyncio.run(run())


if __name__ == "__main__":
    main()
