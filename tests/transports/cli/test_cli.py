import asyncio
import csv
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from entitlements.adapters.postgres.verify import INVARIANTS
from entitlements.app.policy.document import default_policy_text
from entitlements.core.commands import Origin, TakeHold
from entitlements.service.compose import build
from entitlements.settings import load
from entitlements.transports.cli.app import commands
from tests.servers import Postgres
from tests.transports.cli.conftest import Entitlements

REFERENCE = (Path(__file__).parents[3] / "docs/reference/cli.md").read_text("utf-8")


def test_an_account_gets_its_bonus_once(entitlements: Entitlements) -> None:
    first = entitlements("account", "open", "user:ada", "--json")
    second = entitlements("account", "open", "user:ada", "--json")

    assert (first.json["created"], first.json["bonus"], first.json["new_balance"]) == (True, 50, 50)
    assert (second.json["created"], second.json["bonus"]) == (False, 0)
    assert second.json["new_balance"] == 50


def test_adjusting_changes_the_balance_and_is_in_the_ledger(entitlements: Entitlements) -> None:
    entitlements("adjust", "org:school", "100", "--reason", "invoice")
    taken = entitlements("adjust", "org:school", "-30", "--reason", "mistake")

    assert taken.out == "org:school has 70 credits\n"
    assert entitlements("balance", "org:school", "--json").json == [
        {
            "subject": "org:school",
            "credit_type": "credits",
            "balance": 70,
            "held": 0,
            "available": 70,
            "soonest_expiry": None,
        }
    ]
    newest, oldest = entitlements("operations", "--subject", "org:school", "--json").json
    assert (newest["delta"], newest["reason"], newest["actor"]) == (-30, "mistake", "cli")
    assert (oldest["subject_type"], oldest["subject_id"]) == ("org", "school")
    assert oldest["operation_status"] == "completed"


@pytest.mark.parametrize(
    "reading",
    [
        ("balance", "user:ada"),
        ("check", "ada", "spellcheck"),
        ("keys", "list"),
        ("keys", "revoke", "0"),
        ("operations",),
        ("policy", "diff", "a"),
        ("policy", "history"),
        ("policy", "show"),
        ("verify",),
    ],
    ids=" ".join,
)
def test_a_read_of_a_missing_file_does_not_create_it(
    entitlements: Entitlements, tmp_path: Path, reading: tuple[str, ...]
) -> None:
    answer = entitlements(*reading, "--database", "sqlite:///mistyped.db")

    assert (answer.code, answer.out) == (1, "")
    assert answer.err == "entitlements: there is no database mistyped.db\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "writing",
    [
        ("account", "open", "user:ada"),
        ("adjust", "user:ada", "5", "--reason", "gift"),
        ("keys", "create", "grader", "--role", "service"),
        ("migrate",),
    ],
    ids=" ".join,
)
def test_a_write_creates_the_file(entitlements: Entitlements, writing: tuple[str, ...]) -> None:
    assert entitlements(*writing, "--database", "sqlite:///new.db").code == 0

    assert entitlements("verify", "--database", "sqlite:///new.db").out == "The books balance.\n"


def test_an_adjustment_expires_and_an_operation_is_shown(entitlements: Entitlements) -> None:
    asked = ("adjust", "user:ada", "5", "--reason", "trial", "--expires-at", "2999-01-01")
    given = entitlements(*asked, "--key", "trial-1", "--json").json
    again = entitlements(*asked, "--key", "trial-1", "--json").json
    shown = entitlements("operations", "show", given["operation_id"], "--json").json

    assert (again["replayed"], shown["delta"]) == (True, 5)
    assert "2999-01-01" in entitlements("balance", "user:ada").out
    assert given["operation_id"] in entitlements("operations", "show", given["operation_id"]).out
    assert entitlements("operations", "show", "nothing").code == 1
    past = entitlements("adjust", "user:ada", "5", "--reason", "x", "--expires-at", "2020-01-01")
    burn = entitlements("adjust", "user:ada", "-1", "--reason", "x", "--expires-at", "2999-01-01")
    assert (past.code, burn.code) == (1, 2)


def test_an_adjustment_below_zero_is_refused_and_changes_nothing(
    entitlements: Entitlements,
) -> None:
    entitlements("adjust", "user:ada", "5", "--reason", "gift")

    refused = entitlements("adjust", "user:ada", "-6", "--reason", "mistake")

    assert (refused.code, refused.out) == (1, "")
    assert refused.err == "entitlements: 6 credits cannot be taken from 5 available\n"
    assert len(entitlements("operations", "--json").json) == 1


def test_a_hold_is_shown_and_released(entitlements: Entitlements, tmp_path: Path) -> None:
    entitlements("adjust", "user:ada", "50", "--reason", "gift")
    hold_id = asyncio.run(a_hold(tmp_path / "entitlements.db"))

    listed = entitlements("holds", "list", "--subject", "user:ada")
    shown = entitlements("holds", "show", hold_id, "--json").json
    released = entitlements("holds", "release", hold_id, "--reason", "stuck")
    again = entitlements("holds", "release", hold_id)

    assert re.search(rf"{hold_id} +user:ada/credits +open +20 +20 +0 +0 ", listed.out)
    assert shown[0]["by_credit_type"]["credits"]["held"] == 20
    assert released.out == f"{hold_id} is released: 20 credits returned\n"
    assert again.out == f"{hold_id} is released: 20 credits returned (replayed)\n"
    assert entitlements("holds", "list").out == "no holds\n"
    assert len(entitlements("holds", "list", "--status", "all", "--json").json) == 1
    assert entitlements("holds", "show", "odd").err == "entitlements: no such hold: odd\n"


async def a_hold(path: Path) -> str:
    async with build(load(database_url=f"sqlite:///{path}")) as system:
        command = TakeHold(
            id=system.engine.new_id(),
            origin=Origin(
                actor="t", client="t", correlation_id="t", key="t", fingerprint="t", lifetime_s=60
            ),
            user_id="ada",
            credits=20,
            ttl_s=600,
        )
        await system.engine.committer.submit(command)
        return command.id


def test_a_check_shows_the_payer_and_the_reason(entitlements: Entitlements) -> None:
    entitlements("adjust", "org:school", "50", "--reason", "invoice")

    allowed = entitlements("check", "ada", "cj_comparison=45", "spellcheck", "--org", "school")
    told = entitlements("check", "ada", "cj_comparison=45", "--org", "school", "--explain")
    program = entitlements("check", "ada", "cj_comparison", "--org=school", "--explain", "--json")

    assert allowed.out == "Allowed; the org would pay 45 credits.\n"
    assert re.search(r"payer +org:school +pass +has 50 of 45 credits", told.out)
    assert re.search(r"payer +user:ada +skipped", told.out)
    assert "These grants would pay" in told.out
    assert program.json["explain"]["draws"][0]["quantity"] == 1
    assert program.json["source"] == "org"


def test_a_denied_check_exits_with_1_and_names_the_gate(entitlements: Entitlements) -> None:
    entitlements("migrate")
    short = entitlements("check", "ada", "cj_comparison=3", "--explain")
    typo = entitlements("check", "ada", "cj_comparision=3")
    often = entitlements("check", "ada", "batch_create=61", "--explain")

    assert (short.code, typo.code, often.code) == (1, 1, 1)
    assert short.out.startswith("Denied: insufficient_credits. It needs 3 credits.")
    assert short.out.endswith("Waiting will not help.\n")
    assert typo.out == "Denied: the policy has no cost, limit or price for cj_comparision.\n"
    assert re.search(r"limit +batch_create +fail +0 used \+ 61 of 60 in 3600 s", often.out)


@pytest.mark.parametrize(
    "words", [(), ("a=1.5",), ("a=-1",), ("a=1", "a=2"), ("=3",), ("a=9999999999999999",)]
)
def test_an_invalid_check_exits_with_2(entitlements: Entitlements, words: tuple[str, ...]) -> None:
    assert entitlements("check", "ada", *words).code == 2


def test_the_same_key_again_changes_nothing(entitlements: Entitlements) -> None:
    order = ("adjust", "user:ada", "5", "--reason", "invoice", "--key", "invoice-1", "--json")
    first = entitlements(*order).json

    again = entitlements(*order).json
    other = entitlements(*order[:2], "6", *order[3:])

    assert again == {**first, "replayed": True}
    assert (other.code, again["new_balance"]) == (1, 5)
    assert "idempotency key" in other.err


def test_operations_are_filtered_and_bounded(entitlements: Entitlements) -> None:
    for subject in ("user:a", "user:b", "user:b"):
        entitlements("adjust", subject, "1", "--reason", "gift")

    def listed(*filters: str) -> int:
        return len(entitlements("operations", *filters, "--json").json)

    assert listed() == 3
    assert listed("--subject", "user:b") == 2
    assert listed("--limit", "1") == 1
    assert listed("--status", "failed") == 0
    assert listed("--until", "2020-01-01") == 0
    assert listed("--since", "2020-01-01") == 3


@pytest.mark.parametrize(("limit", "is_cut"), [("4", True), ("5", False), ("6", False)])
def test_a_listing_is_read_in_pages_and_says_if_it_is_cut(
    entitlements: Entitlements, monkeypatch: pytest.MonkeyPatch, limit: str, *, is_cut: bool
) -> None:
    monkeypatch.setattr("entitlements.transports.cli.listings.PAGE_MAX", 2)
    for number in range(5):
        entitlements("adjust", "user:a", "1", "--reason", f"gift {number}")

    listing = entitlements("operations", "--limit", limit, "--json")

    assert [row["seq"] for row in listing.json] == [5, 4, 3, 2, 1][: int(limit)]
    assert ("only the first 4 rows are shown" in listing.err) == is_cut


def test_the_operations_of_a_month_are_csv(
    entitlements: Entitlements, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    entitlements("adjust", "org:school", "100", "--reason", "a pilot")
    entitlements("adjust", "org:school", "-30", "--reason", "mistake")
    (command,) = re.findall(r"```sh\n(entitlements operations .*?)```", REFERENCE, re.DOTALL)
    month = command.replace("2026-09-01", "2020-01-01").replace("2026-10-01", "2100-01-01")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")

    shell = subprocess.run(
        ["sh", "-ec", month], check=True, capture_output=True, text=True, timeout=60
    )

    rows = list(csv.reader(shell.stdout.splitlines()))
    assert [row[1:9] for row in rows] == [
        ["org", "school", "credits", "manual_adjustment", "manual_adjustment", "0", "-30", "70"],
        ["org", "school", "credits", "manual_adjustment", "manual_adjustment", "0", "100", "100"],
    ]


@pytest.mark.parametrize("blank", ["", " ", "\u00a0\u200b"])
def test_a_blank_filter_is_refused_and_not_dropped(entitlements: Entitlements, blank: str) -> None:
    entitlements("account", "open", "user:ada")
    filters = ("--correlation-id", "--idempotency-key", "--hold", "--metric", "--user", "--org")

    for option in (*filters, "--batch", "--subject"):
        assert entitlements("operations", option, blank).code == 2, option
    for option in ("--user", "--org"):
        assert entitlements("conflicts", option, blank).code == 2, option
    assert entitlements("holds", "list", "--subject", blank).code == 2


def test_padded_ids_are_accepted_only_where_they_are_stored(
    entitlements: Entitlements, tmp_path: Path
) -> None:
    asked = ("adjust", "user: ada", "5", "--reason", "gift")
    assert entitlements(*asked).code == 2
    assert entitlements("account", "open", "user: ada").code == 2
    assert entitlements("check", "ada", "cj_comparison ").code == 2
    entitlements("account", "open", "user:ada")
    with sqlite3.connect(tmp_path / "entitlements.db") as db:
        for table in ("credit_balances", "grants", "credit_operations", "event_outbox"):
            db.execute(f"UPDATE {table} SET subject_id = ' ada'")

    assert entitlements(*asked).out == "user: ada has 55 credits\n"
    assert len(entitlements("operations", "--subject", "user: ada", "--json").json) == 2
    assert entitlements("balance", "user: ada", "--json").json[0]["balance"] == 55


def test_people_get_a_table_with_every_wallet(entitlements: Entitlements) -> None:
    entitlements("adjust", "user:åsa", "5", "--reason", "gift", "--credit-type", "ai_tokens")

    shown = entitlements("balance", "user:åsa", "user:nobody").out.splitlines()

    columns = ["subject", "credit_type", "balance", "held", "available", "soonest_expiry"]
    assert shown[0].split() == columns
    assert shown[1].split() == ["user:åsa", "ai_tokens", "5", "0", "5"]
    assert shown[2].split() == ["user:nobody", "credits", "0", "0", "0"]


def test_a_key_is_shown_once_listed_and_revoked(entitlements: Entitlements) -> None:
    made = entitlements("keys", "create", "pipeline", "--role", "service", "--json").json

    listed = entitlements("keys", "list")
    first = entitlements("keys", "revoke", made["id"])
    second = entitlements("keys", "revoke", made["id"])

    assert made["secret"].startswith(made["prefix"])
    assert made["secret"] not in listed.out
    assert made["id"] in listed.out
    assert (first.code, first.out) == (0, f"{made['id']} is revoked\n")
    assert second.out == f"{made['id']} was revoked before\n"
    assert entitlements("keys", "list", "--json").json[0]["revoked_at"] is not None
    assert entitlements("keys", "revoke", "nobody's").code == 1


def test_a_policy_document_is_checked_line_by_line(
    entitlements: Entitlements, tmp_path: Path
) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(default_policy_text())
    bad.write_text("costs:\n  essay: -1\n")

    valid, wrong = (
        entitlements("policy", "check", str(good)),
        entitlements("policy", "check", str(bad)),
    )

    assert (valid.code, wrong.code) == (0, 1)
    assert "is valid" in valid.out
    assert "bad.yaml:2" in wrong.err
    assert entitlements("policy", "check", str(bad), "--json").json["valid"] is False


def test_commands_do_not_change_the_active_policy(
    entitlements: Entitlements, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generous, other = tmp_path / "generous.yaml", tmp_path / "other.yaml"
    generous.write_text(default_policy_text())
    entitlements("account", "open", "user:first")
    other.write_text(default_policy_text().replace("user: 50", "user: 51"))
    monkeypatch.setenv("ENTITLEMENTS_POLICY_FILE", str(other))

    opened = entitlements("account", "open", "user:second", "--json").json

    assert opened["bonus"] == 50


def test_verify_shows_each_difference_and_its_wallet(
    entitlements: Entitlements, tmp_path: Path
) -> None:
    entitlements("adjust", "org:school", "100", "--reason", "invoice")
    balanced = entitlements("verify")
    with sqlite3.connect(tmp_path / "entitlements.db") as db:
        db.execute("UPDATE credit_balances SET balance = 101")
    db.close()

    broken = entitlements("verify")

    assert (balanced.code, balanced.out) == (0, "The books balance.\n")
    assert broken.code == 1
    assert "org:school/credits: expected 100, found 101" in broken.out
    listed = entitlements("verify", "--json").json
    assert not listed["balanced"]
    assert {finding["wallet"] for finding in listed["findings"]} == {"org:school/credits"}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["bogus"], "bogus"),
        (["adjust", "user:ada"], "AMOUNT is required"),
        (["adjust", "user:ada", "1.5", "--reason", "x"], "1.5"),
        (["adjust", "user:ada", "0", "--reason", "x"], "AMOUNT"),
        (["adjust", "user:ada", str(10**16), "--reason", "x"], "AMOUNT"),
        (["adjust", "ada", "1", "--reason", "x"], "org:ID or user:ID"),
        (["adjust", "user: ", "1", "--reason", "x"], "blank"),
        (["adjust", "user:ada", "1", "--reason", "a\x00b"], "--reason must not contain"),
        (["balance"], "at least one subject"),
        (["operations", "org:school"], "Unexpected argument: org:school"),
        (["balance", "user:" + 256 * "a"], "at most 255"),
        (["operations", "--limit", "1000001"], "--limit: must be 1 to 1000000"),
        (["operations", "--limit", "1.5"], "1.5"),
        (["keys", "create", "x", "--role", "king"], "king"),
        (["keys", "create", " ", "--role", "admin"], "NAME must not be blank"),
        (["keys", "create", "x", "--role", "admin", "--reason", 1001 * "a"], "at most 1000"),
        (["verify", "--database", "mysql://host/x"], "ENTITLEMENTS_DATABASE_URL"),
        (["migrate", "--service-role", "app"], "PostgreSQL"),
        (["serve", "--port", "70000"], "ENTITLEMENTS_HTTP_PORT"),
        (["policy", "check", "missing.yaml"], "missing.yaml"),
    ],
)
def test_an_invalid_argument_is_reported_and_changes_nothing(
    entitlements: Entitlements, tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    answer = entitlements(*arguments)

    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("entitlements: ")
    assert complaint in answer.err
    if (tmp_path / "entitlements.db").exists():
        assert entitlements("operations", "--json").json == []


@pytest.mark.parametrize("arguments", [["verify"], ["migrate"], ["balance", "user:ada"]])
def test_an_unavailable_database_is_reported_in_one_line(
    entitlements: Entitlements, arguments: list[str]
) -> None:
    answer = entitlements(*arguments, "--database", "postgresql://x:hidden@127.0.0.1:1/x")

    assert (answer.code, answer.out) == (1, "")
    assert answer.err.count("\n") == 1
    assert "hidden" not in answer.err


def test_a_database_that_does_not_exist_is_reported(
    entitlements: Entitlements, postgres_server: Postgres
) -> None:
    answer = entitlements("verify", "--database", postgres_server.url("nowhere"))

    assert answer.code == 1
    assert "nowhere" in answer.err


async def test_a_migrated_postgres_serves_a_role_that_cannot_rewrite_history(
    empty_postgres_url: str, postgres_server: Postgres
) -> None:
    role = "app_" + urlsplit(empty_postgres_url).path.removeprefix("/")
    admin = await asyncpg.connect(empty_postgres_url)
    await admin.execute(f'CREATE ROLE "{role}" LOGIN')
    try:
        before = _child("verify", "--database", empty_postgres_url)
        migrated = _child("migrate", "--service-role", role, "--database", empty_postgres_url)
        again = _child("migrate", "--database", empty_postgres_url, "--json")
        address = urlsplit(empty_postgres_url)
        as_role = address._replace(netloc=f"{role}@{address.hostname}:{address.port}").geturl()
        gift = ("adjust", "user:ada", "7", "--reason", "gift", "--as", "ada")
        adjusted = _child(*gift, "--database", as_role)
        verified = _child("verify", "--database", as_role)
        db = await asyncpg.connect(as_role)
        try:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await db.execute("DELETE FROM credit_operations")
        finally:
            await db.close()
    finally:
        await admin.execute(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')
        await admin.close()

    assert (before.returncode, "entitlements migrate" in before.stderr) == (1, True)
    assert "0001_ledger.sql" in migrated.stdout
    assert again.stdout.replace("\n", "").replace(" ", "") == (
        '{"applied":[],"service_role":null,"hints":[]}'
    )
    assert adjusted.stdout == "user:ada has 7 credits\n"
    assert verified.stdout == "The books balance.\n"


def test_the_reference_names_every_command_and_option() -> None:
    for name in _commands():
        words = name.split()
        app = commands()
        for word in words:
            app = app[word]
        row = next((line for line in REFERENCE.splitlines() if line.startswith(f"| `{name}")), "")
        assert row, name
        options = {
            option
            for argument in app.assemble_argument_collection()
            for option in argument.names
            if argument.parameter.parse is not False
            and argument.field_info.kind is argument.field_info.KEYWORD_ONLY
        }
        shown = set(re.findall(r"--[a-z-]+", row)) | {"--as", "--database", "--json"}
        assert options <= shown, (name, options - shown)


def test_the_reference_names_every_invariant() -> None:
    documented = re.findall(r"^\| `([a-z_]+)` \|", REFERENCE, re.MULTILINE)

    assert set(INVARIANTS) <= set(documented)


def _commands() -> list[str]:
    found = []
    for name in commands():
        if not name.startswith("-"):
            inner = [word for word in commands()[name] if not word.startswith("-")]
            found += [f"{name} {word}" for word in inner] or [name]
    return found


def _child(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "entitlements", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
