"""CSV files: read with line numbers, written safely for spreadsheets.

A spreadsheet runs a cell that begins with ``=``, ``+``, ``-`` or ``@`` as a formula. Such text is
written with an apostrophe before it, which reading removes. Numbers are written as they are.
"""

import csv
import os
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Final, TextIO

import msgspec

from entitlements.app.operations.importing import ROWS_AT_ONCE, SourceRow
from entitlements.transports.cli.output import Failed, whole_number

WriteRow = Callable[[Sequence[Any]], object]

_FORMULA: Final = re.compile(r"'*[=+\-@\t\r]")
_GUARDED: Final = re.compile(r"''*[=+\-@\t\r]")


def guarded(text: str) -> str:
    """Return the text as a cell that no spreadsheet takes for a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def unguarded(cell: str) -> str:
    """Return the text of a cell that `guarded` may have changed."""
    return cell[1:] if _GUARDED.match(cell) else cell


class CsvSource:
    """A CSV file with a header. It must be a regular file, since it is read more than once."""

    def __init__(
        self,
        path: Path,
        required: Sequence[str],
        optional: Sequence[str] = (),
        whole: Sequence[str] = (),
    ) -> None:
        self._path = path
        self._required = required
        self._known = frozenset((*required, *optional))
        self._whole = frozenset(whole)
        if path.exists() and not path.is_file():
            raise Failed(f"{path} must be a regular file: it is read twice")

    async def rows(self) -> AsyncIterator[Sequence[SourceRow]]:
        """Yield the rows, at most `ROWS_AT_ONCE` at a time; empty cells are left out. Raises
        Failed.
        """
        page: list[SourceRow] = []
        for row in self._read():
            page.append(row)
            if len(page) == ROWS_AT_ONCE:
                yield page
                page = []
        if page:
            yield page

    def _read(self) -> Iterator[SourceRow]:
        try:
            with self._path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.reader(file, strict=True)
                try:
                    columns = self._header(next(reader, []))
                    for cells in reader:
                        if cells:
                            yield self._row(f"line {reader.line_num}", columns, cells)
                except csv.Error as error:
                    raise Failed(f"{self._path}: line {reader.line_num}: {error}") from None
        except UnicodeDecodeError as error:
            raise Failed(f"{self._path} must be encoded in UTF-8: {error.reason}") from None
        except OSError as error:
            raise Failed(f"{self._path}: {error.strerror}") from None

    def _header(self, columns: Sequence[str]) -> Sequence[str]:
        columns = [column.strip() for column in columns]
        if missing := [name for name in self._required if name not in columns]:
            raise Failed(f"{self._path}: line 1: the header lacks {', '.join(missing)}")
        if unknown := [name for name in columns if name not in self._known]:
            raise Failed(f"{self._path}: line 1: unknown column {', '.join(map(repr, unknown))}")
        if len(set(columns)) < len(columns):
            raise Failed(f"{self._path}: line 1: a column occurs twice")
        return columns

    def _row(self, place: str, columns: Sequence[str], cells: Sequence[str]) -> SourceRow:
        if len(cells) != len(columns):
            raise Failed(
                f"{self._path}: {place} has {len(cells)} fields, the header has {len(columns)}"
            )
        named = zip(columns, cells, strict=True)
        return SourceRow(place, {name: self._value(name, cell) for name, cell in named if cell})

    def _value(self, name: str, cell: str) -> str | int:
        if name in self._whole:
            with suppress(ValueError):
                return whole_number(cell)
        return unguarded(cell)


@contextmanager
def csv_output(path: Path | None, columns: Sequence[str]) -> Iterator[WriteRow]:
    """Write a CSV file with this header, or to standard output; yield what writes a row.

    The file appears when it is complete, and replaces none. Raises Failed.
    """
    if path is None:
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8", errors="strict")
        yield _writer(sys.stdout, columns)
        sys.stdout.flush()
        return
    if path.exists():
        raise Failed(f"{path} exists already")
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as file:
            yield _writer(file, columns)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise Failed(f"{path}: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)


def _writer(file: TextIO, columns: Sequence[str]) -> WriteRow:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    return lambda row: writer.writerow([_cell(value) for value in row])


def _cell(value: Any) -> str | int | None:
    """Return the cell of a value: times in RFC 3339, JSON as text."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, str):
        return guarded(value)
    if value is None or isinstance(value, int):
        return value
    return guarded(msgspec.json.encode(value).decode())
