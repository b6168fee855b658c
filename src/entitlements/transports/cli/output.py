"""What commands print: tables for people, one JSON document for programs."""

import re
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter, Token
from rich.console import Console
from rich.table import Table

from entitlements.app.redaction import masked

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
"""Nobody wraps what goes into a file or a pipe."""


class Failed(Exception):
    """The command did what it could, and the answer is no."""


class Misused(Exception):
    """The command cannot be understood."""


def show_json(value: object) -> None:
    encoded = msgspec.json.format(msgspec.json.encode(value), indent=2)
    sys.stdout.write(encoded.decode() + "\n")


def show_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str) -> None:
    """Numbers stand right, text left; ``empty`` is said where there are no rows."""
    rows = list(rows)
    if not rows:
        say(empty)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for at, name in enumerate(columns):
        is_number = all(isinstance(row[at], int) for row in rows)
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    console().print(table)


def say(text: str) -> None:
    console().print(text, markup=False, highlight=False, soft_wrap=True)


def complain(text: str) -> None:
    """Say on stderr what is wrong; arguments that it quotes may be URLs with passwords."""
    sys.stderr.write(f"entitlements: {masked(text)}\n")


def console() -> Console:
    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, markup=False)
