"""The command line. Exit codes: 0 success, 1 refused or not possible, 2 invalid usage."""

import getpass
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import version
from io import TextIOWrapper
from typing import NoReturn

from cyclopts import App, CycloptsError, MissingArgumentError, UnusedCliTokensError
from rich.console import Console

from entitlements.transports.cli.output import ACTOR_VARIABLE, Failed, Misused, complain
from entitlements.transports.cli.program import Program
from entitlements.transports.cli.tree import COMMANDS, GROUPS

REFUSED = 1
MISUSED = 2
INTERRUPTED = 130


def commands() -> App:
    """Return the tree of commands; a command's function is imported on use."""
    app = App(
        name="entitlements",
        help="Credits, holds and rate limits: check what is allowed, charge what was used.",
        version=lambda: version("entitlements"),
        help_format="plaintext",
    )
    groups = {name: App(name=name, help=text) for name, text in GROUPS.items()}
    for name, command in COMMANDS.items():
        group, _, inner = name.rpartition(" ")
        path = f"entitlements.transports.cli.{command.function}"
        if group in COMMANDS:
            continue  # it is added with its group, which is also a command
        if any(other.startswith(f"{name} ") for other in COMMANDS):
            app.command(path, name=name, help=command.help)
            continue
        (groups[group] if group else app).command(
            path, name=inner, help=command.help, help_epilogue=command.epilogue
        )
    for one in groups.values():
        app.command(one)
    return app


def run(open_program: Callable[[], Program], arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command of the arguments, then exit."""
    sys.exit(_run(cache(open_program), sys.argv[1:] if arguments is None else arguments))


def _run(open_program: Callable[[], Program], arguments: Sequence[str]) -> int:
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot encode a character shows a question mark instead.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    if sys.stdin.isatty():
        os.environ.setdefault(ACTOR_VARIABLE, f"cli:{getpass.getuser()}")
    app = commands()
    try:
        command, bound, injected = app.parse_args(
            list(arguments),
            exit_on_error=False,
            print_error=False,
            error_console=Console(stderr=True),
        )
    except CycloptsError as error:
        complain(f"{_sentence(error)}\nTry: {' '.join(('entitlements', *_path(error)))} --help")
        return MISUSED
    given = {}
    if "program" in injected:
        _log_to_stderr()
        given["program"] = open_program()
    try:
        answer = command(*bound.args, **bound.kwargs, **given)
        if inspect.iscoroutine(answer):
            import uvloop

            uvloop.run(answer)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        code = _exit_code(open_program(), error)
        if code is None:
            raise
        complain(str(error) or type(error).__name__)
        return code
    return 0


def _log_to_stderr() -> None:
    """Send logs to stderr: standard output is for the command's result."""
    import structlog

    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger("warning"),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )


def _path(error: CycloptsError) -> Sequence[str]:
    """Return the words of the command that the error is about."""
    return [word for word in error.command_chain or () if not word.startswith("-")]


def _sentence(error: CycloptsError) -> str:
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        missing = error.argument
        if missing.name == "--as":
            return f"An actor is required: --as NAME or {ACTOR_VARIABLE}."
        is_option = missing.field_info.kind is missing.field_info.KEYWORD_ONLY
        return f"{missing.name if is_option else missing.name.lstrip('-').upper()} is required."
    if isinstance(error, UnusedCliTokensError):
        return f"Unexpected argument: {' '.join(error.unused_tokens or ())}"
    return str(error)


def _exit_code(program: Program, error: Exception) -> int | None:
    """Return the exit code; None for a bug, which should show its traceback."""
    if isinstance(error, Misused) or program.is_usage(error):
        return MISUSED
    if isinstance(error, Failed) or program.is_expected(error):
        return REFUSED
    return None
