"""Listings on SQLite use an index, and sort no more than the rows of one instant."""

from __future__ import annotations

import re
from pathlib import Path

import apsw
import pytest

from entitlements.adapters import columns
from entitlements.adapters.listing import Listed, Steps
from entitlements.adapters.sqlite import migrate, rows
from entitlements.adapters.sqlite.connection import connect, create_private
from entitlements.adapters.sqlite.statements import SQL
from tests.adapters.listings import ID, LOOKUPS, cases

FILL = f"""
INSERT INTO receipts VALUES ('c', 'k:k', '', '{{"operation_id": "{ID}"}}', 0, 0);
INSERT INTO credit_balances VALUES ('user', 'ada', 'credits', 0, 0, 0, 9, NULL, 0, 0, 0, 0);
INSERT INTO credit_balances VALUES ('user', 'busy', 'credits', 0, 0, 0, 20001, NULL, 0, 0, 0, 0);
INSERT INTO holds ({", ".join(columns.HOLD)})
    VALUES ('user', 'ada', 'credits', '{ID}', 'ada', NULL, NULL, 0, 0, 0, 0, '[]',
    'settled', 2, '{{}}', NULL, 'c', '1', 'a', 'c', 1, 1, '{{}}', '{{}}', NULL);
"""
NAMES = {
    "credit_operations_pkey": "sqlite_autoindex_credit_operations_1",
    "dead_letters_pkey": "sqlite_autoindex_dead_letters_1",
    "webhook_deliveries_pkey": "sqlite_autoindex_webhook_deliveries_1",
    "holds_pkey": "holds PRIMARY KEY",
    "credit_balances_pkey": "credit_balances PRIMARY KEY",
}
"""Primary keys as SQLite's query plans name them."""
MORE_LOOKUPS = {"w PRIMARY KEY", "r PRIMARY KEY", "receipts PRIMARY KEY"}
READ = re.compile(r"(?:SEARCH|SCAN) (\w+) USING (?:COVERING )?(?:INDEX )?(\w+)( KEY)?")
WHOLE = re.compile(r"SCAN (?!looked|[chp]$)\w+$|USE TEMP B-TREE FOR ORDER BY")


@pytest.fixture
def db(tmp_path: Path) -> apsw.Connection:
    create_private(tmp_path / "books.db")
    db = connect(tmp_path / "books.db")
    migrate.migrate(db, 0)
    db.execute(FILL)
    return db


def used(db: apsw.Connection, steps: Steps[Listed]) -> set[str]:
    """Return what `read_by` finds for all statements of a listing."""
    found = set()
    try:
        statement, values = next(steps)
        while True:
            numbered = statement.replace("$", "?")
            found |= read_by(db, numbered, tuple(values))
            statement, values = steps.send(db.execute(numbered, values).fetchall())
    except StopIteration:
        return found


def read_by(db: apsw.Connection, statement: str, values: tuple[object, ...]) -> set[str]:
    """Return the indexes that the plan uses, and its lines that scan or sort everything."""
    found = set()
    for row in db.execute(f"EXPLAIN QUERY PLAN {statement}", values).fetchall():
        line = str(row[-1])
        if read := READ.match(line):
            found.add(f"{read[1]} PRIMARY KEY" if read[3] else read[2])
        elif WHOLE.match(line):
            found.add(line)
    return found


def test_listings_use_the_index_of_their_filters(db: apsw.Connection) -> None:
    lookups = MORE_LOOKUPS | {NAMES.get(name, name) for name in LOOKUPS}
    found, meant = {}, {}
    for case in cases(rows.to_us):
        index = NAMES.get(case.walks, case.walks)
        found[case.label] = used(db, case.steps) - (lookups - {index})
        meant[case.label] = {index}

    assert found == meant


@pytest.mark.parametrize(
    ("statement", "indexes"),
    [
        (SQL["debts_open"], {"debts_open"}),
        # It sorts the rows of two pages.
        (SQL["debts"], {"debts_open", "debts_closed", "USE TEMP B-TREE FOR ORDER BY"}),
    ],
)
def test_debts_are_read_by_the_index_of_their_order(
    db: apsw.Connection, statement: str, indexes: set[str]
) -> None:
    assert read_by(db, statement, (0, "", 9)) == indexes
