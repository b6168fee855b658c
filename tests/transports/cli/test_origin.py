"""Imports from the tables of an older service, on both engines."""

import os
import signal
import sqlite3
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from entitlements.app.operations.importing import ROWS_AT_ONCE
from tests.programs import Program
from tests.servers import run_apart
from tests.transports.cli.conftest import Answer, Entitlements
from tests.waiting import PATIENCE_S

BALANCES = """
    CREATE TABLE credit_balances (
        subject_type VARCHAR(10) NOT NULL,
        subject_id VARCHAR(255) NOT NULL,
        balance INTEGER NOT NULL DEFAULT 0,
        created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
        updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
        PRIMARY KEY (subject_type, subject_id)
    );
    INSERT INTO credit_balances (subject_type, subject_id, balance)
    VALUES ('user', 'ada', 50), ('org', 'Skolan Åre', 500), ('user', 'bo', 0);
"""
OPERATIONS = """
    CREATE TABLE credit_operations (
        id {id} PRIMARY KEY,
        subject_type VARCHAR(10) NOT NULL,
        subject_id VARCHAR(255) NOT NULL,
        metric VARCHAR(100) NOT NULL,
        amount INTEGER NOT NULL,
        batch_id VARCHAR(255),
        consumed_from VARCHAR(10) NOT NULL,
        correlation_id VARCHAR(255) NOT NULL,
        operation_status VARCHAR(20) DEFAULT 'completed',
        created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
    );
    INSERT INTO credit_operations VALUES
        ('00000000-0000-4000-8000-000000000001', 'user', 'ada', 'cj_comparison', 5, NULL,
         'user', 'c-1', 'completed', '2025-01-01 08:00:00'),
        ('00000000-0000-4000-8000-000000000002', 'org', 'Skolan Åre', 'ai_feedback', 15, 'batch-1',
         'org', 'c-2', 'completed', '2025-01-02 08:00:00.25'),
        ('00000000-0000-4000-8000-000000000003', 'user', 'ada', 'cj_comparison', 9, NULL,
         'user', 'c-3', 'failed', '2025-01-03 08:00:00');
"""


class OlderService:
    """An older service's database, of the same engine as the new one, and its import."""

    def __init__(self, entitlements: Entitlements, database: str, url: str) -> None:
        self.run = entitlements
        self.database = database
        self.url = url
        self.sql(BALANCES)
        self.sql(OPERATIONS.format(id="TEXT" if url.startswith("sqlite") else "UUID"))

    def sql(self, script: str) -> None:
        if self.url.startswith("sqlite"):
            with sqlite3.connect(self.url.removeprefix("sqlite:///")) as db:
                db.executescript(script)
            db.close()
        else:
            run_apart(executed(self.url, script))

    def imported(self, *options: str) -> Answer:
        return self("import", "origin", "--from", self.url, *options)

    def __call__(self, *arguments: str) -> Answer:
        return self.run(*arguments, "--database", self.database)

    def history(self, *filters: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self("operations", "--imported", *filters, "--json").json
        return found


async def executed(url: str, script: str) -> None:
    db = await asyncpg.connect(url)
    try:
        await db.execute(script)
    finally:
        await db.close()


@pytest.fixture
def older(
    request: pytest.FixtureRequest, entitlements: Entitlements, database: str, tmp_path: Path
) -> OlderService:
    url = f"sqlite:///{tmp_path / 'older.db'}"
    if database.startswith("postgresql"):
        url = request.getfixturevalue("empty_postgres_url")
    return OlderService(entitlements, database, url)


def test_balances_become_grants_and_operations_a_history(older: OlderService) -> None:
    answer = older.imported("--json")

    assert answer.json == {
        "dry_run": False,
        "balances": {
            "rows": 3,
            "granted": 2,
            "already_there": 0,
            "empty": 1,
            "credits": {"credits": 550},
        },
        "has_operations": True,
        "operations": 3,
        "new_operations": 3,
    }
    (grant,) = older("grants", "list", "--reference", "origin:user:ada", "--json").json
    assert (grant["subject_id"], grant["remaining"], grant["expires_at"]) == ("ada", 50, None)
    assert [one["kind"] for one in older("operations", "--json").json] == ["grant", "grant"]
    failed, at_school, first = older.history()
    assert (failed["operation_status"], failed["amount"]) == ("failed", 9)
    assert at_school == {
        "id": "00000000-0000-4000-8000-000000000002",
        "subject_type": "org",
        "subject_id": "Skolan Åre",
        "credit_type": "credits",
        "metric": "ai_feedback",
        "amount": 15,
        "batch_id": "batch-1",
        "consumed_from": "org",
        "correlation_id": "c-2",
        "operation_status": "completed",
        "created_at": "2025-01-02T08:00:00.250000Z",
    }
    assert first["created_at"] == "2025-01-01T08:00:00Z"


def test_a_second_run_changes_nothing(older: OlderService) -> None:
    older.imported()

    answer = older.imported()

    assert answer.out == (
        "0 of 3 balances granted, 2 already there, 1 empty\n0 of 3 operations imported\n"
    )
    assert older("balance", "user:ada", "--json").json[0]["balance"] == 50
    assert len(older.history()) == 3


def test_a_dry_run_shows_what_would_be_imported(older: OlderService) -> None:
    before = older.imported("--dry-run")
    older.imported()
    after = older.imported("--dry-run")

    assert before.out == (
        "2 of 3 balances would be granted, 0 already there, 1 empty\n  550 credits\n"
        "3 of 3 operations would be imported\n"
    )
    assert after.out == (
        "0 of 3 balances would be granted, 2 already there, 1 empty\n"
        "0 of 3 operations would be imported\n"
    )


def test_a_balance_that_changed_after_its_import_is_refused(older: OlderService) -> None:
    older.imported()
    older.sql("UPDATE credit_balances SET balance = 40 WHERE subject_id = 'ada'")

    answer = older.imported()

    assert answer.code == 1
    assert "credit_balances user:ada: reference was imported before" in answer.err


def test_wrong_rows_are_named_and_nothing_is_written(older: OlderService) -> None:
    older.sql(
        "INSERT INTO credit_balances (subject_type, subject_id, balance) VALUES ('user', 'x', -5)"
    )
    in_balances = older.imported()
    older.sql("UPDATE credit_balances SET balance = 5 WHERE subject_id = 'x'")
    older.sql("UPDATE credit_operations SET subject_type = 'team' WHERE amount = 9")
    in_operations = older.imported()

    assert "credit_balances user:x: balance Expected `int` >= 0" in in_balances.err
    assert (
        "credit_operations 00000000-0000-4000-8000-000000000003: subject_type" in in_operations.err
    )
    assert (in_balances.code, in_operations.code) == (1, 1)
    assert older("operations", "--json").json == []
    assert older.history() == []


def test_subjects_with_the_longest_ids_are_imported(older: OlderService) -> None:
    for last in "ab":
        older.sql(
            "INSERT INTO credit_balances (subject_type, subject_id, balance)"
            f" VALUES ('user', '{'x' * 254}{last}', 5)"
        )

    answer = older.imported("--json")

    assert answer.json["balances"]["granted"] == 4
    (grant,) = older("grants", "list", "--subject", f"user:{'x' * 254}b", "--json").json
    assert (grant["remaining"], len(grant["reference_id"])) == (5, len("origin:") + 64)


def test_optional_columns_can_be_missing_and_others_exist(older: OlderService) -> None:
    older.sql(
        "ALTER TABLE credit_operations DROP COLUMN batch_id;"
        "ALTER TABLE credit_operations DROP COLUMN consumed_from;"
        "ALTER TABLE credit_operations DROP COLUMN correlation_id;"
        "ALTER TABLE credit_operations RENAME COLUMN operation_status TO status;"
        "ALTER TABLE credit_operations ADD COLUMN color TEXT;"
        "ALTER TABLE credit_balances ADD COLUMN credit_type TEXT DEFAULT 'ai_tokens'"
    )

    answer = older.imported("--json")

    assert answer.json["balances"]["credits"] == {"ai_tokens": 550}
    assert older("grants", "list", "--reference", "origin:user:ada:ai_tokens", "--json").json
    newest = older.history()[0]
    assert (newest["operation_status"], newest["correlation_id"]) == ("failed", None)


def test_a_required_column_that_is_missing_is_named(older: OlderService) -> None:
    older.sql("ALTER TABLE credit_operations DROP COLUMN metric")
    operations = older.imported()
    older.sql("ALTER TABLE credit_balances DROP COLUMN balance")
    balances = older.imported()

    assert "its table credit_operations lacks the column metric" in operations.err
    assert "its table credit_balances lacks the column balance" in balances.err
    assert (operations.code, balances.code) == (1, 1)
    assert older("operations", "--json").json == []


def test_a_service_without_operations_has_balances_alone(older: OlderService) -> None:
    older.sql("DROP TABLE credit_operations")

    answer = older.imported()

    assert answer.out.endswith("no operations: the older service has no table credit_operations\n")
    assert older("balance", "user:ada", "--json").json[0]["balance"] == 50


def test_a_database_without_balances_is_refused(older: OlderService) -> None:
    older.sql("DROP TABLE credit_balances")

    answer = older.imported()

    assert (answer.code, "it has no table credit_balances" in answer.err) == (1, True)


def test_a_database_of_this_service_is_refused(older: OlderService) -> None:
    answer = older("import", "origin", "--from", older.database)

    assert (answer.code, "it is a database of this service" in answer.err) == (1, True)


def test_the_history_is_filtered_and_paged(older: OlderService) -> None:
    older.imported()

    for filters, found in (
        (("--subject", "user:ada"), ["c-3", "c-1"]),
        (("--subject", "org:Skolan Åre"), ["c-2"]),
        (("--metric", "cj_comparison"), ["c-3", "c-1"]),
        (("--status", "failed"), ["c-3"]),
        (("--batch", "batch-1"), ["c-2"]),
        (("--correlation-id", "c-1"), ["c-1"]),
        (("--since", "2025-01-02"), ["c-3", "c-2"]),
        (("--until", "2025-01-02"), ["c-1"]),
        (("--since", "2025-01-02", "--until", "2025-01-03"), ["c-2"]),
    ):
        assert [one["correlation_id"] for one in older.history(*filters)] == found, filters
    limited = older("operations", "--imported", "--limit", "2", "--json")
    assert [one["correlation_id"] for one in limited.json] == ["c-3", "c-2"]
    assert "only the first 2 rows are shown" in limited.err
    assert older("operations", "--imported", "--kind", "grant").code == 2


def test_an_import_that_was_killed_is_completed_by_its_repeat(
    older: OlderService, tmp_path: Path
) -> None:
    count = 2 * ROWS_AT_ONCE
    older.sql("DELETE FROM credit_balances")
    older.sql(
        "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < "
        f"{count}) INSERT INTO credit_balances (subject_type, subject_id, balance) "
        "SELECT 'user', 'u' || n, 3 FROM n"
    )
    older("balance", "user:u1")
    log = tmp_path / "import.log"
    dying = Program(
        *("import", "origin", "--from", older.url, "--database", older.database),
        environment={
            **{name: value for name, value in os.environ.items() if "ENTITLEMENTS" not in name},
            "ENTITLEMENTS_ACTOR": "cli",
            "ENTITLEMENTS_FAILPOINT": "before-commit:2",
        },
        log=log,
    )
    assert dying.wait(PATIENCE_S) == -signal.SIGKILL, log.read_text()

    answer = older.imported("--json")

    assert answer.json["balances"]["granted"] == ROWS_AT_ONCE
    assert answer.json["balances"]["already_there"] == ROWS_AT_ONCE
    assert answer.json["new_operations"] == 3


def test_tables_of_another_schema_are_read(entitlements: Entitlements, postgres_url: str) -> None:
    run_apart(executed(postgres_url, 'CREATE SCHEMA "Older One"'))
    run_apart(executed(postgres_url, f'SET search_path TO "Older One"; {BALANCES}'))
    url = postgres_url.replace("postgresql://", "postgresql+asyncpg://")
    mark = "&" if "?" in url else "?"

    answer = entitlements(
        *("import", "origin", "--from", f"{url}{mark}schema=Older%20One"),
        *("--database", postgres_url),
    )

    assert answer.out.startswith("2 of 3 balances granted"), answer.err


def test_an_unreachable_older_service_is_refused(entitlements: Entitlements) -> None:
    missing = entitlements("import", "origin", "--from", "sqlite:///nowhere.db")
    refusing = entitlements("import", "origin", "--from", "postgresql://x:hidden@127.0.0.1:1/x")
    elsewhere = entitlements("import", "origin", "--from", "mysql://x/y")

    assert (missing.code, "there is no database nowhere.db" in missing.err) == (1, True)
    assert (refusing.code, "older service: " in refusing.err) == (1, True)
    assert "hidden" not in refusing.err
    assert elsewhere.code == 2
