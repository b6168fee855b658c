"""Import of an older service's tables: balances as grants, operations as a history to be read.

The tables are `credit_balances` and `credit_operations`. Columns are found by name; further ones
are ignored.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import sha256
from typing import Any, Final, NamedTuple, Protocol
from uuid import UUID

import msgspec
from msgspec import Struct

from entitlements.app.operations import importing
from entitlements.app.operations.importing import (
    BalancesImported,
    Faults,
    Progress,
    Rows,
    SourceRow,
    validated,
)
from entitlements.app.operations.request import Request
from entitlements.app.ports import ImportedOperation
from entitlements.contracts.errors import InvalidRequest
from entitlements.contracts.imports import OperationRow
from entitlements.contracts.names import ID_MAX
from entitlements.core.model import Subject
from entitlements.core.policy import DEFAULT_CREDIT_TYPE


class OlderTables(Protocol):
    """The tables of an older service, read at one moment."""

    async def columns(self, table: str) -> Collection[str]:
        """Return the names of the table's columns; empty if the table does not exist."""

    def rows(
        self, table: str, columns: Sequence[str], size: int
    ) -> AsyncIterator[Sequence[Mapping[str, Any]]]:
        """Read all rows of the table, ``size`` at a time."""


class OriginUnusable(Exception):
    """The tables are not those of an older service."""


class _Table(NamedTuple):
    name: str
    required: tuple[str, ...]
    optional: tuple[str, ...]


BALANCES: Final = _Table(
    "credit_balances",
    required=("subject_type", "subject_id", "balance"),
    optional=("credit_type", "expires_at"),
)
OPERATIONS: Final = _Table(
    "credit_operations",
    required=("id", "subject_type", "subject_id", "metric", "amount", "created_at"),
    optional=(
        "credit_type",
        "batch_id",
        "consumed_from",
        "correlation_id",
        "operation_status",
        "status",
    ),
)
_OWN: Final = ("schema_version", "grants")
"""Tables that only a database of this service has."""
_TIMES: Final = frozenset(("created_at", "expires_at"))


class OriginImported(Struct, kw_only=True):
    """The result of an import. ``operations`` counts those read, ``new_operations`` those that were
    not stored before. ``has_operations`` is false if the older service has no table of operations.
    """

    balances: BalancesImported
    has_operations: bool
    operations: int = 0
    new_operations: int = 0


async def import_origin(
    request: Request, tables: OlderTables, *, dry_run: bool, progress: Progress
) -> OriginImported:
    """Grant each balance and store each operation, unless it was imported before.

    All rows are validated first. With ``dry_run`` nothing is written. Raises OriginUnusable and
    ImportRefused.
    """
    if all([await tables.columns(table) for table in _OWN]):
        raise OriginUnusable("it is a database of this service: export and import its balances")
    balances = await _balances(tables)
    operations = await _columns(tables, OPERATIONS)
    imported = OriginImported(
        balances=await importing.validate(request, balances, progress),
        has_operations=bool(operations),
    )
    await _read(request, tables, operations, imported, progress, count=dry_run)
    if not dry_run:
        imported.balances = await importing.grant(request, balances, progress)
        await _add(request, tables, operations, imported, progress)
        entry = request.act().entry("import.origin", msgspec.to_builtins(imported))
        await request.engine.store.acts.add_audit(entry)
    return imported


async def _columns(tables: OlderTables, table: _Table) -> list[str]:
    """Return the columns to read; empty if the table does not exist. Raises OriginUnusable."""
    found = await tables.columns(table.name)
    if found and (missing := [name for name in table.required if name not in found]):
        raise OriginUnusable(f"its table {table.name} lacks the column {', '.join(missing)}")
    return [name for name in (*table.required, *table.optional) if name in found]


async def _balances(tables: OlderTables) -> Rows:
    columns = await _columns(tables, BALANCES)
    if not columns:
        raise OriginUnusable(f"it has no table {BALANCES.name}")

    async def rows() -> AsyncIterator[Sequence[SourceRow]]:
        async for page in tables.rows(BALANCES.name, columns, importing.ROWS_AT_ONCE):
            yield [_balance(row) for row in page]

    return rows


def _balance(row: Mapping[str, Any]) -> SourceRow:
    """Return the balance with its row, the primary key of its table, as its reference; a digest if
    that is too long.
    """
    given = _fields(row)
    key = [given.get("subject_type"), given.get("subject_id")]
    if "credit_type" in row:
        key.append(given.get("credit_type"))
    named = ":".join(str(part) for part in key if part is not None)
    reference = f"origin:{named}"
    if len(reference) > ID_MAX:
        reference = f"origin:{sha256(named.encode()).hexdigest()}"
    return SourceRow(
        f"{BALANCES.name} {named}",
        {"credit_type": DEFAULT_CREDIT_TYPE, **given, "reference": reference},
    )


async def _read(
    request: Request,
    tables: OlderTables,
    columns: Sequence[str],
    imported: OriginImported,
    progress: Progress,
    *,
    count: bool,
) -> None:
    """Validate the operations, and count them if nothing is to be written. Raises ImportRefused."""
    faults = Faults()
    read = 0
    async for page in _pages(tables, columns):
        good: list[ImportedOperation] = []
        for place, fields in page:
            try:
                good.append(_operation(validated(OperationRow, fields)))
            except InvalidRequest as error:
                faults.add_all([(place, error)])
        read += len(page)
        if count:
            imported.operations += len(good)
            known = await request.engine.store.imports.known(good)
            imported.new_operations += len(good) - known
        progress("of the history validated", read)
    faults.refuse()


async def _add(
    request: Request,
    tables: OlderTables,
    columns: Sequence[str],
    imported: OriginImported,
    progress: Progress,
) -> None:
    async for page in _pages(tables, columns):
        operations = [_operation(validated(OperationRow, fields)) for _, fields in page]
        imported.operations += len(operations)
        imported.new_operations += await request.engine.store.imports.add(operations)
        progress("of the history imported", imported.operations)


async def _pages(tables: OlderTables, columns: Sequence[str]) -> AsyncIterator[Sequence[SourceRow]]:
    if columns:
        async for page in tables.rows(OPERATIONS.name, columns, importing.ROWS_AT_ONCE):
            yield [_source(row) for row in page]


def _source(row: Mapping[str, Any]) -> SourceRow:
    given = _fields(row)
    if "status" in given:
        given.setdefault("operation_status", given.pop("status"))
    if "id" in given:
        given["id"] = str(given["id"])
    place = f"{OPERATIONS.name} {given.get('id')}"
    return SourceRow(place, {"credit_type": DEFAULT_CREDIT_TYPE, **given})


def _operation(row: OperationRow) -> ImportedOperation:
    return ImportedOperation(
        id=row.id,
        subject=Subject(row.subject_type, str(row.subject_id)),
        credit_type=row.credit_type,
        metric=row.metric,
        amount=row.amount,
        batch_id=row.batch_id,
        consumed_from=row.consumed_from,
        correlation_id=row.correlation_id,
        status=row.operation_status,
        created_at=row.created_at,
    )


def _fields(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that are not null, as a contract takes them."""
    return {
        name: _moment(value) if name in _TIMES else _value(value)
        for name, value in row.items()
        if value is not None
    }


def _value(value: Any) -> Any:
    match value:
        case Decimal() if value.is_finite() and value == value.to_integral_value():
            return int(value)
        case UUID() | Decimal():
            return str(value)
        case _:
            return value


def _moment(value: Any) -> Any:
    """Return the time, which is in UTC unless it has an offset."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return value
    if isinstance(value, datetime) and value.tzinfo is None:
        return value.replace(tzinfo=UTC)
    return value
