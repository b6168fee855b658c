"""Import of balances: one grant for each row, each once.

All rows are read twice: first to validate them and to look up which are there already, then to
grant them. So nothing is written for a file that has a wrong row.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import astuple

from entitlements.app.operations import bulk, grants
from entitlements.app.operations.naming import reference_origin
from entitlements.app.operations.request import Request, done
from entitlements.contracts import http
from entitlements.contracts.errors import InvalidRequest, invalid
from entitlements.contracts.fields import not_valid
from entitlements.contracts.imports import BalanceRow
from entitlements.contracts.kinds import normalised
from entitlements.core.commands import CreateGrant, Origin
from entitlements.core.model import Subject
from entitlements.core.outcomes import Granted, Refusal
from entitlements.core.reasons import RefusalCode

ROWS_AT_ONCE: Final = 1_000
"""The number of rows that are read, and granted in one transaction."""
FAULTS_KEPT: Final = 20
OTHER_CONTENT: Final = "was imported before with another subject, credit type, balance or expiry"

R = TypeVar("R", bound=Struct)


class SourceRow(NamedTuple):
    """A row as read. ``place`` names it in errors, such as ``line 7``."""

    place: str
    fields: Mapping[str, Any]


Rows = Callable[[], AsyncIterator[Sequence[SourceRow]]]
"""Reads all rows from the first on, at most `ROWS_AT_ONCE` at a time."""
Progress = Callable[[str, int], None]
"""Reports how many rows were validated or imported so far."""


class Fault(Struct, frozen=True):
    """A wrong field of a row."""

    place: str
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.field} {self.message}"


class ImportRefused(Exception):
    """Rows are wrong: the first `FAULTS_KEPT` of them, and the number of all."""

    def __init__(self, faults: Sequence[Fault], count: int) -> None:
        more = [f"and {count - len(faults)} more"] if count > len(faults) else []
        super().__init__("\n".join([*map(str, faults), *more]))
        self.faults = list(faults)
        self.count = count


class Faults:
    """The wrong fields that were found so far."""

    def __init__(self) -> None:
        self._first: list[Fault] = []
        self._count = 0

    def add_all(self, wrong: Iterable[tuple[str, InvalidRequest]]) -> None:
        for place, error in wrong:
            self._count += 1
            if len(self._first) < FAULTS_KEPT:
                (field,) = error.errors
                self._first.append(Fault(place, field.field, field.message))

    def refuse(self) -> None:
        """Raise ImportRefused if there is any."""
        if self._count:
            raise ImportRefused(self._first, self._count)


class BalancesImported(Struct, kw_only=True):
    """How many rows were granted, were imported before, or have a balance of 0; ``credits`` is the
    total of the granted ones by credit type.
    """

    rows: int = 0
    granted: int = 0
    already_there: int = 0
    empty: int = 0
    credits: dict[str, int] = msgspec.field(default_factory=dict)

    def add(self, row: BalanceRow, *, is_new: bool) -> None:
        self.rows += 1
        if row.balance == 0:
            self.empty += 1
        elif is_new:
            self.granted += 1
            self.credits[row.credit_type] = self.credits.get(row.credit_type, 0) + row.balance
        else:
            self.already_there += 1


def validated(contract: type[R], fields: Mapping[str, Any]) -> R:
    """Return the row with these fields, normalised. Raise InvalidRequest."""
    try:
        return normalised(msgspec.convert(fields, contract), invalid)
    except msgspec.ValidationError as error:
        raise not_valid(error, "row") from None


async def import_balances(
    request: Request, rows: Rows, *, dry_run: bool, progress: Progress
) -> BalancesImported:
    """Grant the balance of each row unless its reference was imported before.

    Rows are granted in transactions of `ROWS_AT_ONCE`: a repeat of an interrupted import grants the
    rest. With ``dry_run`` nothing is written. Raises ImportRefused, with nothing written if a row
    is wrong in itself.
    """
    expected = await validate(request, rows, progress)
    return expected if dry_run else await grant(request, rows, progress)


async def validate(request: Request, rows: Rows, progress: Progress) -> BalancesImported:
    """Return the result of an import of the rows, without writing. Raises ImportRefused."""
    expected, faults = BalancesImported(), Faults()
    places: dict[bytes, str] = {}
    read = 0
    async for page in rows():
        good: list[tuple[str, BalanceRow]] = []
        wrong: dict[str, InvalidRequest] = {}
        for place, fields in page:
            try:
                row = validated(BalanceRow, fields)
                digest = sha256(row.reference.encode()).digest()
                if (first := places.setdefault(digest, place)) != place:
                    raise invalid("reference", f"is the same as that of {first}")
                good.append((place, row))
            except InvalidRequest as error:
                wrong[place] = error
        wrong |= await _look_up(request, good, expected)
        faults.add_all((place, wrong[place]) for place, _ in page if place in wrong)
        read += len(page)
        progress("validated", read)
    faults.refuse()
    return expected


async def _look_up(
    request: Request,
    rows: Sequence[tuple[str, BalanceRow]],
    expected: BalancesImported,
) -> dict[str, InvalidRequest]:
    """Add the rows to the expected result, by the receipts of those imported before; return the
    errors of the others.
    """
    wrong: dict[str, InvalidRequest] = {}
    now = request.engine.clock()
    origins = [(_origin(request, row), place, row) for place, row in rows]
    keys = [origin.key for origin, _, _ in origins]
    found = await request.engine.store.acts.receipts(request.act().client, keys)
    known = {receipt.key: receipt.fingerprint for receipt in found if receipt.expires_at > now}
    for origin, place, row in origins:
        fingerprint = known.get(origin.key)
        if fingerprint is None and row.expires_at is not None and row.expires_at <= now:
            wrong[place] = invalid("expires_at", "must be later than now")
        elif fingerprint not in (None, origin.fingerprint):
            wrong[place] = invalid("reference", OTHER_CONTENT)
        else:
            expected.add(row, is_new=fingerprint is None)
    return wrong


async def grant(request: Request, rows: Rows, progress: Progress) -> BalancesImported:
    """Grant the rows, a page in one transaction. Raises ImportRefused."""
    imported = BalancesImported()
    async for page in rows():
        read = [(place, validated(BalanceRow, fields)) for place, fields in page]
        new = await _granted(request, [(place, row) for place, row in read if row.balance])
        for _, row in read:
            imported.add(row, is_new=row.reference in new)
        progress("imported", imported.rows)
    return imported


async def _granted(request: Request, rows: Sequence[tuple[str, BalanceRow]]) -> set[str]:
    """Grant the rows; return the references of those that are new. Raises ImportRefused."""
    if not rows:
        return set()
    commands = [_creation(request, row) for _, row in rows]
    outcomes = await bulk.submit(request, commands, Granted, atomic=True)
    if isinstance(outcomes, Refusal):
        place, _ = rows[outcomes.data["item"]]
        raise ImportRefused([_fault(place, outcomes)], 1)
    granted = zip(rows, outcomes, strict=True)
    return {row.reference for (_, row), one in granted if not done(one, Granted).replayed}


def _fault(place: str, refusal: Refusal) -> Fault:
    if refusal.code is RefusalCode.KEY_REUSED:
        return Fault(place, "reference", OTHER_CONTENT)
    return Fault(place, refusal.field or "balance", refusal.detail)


def _origin(request: Request, row: BalanceRow) -> Origin:
    return reference_origin(request, row.reference, *astuple(row))


def _creation(request: Request, row: BalanceRow) -> CreateGrant:
    subject = Subject(row.subject_type, str(row.subject_id))
    body = http.GrantRequest(
        entitlement_type="credit_grant",
        grant_reason="manual",
        credit_type=row.credit_type,
        quantity_granted=row.balance,
        expires_at=row.expires_at,
        reference_id=row.reference,
    )
    return grants.creation(request, body, subject, _origin(request, row))
