"""The policy on the command line: before, during and after its activation."""

import sqlite3
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from entitlements.app.policy.document import default_policy_text
from tests.transports.cli.conftest import Entitlements

SHIPPED = default_policy_text()
DEARER = "costs:\r\n  essay: 2\r\n"
"""A document with the line ends of another system, which are part of its hash."""


@pytest.fixture
def dearer(tmp_path: Path) -> str:
    path = tmp_path / "dearer.yaml"
    path.write_bytes(DEARER.encode())
    return str(path)


def test_an_applied_document_is_active_and_in_the_history(
    entitlements: Entitlements, dearer: str
) -> None:
    entitlements("account", "open", "user:ada")
    version = sha256(DEARER.encode()).hexdigest()

    first = entitlements("policy", "apply", dearer, "--reason", "spring")
    again = entitlements("policy", "apply", dearer, "--json")
    newest, oldest = entitlements("policy", "history", "--json").json
    table = entitlements("policy", "history").out.splitlines()

    assert (first.code, first.out) == (0, f"{version} is active\n")
    assert again.json == {"version": version, "changed": False, "active": True}
    assert (newest["version"], newest["actor"], newest["active"]) == (version, "cli", True)
    assert (oldest["actor"], oldest["active"]) == ("system", False)
    assert table[0].split() == ["version", "activated_at", "actor", "active"]
    assert table[1].startswith(version[:12])
    assert table[1].split()[-2:] == ["cli", "True"]


def test_a_superseded_document_is_not_activated_again(
    entitlements: Entitlements, tmp_path: Path, dearer: str
) -> None:
    shipped = tmp_path / "shipped.yaml"
    shipped.write_text(SHIPPED)
    entitlements("policy", "apply", str(shipped))
    entitlements("policy", "apply", dearer)

    back = entitlements("policy", "apply", str(shipped))

    assert (back.code, back.out) == (1, "")
    assert "was active before and has been superseded by" in back.err
    assert entitlements("policy", "show").out.encode() == DEARER.encode()
    shipped.write_text(SHIPPED + "# again\n")
    assert entitlements("policy", "apply", str(shipped)).code == 0


def test_a_version_is_shown_as_it_was_activated(entitlements: Entitlements, dearer: str) -> None:
    entitlements("policy", "apply", dearer)
    version = sha256(DEARER.encode()).hexdigest()

    shown: Any = entitlements("policy", "show", version[:8], "--json").json

    assert (shown["version"], shown["content"], shown["active"]) == (version, DEARER, True)
    unknown = entitlements("policy", "show", "nonsense")
    assert (unknown.code, unknown.err) == (1, "entitlements: no such policy: nonsense\n")


def test_differences_between_versions_and_files_are_shown(
    entitlements: Entitlements, tmp_path: Path, dearer: str
) -> None:
    entitlements("policy", "apply", dearer)
    candidate = tmp_path / "candidate.yaml"
    candidate.write_text("costs:\n  essay: 3\n  scan: 0\nrate_limits: {essay: 5/hour}\n")

    there = entitlements("policy", "diff", "active", str(candidate))
    back = entitlements("policy", "diff", str(candidate), "--json").json
    same = entitlements("policy", "diff", dearer)

    assert there.out.splitlines() == [
        "costs.essay: 2 -> 3",
        "costs.scan: added, 0",
        "rate_limits.essay: added, 5/hour",
    ]
    assert back["changes"][0] == {"path": "costs.essay", "before": "3", "after": "2"}
    assert same.out == "the rules are the same\n"


@pytest.mark.parametrize(
    ("command", "code", "complaint"),
    [
        (("apply", "bad.yaml"), 1, "bad.yaml:2: costs.essay: must be a whole number"),
        (("check", "bad.yaml"), 1, "bad.yaml:2: costs.essay: must be a whole number"),
        (("diff", "active", "bad.yaml"), 1, "bad.yaml:2: costs.essay"),
        (("apply", "latin.yaml"), 1, "latin.yaml:1: is not UTF-8"),
        (("apply", "none.yaml"), 2, "none.yaml cannot be read: No such file"),
        (("check", "none.yaml"), 2, "none.yaml cannot be read: No such file"),
        (("show", "active"), 1, "no such policy: active"),
        (("history", "--limit", "0"), 2, "--limit: must be 1 to 1000"),
    ],
)
def test_an_impossible_request_is_reported_and_changes_nothing(
    entitlements: Entitlements, tmp_path: Path, command: tuple[str, ...], code: int, complaint: str
) -> None:
    if command[0] == "diff":
        entitlements("account", "open", "user:ada")
    else:
        entitlements("migrate")
    (tmp_path / "bad.yaml").write_text("costs:\n  essay: -1\n")
    (tmp_path / "latin.yaml").write_bytes("costs: {å: 1}".encode("latin-1"))

    answer = entitlements("policy", *command)

    assert (answer.code, answer.out) == (code, "")
    assert complaint in answer.err
    if command[0] != "diff":
        assert entitlements("policy", "history").out == "no policy has been active yet\n"


def test_a_policy_that_stops_every_other_command_can_be_replaced(
    entitlements: Entitlements, tmp_path: Path, dearer: str
) -> None:
    entitlements("account", "open", "user:ada")
    with sqlite3.connect(tmp_path / "entitlements.db") as db:
        db.execute("UPDATE policies SET content = 'news: of a later program'")
    db.close()

    stopped = entitlements("balance", "user:ada")
    shown = entitlements("policy", "show")
    replaced = entitlements("policy", "apply", dearer)

    assert (stopped.code, stopped.out) == (2, "")
    assert "news: unknown key" in stopped.err
    assert shown.out == "news: of a later program"
    assert replaced.code == 0
    assert entitlements("balance", "user:ada").code == 0
