"""The tree of commands: help, actor, and output on every kind of terminal."""

import os
import pty
import re
import shlex
import subprocess
import sys
from inspect import getdoc
from pathlib import Path

import pytest

from entitlements.transports.cli import output
from entitlements.transports.cli.app import commands
from entitlements.transports.cli.tree import COMMANDS
from tests.transports.cli.conftest import Entitlements

EXAMPLES = [(name, example) for name, one in COMMANDS.items() for example in one.examples]


def child(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: os.environ[name] for name in os.environ if "ENTITLEMENTS" not in name}
    return subprocess.run(
        [sys.executable, "-m", "entitlements", *arguments],
        check=False,
        capture_output=True,
        cwd=folder,
        env=inherited | environment,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(("name", "example"), EXAMPLES, ids=[example for _, example in EXAMPLES])
def test_an_example_is_parsed(name: str, example: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(output.ACTOR_VARIABLE, "ada")
    words = shlex.split(re.sub(r"^(KEY=\$|source <)\((.*)\)$", r"\2", example).partition(" > ")[0])

    assert words[: 1 + len(name.split())] == ["entitlements", *name.split()]
    commands().parse_args(words[1:], exit_on_error=False, print_error=False)


def test_the_help_of_a_command_has_its_examples(entitlements: Entitlements) -> None:
    for words in (["adjust"], ["debts", "settle"], ["operations"], ["operations", "show"]):
        shown = entitlements(*words, "--help").out

        assert COMMANDS[" ".join(words)].epilogue.splitlines()[1].strip() in shown


def test_the_list_of_commands_has_the_summary_of_each_command() -> None:
    for name, one in COMMANDS.items():
        app = commands()
        for word in name.split():
            app = app[word]
        summary = " ".join((getdoc(app.default_command) or "").partition("\n\n")[0].split())

        assert summary == one.help, name


def test_help_imports_none_of_the_heavy_modules() -> None:
    code = (
        "import sys\nfrom entitlements.__main__ import main\nsys.argv[1:] = ['--help']\n"
        "try: main()\nfinally: print('MODULES', *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )

    loaded = set(done.stdout.partition("MODULES")[2].split())
    unwanted = {
        "asyncpg",
        "entitlements.service.program",
        "msgspec",
        "pydantic",
        "structlog",
        "uvloop",
    }
    assert loaded & unwanted == set()


def test_an_error_points_to_the_help_of_its_command(entitlements: Entitlements) -> None:
    unknown = entitlements("debts", "settl")
    missing = entitlements("adjust", "org:school", "5")

    assert 'Did you mean "settle"?' in unknown.err
    assert unknown.err.endswith("Try: entitlements debts --help\n")
    assert missing.err == ("entitlements: --reason is required.\nTry: entitlements adjust --help\n")


def test_a_command_without_an_actor_changes_nothing(tmp_path: Path) -> None:
    opened = ("account", "open", "org:school")

    nobody = child(*opened, folder=tmp_path)
    made = list(tmp_path.iterdir())
    named = child(*opened, folder=tmp_path, ENTITLEMENTS_ACTOR="ada")

    assert (nobody.returncode, made, named.returncode) == (2, [], 0)
    assert "--as NAME" in nobody.stderr


def test_the_actor_is_in_the_ledger_and_in_the_audit_log(entitlements: Entitlements) -> None:
    entitlements("adjust", "org:school", "500", "--reason", "invoice", "--as", "bo")
    entitlements("keys", "create", "grading", "--role", "service", "--reason", "new", "--as", "cy")

    (operation,) = entitlements("operations", "--json").json
    (key,) = entitlements("audit", "--action", "key.create", "--json").json
    listed = entitlements("audit", "--actor", "cy").out

    assert (operation["actor"], operation["client"]) == ("bo", "cli")
    assert (key["actor"], key["reason"]) == ("cy", "new")
    assert re.search(r"Z +cy +key.create +grading +new", listed)


def test_a_secret_is_alone_on_standard_output(entitlements: Entitlements) -> None:
    made = entitlements("keys", "create", "grading", "--role", "service")

    assert re.fullmatch(r"ent_\S{43}\n", made.out)
    assert "The secret is not shown again." in made.err


def test_work_is_consumed_and_reversed_by_the_start_of_its_id(entitlements: Entitlements) -> None:
    entitlements("account", "open", "org:school")
    work = ("consume", "ada", "cj_comparison=45", "--org", "school", "--key", "essay-17")

    consumed = entitlements(*work, "--json").json
    repeated = entitlements(*work, "--json").json
    back = entitlements("reverse", consumed["operation_id"][:23], "--amount", "5", "--reason", "x")
    vague = entitlements("operations", "show", consumed["operation_id"][:2])

    assert (consumed["consumed_from"], consumed["new_balance"]) == ("org", 455)
    assert repeated == {**consumed, "replayed": True}
    assert back.out == "5 credits are back; the balance is 460\n"
    assert (vague.code, "several operations begin with" in vague.err) == (1, True)


def test_unpaid_work_is_a_debt_that_can_be_settled(entitlements: Entitlements) -> None:
    entitlements("migrate")

    unpaid = entitlements("consume", "ada", "cj_comparison=30")
    (debt,) = entitlements("debts", "list", "--json").json
    listed = entitlements("debts", "list").out
    entitlements("set", "user:ada", "50", "--reason", "support")
    settled = entitlements("debts", "settle", debt["operation_id"][:23], "--amount", "20")
    forgiven = entitlements("debts", "write-off", debt["operation_id"], "--json").json

    assert (unpaid.code, unpaid.out) == (1, "")
    assert "30 are owed" in unpaid.err
    assert re.search(r"user:ada/credits +cj_comparison +30", listed)
    assert settled.out == "20 credits settled, 10 owed; the balance is 30\n"
    assert (forgiven["how"], forgiven["credits"]) == ("written_off", 10)
    assert entitlements("debts", "list").out == "no debts\n"
    assert entitlements("debts", "price", debt["operation_id"]).code == 1


def test_work_of_an_unknown_metric_can_be_priced_later(entitlements: Entitlements) -> None:
    entitlements("migrate")

    unpriced = entitlements("consume", "ada", "cj_comparisn=30")

    assert unpriced.code == 1
    assert "it has no price yet" in unpriced.err
    assert "no price" in entitlements("debts", "list").out


def test_a_balance_is_set_in_one_step(entitlements: Entitlements) -> None:
    first = entitlements("set", "user:ada", "50")
    second = entitlements("set", "user:ada", "20", "--json").json

    assert first.out == "user:ada has 50 credits (+50)\n"
    assert (second["balance"], second["delta"]) == (20, -30)


def test_limits_are_shown_and_reset_only_where_they_are_shared(
    entitlements: Entitlements,
) -> None:
    entitlements("account", "open", "org:school")
    entitlements("consume", "ada", "batch_create=3", "--org", "school")

    shown = entitlements("limits", "show", "ada", "--json").json
    reset = entitlements("limits", "reset", "ada", "batch_create")

    assert {one["metric"]: one["used"] for one in shown}["batch_create"] == 3
    assert (reset.code, "POST /v1/admin/credits/reset-rate-limit" in reset.err) == (1, True)


def test_limits_of_a_shared_redis_are_reset(
    entitlements: Entitlements, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENTITLEMENTS_REDIS_URL", redis_url)
    entitlements("migrate")

    reset = entitlements("limits", "reset", "ada", "batch_create", "--reason", "stuck")

    assert reset.code == 0
    (act,) = entitlements("audit", "--action", "rate_limit.reset", "--json").json
    assert (act["subject_id"], act["reason"]) == ("ada", "stuck")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_every_command(entitlements: Entitlements, shell: str) -> None:
    script = entitlements("completion", shell).out

    assert all(word in script for word in ("write-off", "consume", "--idempotency-key"))


def test_tables_fit_a_terminal_of_80_columns(entitlements: Entitlements, tmp_path: Path) -> None:
    entitlements("adjust", "org:school", "500", "--reason", "invoice")
    entitlements("consume", "ada", "cj_comparison=45", "--org", "school")
    entitlements("keys", "create", "grading", "--role", "service")

    for words in (("operations",), ("keys", "list"), ("audit",), ("balance", "org:school")):
        lines = on_a_terminal(*words, folder=tmp_path).splitlines()

        assert len(lines) > 1
        assert max(map(len, lines)) <= 80, lines


def on_a_terminal(*words: str, folder: Path) -> str:
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as screen:
        done = subprocess.run(
            [sys.executable, "-m", "entitlements", *words],
            check=True,
            cwd=folder,
            env=os.environ | {"COLUMNS": "80", "TERM": "dumb"},
            stdout=theirs,
            timeout=60,
        )
        os.close(theirs)
        shown = b""
        try:
            while part := screen.read(65_536):
                shown += part
        except OSError:  # the terminal is closed
            pass
    assert done.returncode == 0
    return shown.decode()


def test_a_letter_that_the_terminal_cannot_show_is_replaced(
    entitlements: Entitlements, tmp_path: Path
) -> None:
    entitlements("account", "open", "user:åsa")

    shown = child("balance", "user:åsa", folder=tmp_path, PYTHONIOENCODING="ascii")
    program = child("balance", "user:åsa", "--json", folder=tmp_path, PYTHONIOENCODING="ascii")

    assert (shown.returncode, "user:?sa" in shown.stdout) == (0, True)
    assert r"user:\u00e5sa" in program.stdout
