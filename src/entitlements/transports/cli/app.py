"""The command line. Exit codes: 0 done, 1 refused or not possible, 2 not understood."""

import inspect
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn

import structlog
import uvloop
from cyclopts import App, CycloptsError
from rich.console import Console

from entitlements.transports.cli import (
    check,
    events,
    holds,
    keys,
    ledger,
    operate,
    outbox,
    policy,
    webhooks,
    workers,
)
from entitlements.transports.cli.output import Failed, Misused, complain
from entitlements.transports.cli.program import Program

REFUSED = 1
MISUSED = 2
INTERRUPTED = 130


def commands() -> App:
    """The tree of commands."""
    app = App(
        name="entitlements",
        help="What a subject may do, and what it has left.",
        version=lambda: version("entitlements"),
        help_format="plaintext",
    )
    app.command(operate.serve)
    app.command(operate.migrate)
    app.command(operate.verify)
    app.command(operate.demo)
    app.command(check.check)
    app.command(ledger.adjust)
    app.command(ledger.balance)
    app.command(ledger.operations)
    app.command(ledger.operation)

    account = App(name="account", help="Accounts of organisations and users.")
    account.command(ledger.open_account, name="open")
    key = App(name="keys", help="API keys.")
    key.command(keys.create)
    key.command(keys.list_keys, name="list")
    key.command(keys.revoke)
    rules = App(name="policy", help="Policy documents.")
    rules.command(policy.check)
    rules.command(policy.show)
    rules.command(policy.history)
    rules.command(policy.diff)
    rules.command(policy.apply)
    held = App(name="holds", help="Credits set aside before work.")
    held.command(holds.list_holds, name="list")
    held.command(holds.show)
    held.command(holds.release)
    hooks = App(name="webhooks", help="Signed events to other systems.")
    hooks.command(webhooks.create)
    hooks.command(webhooks.list_webhooks, name="list")
    hooks.command(webhooks.ping, name="test")
    hooks.command(webhooks.rotate)
    hooks.command(webhooks.delete)
    hooks.command(webhooks.deliveries)
    hooks.command(webhooks.retry)
    app.command(events.conflicts)
    for group in (account, held, hooks, key, rules, *_of_events()):
        app.command(group)
    return app


def _of_events() -> tuple[App, ...]:
    """Events on their ways in and out, and who works on them."""
    out = App(name="outbox", help="Events on their way out.")
    out.command(outbox.status)
    out.command(outbox.parked)
    out.command(outbox.retry)
    out.command(outbox.hand_over)
    worker = App(name="worker", help="Background work in processes of their own.")
    worker.command(workers.consumer)
    worker.command(workers.relay)
    dlq = App(name="dlq", help="Events that nothing could be made of.")
    dlq.command(events.list_letters, name="list")
    dlq.command(events.show_letter, name="show")
    dlq.command(events.replay)
    dlq.command(events.drop)
    consumer = App(name="consumer", help="Who reads the platform's events.")
    consumer.command(events.consumer_status, name="status")
    return out, dlq, consumer, worker


def run(program: Program, arguments: Sequence[str] | None = None) -> NoReturn:
    """Do what the arguments say, then exit."""
    sys.exit(_run(program, sys.argv[1:] if arguments is None else arguments))


def _run(program: Program, arguments: Sequence[str]) -> int:
    # What a command prints is its answer; logs go beside it.
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger("warning"),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )
    app = commands()
    try:
        command, bound, injected = app.parse_args(
            list(arguments),
            exit_on_error=False,
            print_error=False,
            error_console=Console(stderr=True),
        )
    except CycloptsError as error:
        complain(f"{error}\nTry: entitlements --help")
        return MISUSED
    given = {"program": program} if "program" in injected else {}
    try:
        answer = command(*bound.args, **bound.kwargs, **given)
        if inspect.iscoroutine(answer):
            uvloop.run(answer)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        code = _exit_code(program, error)
        if code is None:
            raise
        complain(str(error) or type(error).__name__)
        return code
    return 0


def _exit_code(program: Program, error: Exception) -> int | None:
    """None: a bug, whose traceback is wanted."""
    if isinstance(error, Misused) or program.is_usage(error):
        return MISUSED
    if isinstance(error, Failed) or program.is_expected(error):
        return REFUSED
    return None
