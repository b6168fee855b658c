"""The page about imports and exports runs from top to bottom."""

import re
import shlex
import sqlite3
from pathlib import Path

from tests.transports.cli.conftest import Entitlements

PAGE = (Path(__file__).parents[3] / "docs/moving-in.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_commands_of_the_page_print_what_it_shows(
    entitlements: Entitlements, tmp_path: Path
) -> None:
    [balances], [tables] = blocks("csv"), blocks("sql")
    (tmp_path / "balances.csv").write_text(balances, "utf-8")
    with sqlite3.connect(tmp_path / "older.db") as older:
        older.executescript(tables)
    older.close()

    shown = re.split(r"^\$ ", "".join(blocks("console")), flags=re.MULTILINE)
    for step in filter(None, shown):
        command, _, printed = step.partition("\n")
        answer = entitlements(*shlex.split(command)[1:])

        lines = [line.rstrip() for line in answer.out.splitlines()]
        assert lines == printed.splitlines(), command
