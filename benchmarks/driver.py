"""Call a function of the checkout in the working directory, and say what it cost.

The caller writes one line of JSON, `{"function": "module:name", "arguments": {…}}`. The answer is
`{"ready": true}`, or `{"lacking": "why"}` where this checkout has no such function or keyword.
After the line `go` the function runs, and its value and CPU time are the second answer.

This file runs in releases that are older than it: it imports nothing of ours but by name.
"""

import asyncio
import importlib
import inspect
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import msgspec


class Lacking(Exception):
    """The checkout has no such function, or it does not take such an argument."""


def main() -> None:
    """Answer on what was standard output; whatever the function prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.path.insert(0, str(Path.cwd()))
    asked = json.loads(sys.stdin.readline())
    try:
        run = prepare(asked["function"], asked["arguments"])
    except Lacking as lacking:
        _answer(answers, lacking=str(lacking))
        return
    _answer(answers, ready=True)
    if not sys.stdin.readline():
        return
    started = time.process_time()
    try:
        value = run()
    except Exception as error:  # noqa: BLE001 -- the caller names the row and the side
        traceback.print_exc()
        _answer(answers, error=f"{type(error).__name__}: {error}")
        return
    cpu_s = time.process_time() - started
    _answer(answers, value=msgspec.to_builtins(value), cpu_s=cpu_s)


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


def _answer(answers: TextIO, **fields: object) -> None:
    answers.write(json.dumps(fields) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
