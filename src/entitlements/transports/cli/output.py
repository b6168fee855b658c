"""The output of commands: tables for people, one JSON document for programs."""

import json
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from cyclopts import Parameter, Token

ACTOR_VARIABLE: Final = "ENTITLEMENTS_ACTOR"
ID_SHOWN_MIN: Final = 13
"""The part of a UUIDv7 with its millisecond of creation."""

Database = Annotated[
    str | None,
    Parameter(help="Database URL; default: ENTITLEMENTS_DATABASE_URL, or ./entitlements.db"),
]
AsJson = Annotated[
    bool, Parameter(name="--json", negative="", help="Print one JSON document for programs.")
]


def whole(_: type, tokens: Sequence[Token]) -> int:
    """Return a whole number in plain digits; the parser's default would round ``1.5``."""
    return whole_number(tokens[0].value)


def whole_number(text: str) -> int:
    """Return the number that the text is in plain digits. Raise ValueError."""
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{text!r} is not a whole number")
    return int(text)


def _up_to(maximum: int) -> Parameter:
    def converted(kind: type, tokens: Sequence[Token]) -> int:
        limit = whole(kind, tokens)
        if not 1 <= limit <= maximum:
            raise ValueError(f"must be 1 to {maximum}")
        return limit

    return Parameter(converter=converted, help=f"1 to {maximum}.")


Whole = Annotated[int, Parameter(converter=whole)]
PAGE_MAX = 1_000
Limit = Annotated[int, _up_to(PAGE_MAX)]
"""The limit of a listing that is read as one page."""
LongLimit = Annotated[int, _up_to(1_000_000)]
"""The limit of a listing that is read in pages."""
PROGRESS_ROWS: Final = 10_000
"""After how many rows imports and exports print their progress."""

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_PIPE_WIDTH = 200
"""The width for a file or a pipe."""


class Failed(Exception):
    """The command failed or was refused."""


class Misused(Exception):
    """The arguments are invalid."""


class Id(str):
    """An id in a table. If the table is too wide, only its start is shown; commands accept it."""

    __slots__ = ()


def show_json(value: object) -> None:
    """Print the value as JSON, in ASCII if the output is not UTF-8."""
    import msgspec

    is_utf8 = (sys.stdout.encoding or "utf-8").lower().replace("-", "") == "utf8"
    decoded = json.loads(msgspec.json.encode(value))
    sys.stdout.write(json.dumps(decoded, indent=2, ensure_ascii=not is_utf8) + "\n")


def shown_time(at: datetime) -> str:
    """Return the time in the format that all commands print and options accept."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def show_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str) -> None:
    """Print a table; ``empty`` if it has no rows.

    A table that is too wide for the terminal is shown without empty columns and with short ids. If
    that is still too wide, it is shown row by row.
    """
    rows = [tuple(_cell(cell) for cell in row) for row in rows]
    if not rows:
        say(empty)
    elif not _print_table(columns, rows):
        used = [at for at in range(len(columns)) if any(row[at] not in ("", None) for row in rows)]
        columns = [columns[at] for at in used]
        rows = [tuple(row[at] for at in used) for row in rows]
        if not _print_table(columns, _with_short_ids(rows)):
            say("\n\n".join(_block(columns, row) for row in rows))


def _block(columns: Sequence[str], row: Sequence[Any]) -> str:
    """Return the row with one line per column that is not empty."""
    width = max(map(len, columns))
    cells = zip(columns, row, strict=True)
    return "\n".join(f"{name:<{width}}  {cell}" for name, cell in cells if cell not in ("", None))


def _cell(cell: Any) -> Any:
    return shown_time(cell) if isinstance(cell, datetime) else cell


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> bool:
    """Print the table if it fits. Numbers are aligned right, text left."""
    from rich.measure import Measurement
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for at, name in enumerate(columns):
        is_number = all(isinstance(row[at], int) for row in rows)
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    console = _console()
    if sys.stdout.isatty():
        wanted = Measurement.get(console, console.options.update(max_width=10_000), table)
        if wanted.maximum > console.width:
            return False
    console.print(table)
    return True


def _with_short_ids(rows: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
    """Return the rows with ids cut to the shortest length that keeps a column's ids distinct."""
    short = []
    for column in zip(*rows, strict=True):
        ids = {cell for cell in column if isinstance(cell, Id)}
        size = next(
            size
            for size in range(ID_SHOWN_MIN, 10_000)
            if len({cell[:size] for cell in ids}) == len(ids)
        )
        short.append([cell[:size] if isinstance(cell, Id) else cell for cell in column])
    return list(zip(*short, strict=True))


def say(text: str) -> None:
    _console().print(text, markup=False, highlight=False, soft_wrap=True)


def note(text: str) -> None:
    """Print a note to stderr; standard output has only the command's result."""
    sys.stderr.write(f"{text}\n")


def complain(text: str) -> None:
    """Print an error to stderr; passwords in URLs that it quotes are redacted."""
    from entitlements.app.process.redaction import masked

    sys.stderr.write(f"entitlements: {masked(text)}\n")


def _console() -> Any:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, markup=False)
