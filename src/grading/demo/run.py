"""The demo: grade classes of real essays, and report who paid."""

import asyncio
import secrets
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from entitlements.contracts.errors import EntitlementsError
from grading.demo.assistants import Assistants
from grading.demo.calls import ModelCall, UnusableCalls
from grading.demo.calls import calls as read_calls
from grading.demo.essays import CLASS_MAX, SchoolClass, UnusableEssays, classes
from grading.demo.kafka import BrokerAddress, NoKafka, UsageEvents, configured_broker
from grading.demo.report import Balance, Calls, Summary, rates, show
from grading.demo.service import ServiceFailed, running
from grading.demo.story import CLIENTS, Story, UnexpectedAnswer
from grading.demo.timings import TimedClient, Timings

QUICK_CLASS: Final = 12
"""Smaller classes could be paid from the teachers' bonuses, so no balance would run out."""
QUICK_CALLS: Final = 600
PIPE_WIDTH: Final = 160
EXPECTED: Final = (
    ServiceFailed,
    NoKafka,
    UnusableEssays,
    UnusableCalls,
    UnexpectedAnswer,
    EntitlementsError,
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
    assistants, and report who paid how much.

    Parameters
    ----------
    database
        The database, as postgresql://…; default: a SQLite file that is removed afterwards.
    essays
        CSV with the columns essay_id, prompt and text.
    calls
        CSV with the columns ContextTokens and GeneratedTokens, one line per model call.
    quick
        Small classes and a part of the calls only.
    kafka
        Report one school's feedback by events, to the configured Kafka.
    json
        Print the report as JSON on standard output.
    """
    console = _console(stderr=json)
    try:
        given = _Given(
            classes(essays, size_max=QUICK_CLASS if quick else CLASS_MAX),
            read_calls(calls, at_most=QUICK_CALLS if quick else None),
        )
        with configured_broker() if kafka else nullcontext() as broker:
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
    """The input of the scenario, and its source."""

    essays: tuple[str, list[SchoolClass]]
    calls: tuple[str, list[ModelCall]]


def _run(
    database: str | None, given: _Given, console: Console, broker: BrokerAddress | None = None
) -> Summary:
    source, graded = given.essays
    console.print(f"Essays from {source}: {len(graded)} classes.", markup=False)
    console.print(f"Calls from {given.calls[0]}: {len(given.calls[1]):,}.", markup=False)
    # Keeps this run apart from earlier ones in the same database.
    suffix = f"-{secrets.token_hex(3)}" if database else ""
    timings = Timings()
    with running(database, broker.settings if broker else {}) as service:
        connect = partial(TimedClient, service.url, service.secret, timings)
        events = UsageEvents(broker, timings) if broker else None
        story, balances, calls = asyncio.run(_play(connect, given, suffix, console, events))
        books_balance, verify = service.verify()
    return Summary(
        essays=source,
        payments=story.tally.payments(),
        denials=story.denials,
        unpaid=story.unpaid,
        rates=rates(timings),
        balances=balances,
        calls=calls,
        sent_twice=story.sent_twice,
        charged_once=story.charged_once,
        books_balance=books_balance,
        verify=verify,
    )


async def _play(
    connect: Callable[..., TimedClient],
    given: _Given,
    suffix: str,
    console: Console,
    events: UsageEvents | None,
) -> tuple[Story, list[Balance], Calls]:
    """Grade the essays first, then make the calls of the same teachers."""
    with _bar(console) as bar:
        graded = bar.add_task("graded", total=None)
        log = partial(bar.console.print, markup=False)
        async with connect(requests=CLIENTS) as client, events or nullcontext():
            story = Story(
                client,
                suffix=suffix,
                log=log,
                progress=partial(bar.advance, graded),
                events=events,
            )
            batches = story.batches(given.essays[1])
            bar.update(graded, total=sum(one.size for each in batches.values() for one in each))
            balances = await story.play(batches)

        source, calls = given.calls
        called = partial(bar.advance, bar.add_task("called", total=len(calls)))
        # Alternates between the schools, so that each pays for about as much.
        teachers = [one.teacher for each in zip(*batches.values(), strict=True) for one in each]
        async with connect(requests=len(teachers)) as client:
            assistants = Assistants(
                client, teachers, calls, suffix=suffix, log=log, progress=called
            )
            return story, balances, await assistants.play(source)


def _console(*, stderr: bool) -> Console:
    """Return a console as wide as the terminal; for a file lines need not wrap."""
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    return console


def _bar(console: Console) -> Progress:
    """Return a progress bar; without a terminal only the lines above it are printed."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=console, disable=not console.is_terminal)


def _cause(error: Exception) -> Exception:
    """Return the original error from the groups that tasks wrap it in."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
