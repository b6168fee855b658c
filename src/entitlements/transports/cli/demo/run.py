"""The main job on real input: grade classes of essays, and see who paid for it."""

import asyncio
import secrets
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from httpx2 import TransportError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from entitlements.app.policy_document import default_policy_text
from entitlements.transports.cli.demo.api import Api, Clock, UnexpectedAnswer
from entitlements.transports.cli.demo.assistants import PRICE_BOOK, Assistants
from entitlements.transports.cli.demo.calls import Call, UnusableCalls
from entitlements.transports.cli.demo.calls import calls as read_calls
from entitlements.transports.cli.demo.essays import CLASS_MAX, SchoolClass, UnusableEssays, classes
from entitlements.transports.cli.demo.report import Balance, Calls, Report, rates, show
from entitlements.transports.cli.demo.reports import Broker, NoKafka, Reports
from entitlements.transports.cli.demo.reports import kafka as kafka_of_settings
from entitlements.transports.cli.demo.service import ServiceFailed, running
from entitlements.transports.cli.demo.story import Story

QUICK_CLASS: Final = 12
"""Smaller ones could be paid from the teachers' bonuses, and nobody would run dry."""
QUICK_CALLS: Final = 600
PIPE_WIDTH: Final = 160
EXPECTED: Final = (
    ServiceFailed,
    NoKafka,
    UnusableEssays,
    UnusableCalls,
    UnexpectedAnswer,
    TransportError,
)


def demo(
    *,
    database: str | None = None,
    essays: Path | None = None,
    calls: Path | None = None,
    quick: bool = False,
    kafka: bool = False,
    json: bool = False,
) -> None:
    """Grade classes of essays for two schools over HTTP, pay for the calls of their teachers'
    assistants, and show who paid what.

    Parameters
    ----------
    database
        Where to run, as postgresql://…; without it on a SQLite file that is removed afterwards.
    essays
        CSV with the columns essay_id, prompt and text.
    calls
        CSV with the columns ContextTokens and GeneratedTokens, a line for each call of a model.
    quick
        Small classes and a part of the calls only.
    kafka
        One school's feedback is reported by events, to the Kafka that the settings name.
    json
        The report as JSON on standard output.
    """
    console = _console(stderr=json)
    try:
        given = _Given(
            classes(essays, size_max=QUICK_CLASS if quick else CLASS_MAX),
            read_calls(calls, at_most=QUICK_CALLS if quick else None),
        )
        with kafka_of_settings() if kafka else nullcontext() as broker:
            report = _run(database, given, console, broker)
    except Exception as error:
        cause = _cause(error)
        if isinstance(cause, EXPECTED):
            raise SystemExit(str(cause) or type(cause).__name__) from error
        raise
    if json:
        print(msgspec.json.encode(report).decode())
    else:
        show(report, console)
    if not report.is_good:
        raise SystemExit(1)


class _Given(NamedTuple):
    """What the stories are about, and where it is from."""

    essays: tuple[str, list[SchoolClass]]
    calls: tuple[str, list[Call]]


def _run(
    database: str | None, given: _Given, console: Console, broker: Broker | None = None
) -> Report:
    source, graded = given.essays
    console.print(f"Essays from {source}: {len(graded)} classes.", markup=False)
    console.print(f"Calls from {given.calls[0]}: {len(given.calls[1]):,}.", markup=False)
    # What an earlier run left in the same database stays apart.
    suffix = f"-{secrets.token_hex(3)}" if database else ""
    clock = Clock()
    settings = None if broker is None else broker.settings
    policy = default_policy_text() + PRICE_BOOK
    with running(database, policy=policy, settings=settings) as service:
        connect = partial(Api, service.url, service.secret, clock)
        reports = None if broker is None else Reports(broker, clock)
        story, balances, calls = asyncio.run(_play(connect, given, suffix, console, reports))
        books_balance, verify = service.verify()
    return Report(
        essays=source,
        payments=story.tally.payments(),
        denials=story.denials,
        unpaid=story.unpaid,
        rates=rates(clock),
        balances=balances,
        calls=calls,
        sent_twice=story.sent_twice,
        charged_once=story.charged_once,
        books_balance=books_balance,
        verify=verify,
    )


async def _play(
    connect: Callable[..., Api],
    given: _Given,
    suffix: str,
    console: Console,
    reports: Reports | None,
) -> tuple[Story, list[Balance], Calls]:
    """The essays first, then the calls of those who had them graded."""
    with _bar(console) as bar:
        graded = bar.add_task("graded", total=None)
        tell = partial(bar.console.print, markup=False)
        async with connect() as api, reports or nullcontext():
            story = Story(
                api,
                suffix=suffix,
                tell=tell,
                progress=partial(bar.advance, graded),
                reports=reports,
            )
            batches = story.batches(given.essays[1])
            bar.update(graded, total=sum(one.size for each in batches.values() for one in each))
            balances = await story.play(batches)

        source, calls = given.calls
        called = partial(bar.advance, bar.add_task("called", total=len(calls)))
        # School by school in turn, so that each pays for about as much.
        teachers = [one.teacher for each in zip(*batches.values(), strict=True) for one in each]
        async with connect(clients=len(teachers)) as api:
            assistants = Assistants(api, teachers, calls, suffix=suffix, tell=tell, progress=called)
            return story, balances, await assistants.play(source)


def _console(*, stderr: bool) -> Console:
    """Lines of a terminal are as long as it is wide; those of a file need not wrap."""
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    return console


def _bar(console: Console) -> Progress:
    """Without a terminal only the lines printed above it."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=console, disable=not console.is_terminal)


def _cause(error: Exception) -> Exception:
    """What really happened, out of the groups that tasks wrap it in."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
