"""Commands that export balances, grants and operations as CSV."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from msgspec import Struct
from msgspec.structs import astuple

from entitlements.app.operations import exporting, grants, ledger
from entitlements.app.paging import rows_of
from entitlements.app.ports import (
    GrantsQuery,
    ImportedOperationsQuery,
    OperationsQuery,
    WalletsQuery,
)
from entitlements.app.process.clock import utc_now
from entitlements.contracts import http, names
from entitlements.contracts.imports import BalanceRow
from entitlements.core.reasons import EntitlementType, GrantStatus
from entitlements.transports.cli.asking import asking, kept, text_filter
from entitlements.transports.cli.csv_files import csv_output
from entitlements.transports.cli.grants import StatusName
from entitlements.transports.cli.ledger import Injected, aware, subject_of
from entitlements.transports.cli.output import PAGE_MAX, PROGRESS_ROWS, Database, note

AsCsv = Annotated[
    bool, Parameter(name="--csv", negative="", help="Print CSV, which is the only format.")
]
Out = Annotated[
    Path | None,
    Parameter(help="A new file, which appears once it is complete; default: standard output."),
]
SubjectFilter = Annotated[str | None, Parameter(name="--subject", help="org:ID or user:ID")]


async def export_balances(
    *,
    program: Injected,
    subject: SubjectFilter = None,
    credit_type: Annotated[str | None, Parameter(help="The credit type.")] = None,
    _csv: AsCsv = True,
    out: Out = None,
    database: Database = None,
) -> None:
    """Export balances as CSV, in the form that `import balances` reads.

    Each wallet has a row for each time at which credits of it expire. Rows are in descending order
    of their subjects.
    """
    wanted = None if credit_type is None else kept("--credit-type", names.metric, credit_type)
    query = WalletsQuery(**_filter(subject), credit_type=wanted)
    async with asking(program, database, "", http.BALANCE) as request:
        await _write(out, BalanceRow, exporting.balances(request, query))


async def export_grants(
    *,
    program: Injected,
    subject: SubjectFilter = None,
    type_: Annotated[
        http.EntitlementType | None, Parameter(name="--type", help="The type of the grants.")
    ] = None,
    status: Annotated[StatusName, Parameter(help="Their status now.")] = "all",
    reference: Annotated[str | None, Parameter(help="Their reference.")] = None,
    _csv: AsCsv = True,
    out: Out = None,
    database: Database = None,
) -> None:
    """Export grants of every type as CSV, newest first; omitted filters match all."""
    query = GrantsQuery(
        **_filter(subject),
        entitlement_type=EntitlementType(type_) if type_ else None,
        status=None if status == "all" else GrantStatus(status),
        reference_id=text_filter("--reference", reference),
        now=utc_now(),
        limit=PAGE_MAX,
    )
    async with asking(program, database, "", http.ENTITLEMENTS) as request:
        reader = request.engine.reader

        async def pages() -> AsyncIterator[list[http.GrantItem]]:
            async for found in rows_of(request.engine.store.reads.grants, query):
                yield [grants.item(one) for one in await reader.grants(found)]

        await _write(out, http.GrantItem, pages())


async def export_operations(
    *,
    program: Injected,
    subject: SubjectFilter = None,
    metric: Annotated[str | None, Parameter(help="The metric.")] = None,
    since: Annotated[
        datetime | None, Parameter(help="From this time on; UTC unless it has a time zone.")
    ] = None,
    until: Annotated[datetime | None, Parameter(help="Before this time.")] = None,
    imported: Annotated[
        bool, Parameter(negative="", help="Export the history of an older service instead.")
    ] = False,
    _csv: AsCsv = True,
    out: Out = None,
    database: Database = None,
) -> None:
    """Export the ledger as CSV, newest first; omitted filters match all, of any age."""
    filters = {
        **_filter(subject),
        "metric": text_filter("--metric", metric),
        "since": aware(since),
        "until": aware(until),
        "limit": PAGE_MAX,
    }
    async with asking(program, database, "", http.OPERATIONS) as request:
        store = request.engine.store

        async def older() -> AsyncIterator[list[http.ImportedOperationItem]]:
            query = ImportedOperationsQuery(**filters)
            async for found in rows_of(store.imports.operations, query):
                yield [ledger.imported_item(one) for one in found]

        async def own() -> AsyncIterator[list[http.OperationItem]]:
            async for found in rows_of(store.reads.operations, OperationsQuery(**filters)):
                yield [ledger.operation_item(one) for one in found]

        if imported:
            await _write(out, http.ImportedOperationItem, older())
        else:
            await _write(out, http.OperationItem, own())


def _filter(subject: str | None) -> dict[str, Any]:
    if subject is None:
        return {}
    holder = subject_of(subject)
    return {"subject_type": holder.type, "subject_id": holder.id}


async def _write(
    out: Path | None, contract: type[Struct], pages: AsyncIterator[Sequence[Struct]]
) -> None:
    """Write the rows, with the fields of their contract as columns."""
    written = 0
    with csv_output(out, contract.__struct_fields__) as write:
        async for page in pages:
            for row in page:
                write(astuple(row))
                written += 1
                if written % PROGRESS_ROWS == 0:
                    note(f"{written:,} rows exported")
    note(f"{written:,} rows exported")
