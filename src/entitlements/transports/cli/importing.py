"""Commands that import balances and an older service's data."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Final

import msgspec
from cyclopts import Parameter

from entitlements.app.operations import importing
from entitlements.app.operations.importing import ImportRefused
from entitlements.app.operations.origin import OriginUnusable, import_origin
from entitlements.app.operations.request import Request
from entitlements.contracts import http
from entitlements.transports.cli.asking import Actor, asking
from entitlements.transports.cli.csv_files import CsvSource
from entitlements.transports.cli.ledger import Injected
from entitlements.transports.cli.output import (
    PROGRESS_ROWS,
    AsJson,
    Database,
    Failed,
    note,
    say,
    show_json,
)
from entitlements.transports.cli.program import Program

REQUIRED: Final = ("subject_type", "subject_id", "credit_type", "balance", "reference")

DryRun = Annotated[
    bool, Parameter(negative="", help="Validate and show what would be imported; write nothing.")
]


async def balances(
    file: Annotated[Path, Parameter(help="The CSV file.")],
    *,
    actor: Actor,
    program: Injected,
    dry_run: DryRun = False,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """Import balances from a CSV file: one grant for each row, each reference once.

    The header names the columns subject_type, subject_id, credit_type, balance, reference and,
    optionally, expires_at. All rows are validated before the first is granted. A row whose
    reference was imported before changes nothing; with other content it is refused.
    """
    source = CsvSource(file, REQUIRED, optional=("expires_at",), whole=("balance",))
    async with _importing(program, database, actor, json=json) as request:
        imported = await importing.import_balances(
            request, source.rows, dry_run=dry_run, progress=_progress
        )
    if json:
        show_json({"dry_run": dry_run, **msgspec.to_builtins(imported)})
    else:
        say(summary(imported, dry_run=dry_run))


async def origin(
    *,
    url: Annotated[
        str,
        Parameter(
            name="--from",
            help="URL of the older service's database: postgresql://…, optionally with the option "
            "schema, or sqlite:///…",
        ),
    ],
    actor: Actor,
    program: Injected,
    dry_run: DryRun = False,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """Import an older service's balances and the history of its operations.

    Each row of its table credit_balances becomes a grant, once. The rows of credit_operations are
    shown by `operations --imported`; they are no part of the ledger. All rows are validated before
    the first is written.
    """
    async with (
        _importing(program, database, actor, json=json) as request,
        program.older_service(url) as tables,
    ):
        imported = await import_origin(request, tables, dry_run=dry_run, progress=_progress)
    if json:
        show_json({"dry_run": dry_run, **msgspec.to_builtins(imported)})
        return
    say(summary(imported.balances, dry_run=dry_run))
    if imported.has_operations:
        will = "would be " if dry_run else ""
        say(f"{imported.new_operations} of {imported.operations} operations {will}imported")
    else:
        say("no operations: the older service has no table credit_operations")


@asynccontextmanager
async def _importing(
    program: Program, database: str | None, actor: str, *, json: bool
) -> AsyncIterator[Request]:
    """Open the database for an import; print its wrong rows. Raises Failed."""
    try:
        async with asking(program, database, actor, http.GRANT, may_create=True) as request:
            yield request
    except ImportRefused as refused:
        if json:
            show_json({"count": refused.count, "errors": refused.faults})
        raise Failed(f"rows are wrong: {refused.count}\n{refused}") from None
    except OriginUnusable as error:
        raise Failed(f"the older service cannot be imported: {error}") from None


def _progress(what: str, rows: int) -> None:
    if rows % PROGRESS_ROWS == 0:
        note(f"{rows:,} rows {what}")


def summary(imported: importing.BalancesImported, *, dry_run: bool) -> str:
    """Return the result of an import for people."""
    will = "would be " if dry_run else ""
    credits = "".join(
        f"\n  {total} {credit_type}" for credit_type, total in sorted(imported.credits.items())
    )
    return (
        f"{imported.granted} of {imported.rows} balances {will}granted, {imported.already_there}"
        f" already there, {imported.empty} empty{credits}"
    )
