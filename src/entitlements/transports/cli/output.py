"""What commands print: tables for people, one JSON document for programs."""

import json
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from cyclopts import Parameter, Token

ACTOR_VARIABLE: Final = "ENTITLEMENTS_ACTOR"
ID_SHOWN_MIN: Final = 13
"""Of a UUIDv7: the millisecond in which it was made."""

Database = Annotated[
    str | None,
    Parameter(help="URL of the database; else ENTITLEMENTS_DATABASE_URL, else ./entitlements.db"),
]
AsJson = Annotated[
    bool, Parameter(name="--json", negative="", help="Print one JSON document for programs.")
]


def whole(_: type, tokens: Sequence[Token]) -> int:
    """A whole number in plain digits; left to itself the parser would round ``1.5``."""
    text = tokens[0].value
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{text!r} is not a whole number")
    return int(text)


def _listed(kind: type, tokens: Sequence[Token]) -> int:
    limit = whole(kind, tokens)
    if not 1 <= limit <= LISTED_MAX:
        raise ValueError(f"must be 1 to {LISTED_MAX}")
    return limit


LISTED_MAX = 1_000
Whole = Annotated[int, Parameter(converter=whole)]
Limit = Annotated[int, Parameter(converter=_listed, help=f"1 to {LISTED_MAX}.")]

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_PIPE_WIDTH = 200
"""A file or a pipe has no width to fit into."""


class Failed(Exception):
    """The command did what it could, and the answer is no."""


class Misused(Exception):
    """The command cannot be understood."""


class Id(str):
    """An id in a table. Where the table is too wide its start is shown, which commands accept."""

    __slots__ = ()


def show_json(value: object) -> None:
    """Print the value as JSON, in ASCII where the output is not UTF-8."""
    import msgspec

    is_utf8 = (sys.stdout.encoding or "utf-8").lower().replace("-", "") == "utf8"
    decoded = json.loads(msgspec.json.encode(value))
    sys.stdout.write(json.dumps(decoded, indent=2, ensure_ascii=not is_utf8) + "\n")


def shown_time(at: datetime) -> str:
    """The time as every command prints it, and as options accept it."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def show_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str) -> None:
    """Print a table; ``empty`` where there are no rows.

    One that is too wide for the terminal is shown without empty columns and with short ids, and
    if that is too wide, row by row.
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
    """A row with a line for each of its columns that is not empty."""
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
    """Each id cut to as few characters as tell those of its column apart."""
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
    """Say on stderr what goes with a result that is alone on standard output."""
    sys.stderr.write(f"{text}\n")


def complain(text: str) -> None:
    """Say on stderr what is wrong; arguments that it quotes may be URLs with passwords."""
    from entitlements.app.redaction import masked

    sys.stderr.write(f"entitlements: {masked(text)}\n")


def _console() -> Any:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, markup=False)
