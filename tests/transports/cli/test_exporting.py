"""Exports as CSV, on both engines, and their round trip."""

import csv
from pathlib import Path

import pytest

from entitlements.transports.cli.csv_files import guarded, unguarded
from tests.tables import sqlite_url
from tests.transports.cli.conftest import Answer, Entitlements

HEADER = "subject_type,subject_id,credit_type,balance,expires_at,reference"
FORMULAS = ("=1+1", "+1", "-1", "@x", "'=1", "''@x", '=HYPERLINK("x","y")')
PLAIN = ("ada", "'ada", "a=b", "Åsa", "1,5", 'a "b"', "'")


class Books:
    """A database and its commands."""

    def __init__(self, entitlements: Entitlements, url: str) -> None:
        self._run = entitlements
        self.url = url

    def __call__(self, *arguments: str) -> Answer:
        return self._run(*arguments, "--database", self.url)

    def exported(self, *arguments: str) -> list[dict[str, str]]:
        answer = self("export", *arguments)
        assert answer.code == 0, answer.err
        return list(csv.DictReader(answer.out.splitlines()))

    def grant(self, subject: str, quantity: int, *options: str, of: str = "credits") -> None:
        answer = self(
            *("grant", subject, "credit_grant", "--credit-type", of, "--quantity", str(quantity)),
            *options,
        )
        assert answer.code == 0, answer.err


@pytest.fixture
def books(entitlements: Entitlements, database: str) -> Books:
    return Books(entitlements, database)


def test_balances_have_a_row_for_each_expiry(books: Books) -> None:
    books.grant("user:ada", 50)
    books.grant("user:ada", 7)
    books.grant("user:ada", 30, "--expires-at", "2999-01-01")
    books.grant("user:ada", 20, "--expires-at", "2998-01-01T00:00:00+01:00")
    books.grant("user:ada", 3, of="ai_tokens")
    books.grant("user:ada", 4, "--starts-at", "2998-01-01")
    books("grant", "user:ada", "usage_allowance", "--metric", "cj_comparison", "--quantity", "9")
    books("adjust", "user:ada", "-5", "--reason", "mistake")
    books("account", "open", "org:school")
    books("adjust", "org:school", "-500", "--reason", "mistake")

    rows = books.exported("balances", "--csv")

    assert [(r["subject_id"], r["credit_type"], r["balance"], r["expires_at"]) for r in rows] == [
        ("ada", "credits", "15", "2997-12-31T23:00:00Z"),
        ("ada", "credits", "30", "2999-01-01T00:00:00Z"),
        ("ada", "credits", "57", ""),
        ("ada", "ai_tokens", "3", ""),
        ("school", "credits", "0", ""),
    ]
    assert len({row["reference"] for row in rows}) == 5
    of_tokens = books.exported("balances", "--subject", "user:ada", "--credit-type", "ai_tokens")
    assert [row["balance"] for row in of_tokens] == ["3"]


def test_a_subject_with_many_grants_is_exported_whole(books: Books, tmp_path: Path) -> None:
    file = tmp_path / "many.csv"
    rows = [f"user,ada,credits,{n},,{n}" for n in range(1, 251)]
    file.write_text("\n".join([HEADER, *rows]), "utf-8")
    books("import", "balances", str(file))

    (row,) = books.exported("balances")

    assert row["balance"] == str(sum(range(1, 251)))


def test_exported_balances_can_be_imported_into_another_database(
    books: Books, entitlements: Entitlements, tmp_path: Path
) -> None:
    for number, name in enumerate([*FORMULAS, *PLAIN], 1):
        books.grant(f"org:{name}", number)
        books.grant(f"user:{name}", 2 * number, "--expires-at", f"29{number + 10}-01-01")
    file = tmp_path / "balances.csv"
    books("export", "balances", "--out", str(file))
    (tmp_path / "other").mkdir()
    other = Books(entitlements, sqlite_url(tmp_path / "other"))

    imported = other("import", "balances", str(file))

    count = len(FORMULAS) + len(PLAIN)
    assert imported.out.startswith(f"{2 * count} of {2 * count} balances granted"), imported.err
    assert other("export", "balances").out == file.read_text("utf-8")


def test_text_that_a_spreadsheet_would_run_is_guarded(books: Books) -> None:
    books.grant("user:=1+1", 5, "--notes", "@SUM(A1)", "--reference", "+x")

    cells = books("export", "grants").out
    operations = books("export", "operations").out

    assert ",'=1+1," in cells
    assert ",'@SUM(A1)," in cells
    assert ",'+x," in cells
    assert ",'=1+1," in operations


def test_a_guard_is_removed_when_the_cell_is_read() -> None:
    for text in (*FORMULAS, *PLAIN, ""):
        assert unguarded(guarded(text)) == text
    assert all(guarded(text) == f"'{text}" for text in FORMULAS)
    assert all(guarded(text) == text for text in PLAIN)


def test_grants_are_exported_with_the_filters_of_their_listing(books: Books) -> None:
    books.grant("user:ada", 5, "--reference", "one", "--metadata", '{"seats": 3}')
    books.grant("user:bo", 6, "--reference", "two")
    books("revoke", "--reference", "two")

    every = books.exported("grants", "--csv")
    active = books.exported("grants", "--status", "active", "--type", "credit_grant")
    of_bo = books.exported("grants", "--subject", "user:bo")

    assert [row["reference_id"] for row in every] == ["two", "one"]
    assert [(row["reference_id"], row["metadata"]) for row in active] == [("one", '{"seats":3}')]
    assert [(row["status"], row["remaining"]) for row in of_bo] == [("revoked", "0")]


def test_operations_are_exported_in_pages_with_signed_numbers(books: Books, tmp_path: Path) -> None:
    file = tmp_path / "many.csv"
    rows = [f"user,u{n},credits,1,,{n}" for n in range(1_500)]
    file.write_text("\n".join([HEADER, *rows]), "utf-8")
    books("import", "balances", str(file))
    books("adjust", "user:u1", "-1", "--reason", "mistake")

    every = books.exported("operations", "--csv")
    of_one = books.exported("operations", "--subject", "user:u1")
    before = books.exported("operations", "--until", "2001-01-01")
    since = books.exported("operations", "--since", "2001-01-01", "--metric", "manual_adjustment")

    assert len(every) == 1_501
    assert [(row["kind"], row["delta"]) for row in of_one] == [
        ("manual_adjustment", "-1"),
        ("grant", "1"),
    ]
    assert of_one[0]["created_at"].endswith("Z")
    assert before == []
    assert [row["delta"] for row in since] == ["-1"]


def test_a_file_is_new_and_complete(books: Books, tmp_path: Path) -> None:
    books.grant("user:ada", 5)
    file = tmp_path / "out.csv"

    first = books("export", "balances", "--out", str(file))
    second = books("export", "balances", "--out", str(file))
    nowhere = books("export", "balances", "--out", str(tmp_path / "no" / "out.csv"))

    assert (first.code, first.out, first.err) == (0, "", "1 rows exported\n")
    assert len(file.read_text("utf-8").splitlines()) == 2
    assert (second.code, f"{file} exists already" in second.err) == (1, True)
    assert nowhere.code == 1
    assert [one.name for one in tmp_path.iterdir() if "part" in one.name] == []


def test_an_overdrawn_wallet_is_exported_and_not_imported(books: Books, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("costs: {essay: 5}\nshortfall: overdraft\noverdraft_limit: 100\n", "utf-8")
    books("policy", "apply", str(policy))
    books.grant("user:ada", 3)
    books("consume", "ada", "essay=2")
    file = tmp_path / "balances.csv"

    exported = books("export", "balances", "--out", str(file))
    imported = books("import", "balances", str(file))

    assert exported.code == 0
    assert file.read_text("utf-8").splitlines()[1].startswith("user,ada,credits,-7,,")
    assert (imported.code, "line 2: balance" in imported.err) == (1, True)


def test_a_spent_part_is_not_exported(books: Books) -> None:
    books.grant("user:ada", 8, "--expires-at", "2999-01-01")
    books("consume", "ada", "cj_comparison=3")

    (row,) = books.exported("balances")

    assert (row["balance"], row["expires_at"]) == ("5", "2999-01-01T00:00:00Z")
