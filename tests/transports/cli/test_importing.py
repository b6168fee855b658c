"""Imports of balances, on both engines."""

import asyncio
import os
import signal
from datetime import timedelta
from pathlib import Path

import pytest

from entitlements import wiring
from entitlements.app.operations.importing import FAULTS_KEPT, ROWS_AT_ONCE
from tests.programs import Program
from tests.transports.cli.conftest import Answer, Entitlements
from tests.waiting import PATIENCE_S

HEADER = "subject_type,subject_id,credit_type,balance,expires_at,reference"


class Importer:
    """Writes rows to a file and imports it."""

    def __init__(self, entitlements: Entitlements, database: str, file: Path) -> None:
        self.run = entitlements
        self.database = database
        self.file = file

    def __call__(self, *rows: str, header: str = HEADER, options: tuple[str, ...] = ()) -> Answer:
        self.file.write_text("\n".join([header, *rows, ""]), "utf-8")
        return self.again(options)

    def again(self, options: tuple[str, ...] = ()) -> Answer:
        return self.run("import", "balances", str(self.file), "--database", self.database, *options)

    def balances(self, *subjects: str) -> dict[str, int]:
        answer = self.run("balance", *subjects, "--database", self.database, "--json")
        return {f"{one['subject']}/{one['credit_type']}": one["balance"] for one in answer.json}

    def operations(self) -> int:
        return len(self.run("operations", "--database", self.database, "--json").json)


@pytest.fixture
def importer(entitlements: Entitlements, database: str, tmp_path: Path) -> Importer:
    return Importer(entitlements, database, tmp_path / "balances.csv")


ROWS = (
    "user,ada,credits,50,,old-1",
    "org,Skolan Åre,ai_tokens,500,2999-01-01T00:00:00+01:00,old-2",
    "user,bo,credits,0,,old-3",
)


def test_each_row_becomes_one_grant_with_its_reference(importer: Importer) -> None:
    answer = importer(*ROWS, options=("--json",))

    assert answer.json == {
        "dry_run": False,
        "rows": 3,
        "granted": 2,
        "already_there": 0,
        "empty": 1,
        "credits": {"credits": 50, "ai_tokens": 500},
    }
    (grant,) = importer.run(
        "grants", "list", "--reference", "old-2", "--database", importer.database, "--json"
    ).json
    assert (grant["subject_id"], grant["credit_type"]) == ("Skolan Åre", "ai_tokens")
    assert (grant["remaining"], grant["expires_at"]) == (500, "2998-12-31T23:00:00Z")
    assert (grant["grant_reason"], grant["granted_by"]) == ("manual", "cli")


def test_a_second_run_changes_nothing(importer: Importer) -> None:
    importer(*ROWS)
    before = importer.operations()

    answer = importer.again()

    assert answer.out == "0 of 3 balances granted, 2 already there, 1 empty\n"
    assert importer.operations() == before
    assert importer.balances("user:ada") == {"user:ada/credits": 50}


async def test_a_reference_is_kept_for_good(importer: Importer) -> None:
    await asyncio.to_thread(importer, *ROWS)

    store = await wiring.open_store(importer.database)
    receipts = await store.acts.receipts("cli", ["r:old-1", "r:old-2", "r:old-3", "k:old-1"])
    await store.close()

    assert {one.key for one in receipts} == {"r:old-1", "r:old-2"}
    assert all(one.expires_at - one.created_at > timedelta(days=36_000) for one in receipts)


def test_new_rows_of_a_known_file_are_granted(importer: Importer) -> None:
    importer(*ROWS)

    answer = importer(*ROWS, "user,carl,credits,7,,old-4")

    assert answer.out == "1 of 4 balances granted, 2 already there, 1 empty\n  7 credits\n"


OTHERS = (
    "user,ada,credits,51,,old-1",
    "org,ada,credits,50,,old-1",
    "user,ada,other,50,,old-1",
    "user,ada,credits,50,2999-01-01T00:00:00Z,old-1",
)


def test_a_known_reference_with_other_content_is_refused(importer: Importer) -> None:
    importer(*ROWS)

    for row in OTHERS:
        answer = importer("user,carl,credits,7,,old-4", row)

        assert answer.code == 1
        assert "line 3: reference was imported before" in answer.err
    assert importer.balances("user:ada", "user:carl") == {
        "user:ada/credits": 50,
        "user:carl/credits": 0,
    }


def test_a_dry_run_writes_nothing(importer: Importer) -> None:
    answer = importer(*ROWS, options=("--dry-run",))

    assert answer.out == (
        "2 of 3 balances would be granted, 0 already there, 1 empty\n"
        "  500 ai_tokens\n  50 credits\n"
    )
    assert importer.operations() == 0


WRONG = (
    ("team,ada,credits,5,,r", "subject_type Invalid enum value 'team'"),
    ("user,,credits,5,,r", "subject_id is required"),
    ("user,ada ,credits,5,,r", "subject_id must not begin or end with white space"),
    ("user,ada,units:x,5,,r", "credit_type must not begin with units:"),
    ("user,ada,credits,1.5,,r", "balance Expected `int`"),
    ("user,ada,credits,-5,,r", "balance Expected `int` >= 0"),
    ("user,ada,credits,1000000000000001,,r", "balance Expected `int` <= 1000000000000000"),
    ("user,ada,credits,99999999999999999999,,r", "balance Expected `int`"),
    ("user,ada,credits,5,soon,r", "expires_at must be a time with an offset"),
    ("user,ada,credits,5,2999-01-01T00:00:00,r", "expires_at must be a time with an offset"),
    ("user,ada,credits,5,2001-01-01T00:00:00Z,r", "expires_at must be later than now"),
    ("user,ada,credits,5,,", "reference is required"),
    (f"user,ada,credits,5,,{'r' * 256}", "reference Expected `str` of length <= 255"),
    ("user,ada,credits,5,,good", "reference is the same as that of line 2"),
)


def test_a_wrong_row_is_named_and_nothing_is_written(importer: Importer) -> None:
    for row, fault in WRONG:
        answer = importer("user,bo,credits,5,,good", row)

        assert answer.code == 1
        assert f"line 3: {fault}" in answer.err
    assert importer.operations() == 0


def test_many_wrong_rows_are_counted(importer: Importer) -> None:
    answer = importer(*[f"user,ada,credits,x,,{n}" for n in range(30)], options=("--json",))

    assert answer.json["count"] == 30
    assert len(answer.json["errors"]) == FAULTS_KEPT
    assert answer.json["errors"][0]["place"] == "line 2"
    assert "and 10 more" in answer.err


MALFORMED = (
    ("subject_type,subject_id,balance,reference", "user,ada,5,r", "lacks credit_type"),
    (f"{HEADER},color", "user,ada,credits,5,,r,red", "unknown column 'color'"),
    (f"{HEADER},balance", "user,ada,credits,5,,r,5", "a column occurs twice"),
    (HEADER, "user,ada,credits,5,r", "line 2 has 5 fields, the header has 6"),
    (HEADER, 'user,ada,credits,5,,"r" x', "line 2: "),
)


def test_a_file_with_another_form_is_refused(importer: Importer) -> None:
    for header, row, error in MALFORMED:
        answer = importer(row, header=header)

        assert answer.code == 1
        assert error in answer.err
    assert importer.operations() == 0


def test_a_file_in_another_encoding_is_refused(importer: Importer) -> None:
    importer.file.write_bytes(f"{HEADER}\nuser,Åsa,credits,5,,r\n".encode("latin-1"))

    answer = importer.again()

    assert answer.code == 1
    assert "must be encoded in UTF-8" in answer.err


def test_a_pipe_is_refused_because_it_is_read_twice(importer: Importer) -> None:
    os.mkfifo(importer.file)

    answer = importer.again()

    assert (answer.code, "must be a regular file" in answer.err) == (1, True)


def test_a_refusal_of_the_ledger_names_its_row(importer: Importer) -> None:
    importer(f"user,ada,credits,{10**15},,first")

    answer = importer("user,bo,credits,5,,second", "user,ada,credits,1,,third")

    assert answer.code == 1
    assert "line 3: balance" in answer.err
    assert importer.balances("user:bo") == {"user:bo/credits": 0}


def test_a_long_file_shows_its_progress(importer: Importer) -> None:
    rows = [f"user,u{n},credits,0,,{n}" for n in range(10_000)]

    answer = importer(*rows)

    assert "10,000 rows validated\n" in answer.err
    assert "10,000 rows imported\n" in answer.err


def test_an_import_that_was_killed_is_completed_by_its_repeat(
    importer: Importer, tmp_path: Path
) -> None:
    count = 2 * ROWS_AT_ONCE + 1
    rows = [f"user,u{n % 7},credits,{n % 5 + 1},,{n}" for n in range(count)]
    importer.file.write_text("\n".join([HEADER, *rows]), "utf-8")
    importer.run("balance", "user:u0", "--database", importer.database)
    log = tmp_path / "import.log"
    dying = an_import(importer, log, ENTITLEMENTS_FAILPOINT="before-commit:2")
    assert dying.wait(PATIENCE_S) == -signal.SIGKILL, log.read_text()

    answer = importer.again(("--json",))

    assert answer.json["granted"] == count - ROWS_AT_ONCE
    assert answer.json["already_there"] == ROWS_AT_ONCE
    held = importer.balances(*[f"user:u{n}" for n in range(7)])
    assert sum(held.values()) == sum(n % 5 + 1 for n in range(count))


def test_two_imports_at_once_grant_each_row_once(importer: Importer, tmp_path: Path) -> None:
    count = 2 * ROWS_AT_ONCE + 1
    rows = [f"user,u{n % 7},credits,1,,{n}" for n in range(count)]
    importer.file.write_text("\n".join([HEADER, *rows]), "utf-8")
    importer.run("balance", "user:u0", "--database", importer.database)

    logs = [tmp_path / f"import-{n}.log" for n in range(2)]
    both = [an_import(importer, log) for log in logs]
    codes = [one.wait(PATIENCE_S) for one in both]

    assert codes == [0, 0], [log.read_text() for log in logs]
    held = importer.balances(*[f"user:u{n}" for n in range(7)])
    assert sum(held.values()) == count


def an_import(importer: Importer, log: Path, **environment: str) -> Program:
    """Start an import of the file in another process."""
    kept = {name: value for name, value in os.environ.items() if "ENTITLEMENTS" not in name}
    return Program(
        *("import", "balances", str(importer.file), "--database", importer.database),
        environment={**kept, "ENTITLEMENTS_ACTOR": "cli", **environment},
        log=log,
    )
