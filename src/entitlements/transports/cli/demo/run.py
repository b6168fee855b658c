"""The main job on real input: grade classes of essays, and see who paid for it."""

import asyncio
import secrets
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
from httpx2 import TransportError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from entitlements.transports.cli.demo.api import Api, UnexpectedAnswer
from entitlements.transports.cli.demo.essays import CLASS_MAX, SchoolClass, UnusableEssays, classes
from entitlements.transports.cli.demo.report import Balance, Report, rates, show
from entitlements.transports.cli.demo.service import ServiceFailed, running
from entitlements.transports.cli.demo.story import Story

QUICK_CLASS: Final = 12
"""Smaller ones could be paid from the teachers' bonuses, and nobody would run dry."""
PIPE_WIDTH: Final = 160
EXPECTED: Final = (ServiceFailed, UnusableEssays, UnexpectedAnswer, TransportError)


def demo(
    *,
    database: str | None = None,
    essays: Path | None = None,
    quick: bool = False,
    json: bool = False,
) -> None:
    """Grade classes of essays for two schools over HTTP, and show who paid what.

    Parameters
    ----------
    database
        Where to run, as postgresql://…; without it on a SQLite file that is removed afterwards.
    essays
        CSV with the columns essay_id, prompt and text.
    quick
        Small classes only.
    json
        The report as JSON on standard output.
    """
    console = _console(stderr=json)
    try:
        report = _run(database, essays, QUICK_CLASS if quick else CLASS_MAX, console)
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


def _run(database: str | None, essays: Path | None, size_max: int, console: Console) -> Report:
    source, graded = classes(essays, size_max=size_max)
    console.print(f"Essays from {source}: {len(graded)} classes.", markup=False)
    # What an earlier run left in the same database stays apart.
    suffix = f"-{secrets.token_hex(3)}" if database else ""
    with running(database) as service:
        api = Api(service.url, service.secret)
        story, balances = asyncio.run(_play(api, graded, suffix, console))
        books_balance, verify = service.verify()
    return Report(
        essays=source,
        payments=story.tally.payments(),
        denials=story.denials,
        unpaid=story.unpaid,
        rates=rates(api.clock),
        balances=balances,
        sent_twice=story.sent_twice,
        charged_once=story.charged_once,
        books_balance=books_balance,
        verify=verify,
    )


async def _play(
    api: Api, graded: list[SchoolClass], suffix: str, console: Console
) -> tuple[Story, list[Balance]]:
    with _bar(console) as bar:
        task = bar.add_task("graded", total=None)
        tell = partial(bar.console.print, markup=False)
        story = Story(api, suffix=suffix, tell=tell, progress=partial(bar.advance, task))
        batches = story.batches(graded)
        bar.update(task, total=sum(batch.size for each in batches.values() for batch in each))
        try:
            return story, await story.play(batches)
        finally:
            await api.close()


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
