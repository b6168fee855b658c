"""The demo: real work on a real service, and a report whose figures are checked again here."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import chdir, redirect_stdout
from io import StringIO
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import msgspec
import pytest

from entitlements.adapters.postgres.migrate import migrate_at
from grading.__main__ import main
from grading.demo.assistants import SPARE, computed
from grading.demo.calls import ModelCall, calls, sample
from grading.demo.essays import Essay, UnusableEssays, classes
from grading.demo.grading import Comparison, Feedback, better, feedback, tasks
from grading.demo.report import Balance, Calls, Summary
from grading.demo.run import demo
from grading.demo.story import POOR, RICH, SAVER
from tests.kafka import Kafka
from tests.servers import Postgres
from tests.waiting import PATIENCE_S

BATCH_OF_12 = 66 * 1 + 12 * 5
BONUS = {"org": 500, "user": 50}
TOKENS = "ContextTokens,GeneratedTokens\n"
HEADER = "essay_id,prompt,text\n"


def run_demo(folder: Path, database: str | None = None, *options: str) -> Summary:
    """Run the demo on its sample in an empty folder without siblings."""
    output = StringIO()
    where = ("--database", database) if database else ()
    with chdir(folder), redirect_stdout(output), pytest.raises(SystemExit) as end:
        main(("demo", "--quick", "--json", *where, *options))
    assert not end.value.code
    return msgspec.json.decode(output.getvalue(), type=Summary)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return empty_folder(tmp_path)


def empty_folder(parent: Path) -> Path:
    folder = parent / "empty" / "checkout"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    return run_demo(empty_folder(tmp_path_factory.mktemp("demo")))


def by_name(report: Summary) -> dict[str, Balance]:
    """Return the balances by subject, without the suffix of the run."""
    return {balance.subject.partition("-")[0]: balance for balance in report.balances}


def test_one_school_pays_for_everything_and_the_other_runs_out_of_credits(report: Summary) -> None:
    balances = by_name(report)
    assert report.is_good, report.verify
    assert report.essays == "the sample"
    assert balances[f"org:{RICH}"].paid == 6 * BATCH_OF_12
    assert balances[f"org:{RICH}"].balance == BONUS["org"]
    assert balances[f"org:{POOR}"].balance < 5, "less than the cost of one feedback"
    assert BATCH_OF_12 - 5 < balances[f"user:{SAVER}"].paid <= BATCH_OF_12, "the org pays the rest"
    assert len(balances) == 2 + 12


def test_denials_and_debts_have_their_reasons(report: Summary) -> None:
    last = report.denials[-1]
    assert {denial.reason for denial in report.denials} == {"insufficient_credits"}
    assert (last.user, last.required, last.user_available) == ("liam", BATCH_OF_12, BONUS["user"])
    assert last.missing == BATCH_OF_12 - max(last.org_available, last.user_available)
    assert report.unpaid
    assert all(unpaid.owed >= unpaid.operations > 0 for unpaid in report.unpaid)


def test_work_that_was_sent_twice_was_charged_once(report: Summary) -> None:
    paid = sum(payment.credits for payment in report.payments)
    units = sum(payment.comparisons + 5 * payment.feedbacks for payment in report.payments)
    assert report.charged_once == report.sent_twice >= 6
    assert paid == units == sum(balance.given - balance.balance for balance in report.balances)


def test_every_call_of_a_model_is_charged_exactly_what_its_tokens_cost(report: Summary) -> None:
    called, expected = report.calls, sample()

    assert (called.source, called.calls) == ("the sample", len(expected))
    assert called.context_tokens == sum(call.context for call in expected)
    assert called.charged == called.computed == sum(map(computed, expected)) > len(expected)
    assert [balance.balance for balance in called.balances] == [SPARE, SPARE]
    assert all(balance.paid > 1_000 for balance in called.balances)


@pytest.fixture(scope="module")
def database(postgres_server: Postgres) -> Iterator[str]:
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(urlsplit(url).path.removeprefix("/"))


@pytest.fixture(scope="module")
def reported(
    database: str, kafka_server: Kafka, tmp_path_factory: pytest.TempPathFactory
) -> Summary:
    """The report of a run on PostgreSQL whose work is reported over Kafka."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("ENTITLEMENTS_KAFKA_BOOTSTRAP_SERVERS", kafka_server.bootstrap)
        return run_demo(empty_folder(tmp_path_factory.mktemp("kafka")), database, "--kafka")


def test_work_reported_over_kafka_has_the_same_totals(
    kafka_server: Kafka, report: Summary, reported: Summary
) -> None:
    assert reported.is_good, reported.verify
    rich = f"org:{RICH}"
    assert figures(by_name(reported)[rich]) == figures(by_name(report)[rich])
    assert payments(reported)[rich] == payments(report)[rich]
    assert reported.sent_twice >= 6 + 6 * 12 // 5
    rates = {rate.kind: rate.requests for rate in reported.rates}
    assert rates["reported work"] == 6 * 12
    until_gone(kafka_server, "demo-")


def until_gone(kafka: Kafka, prefix: str) -> None:
    """Wait until the broker has removed the deleted topics."""
    admin, deadline = kafka.admin(), time.monotonic() + PATIENCE_S
    while any(name.startswith(prefix) for name in admin.list_topics(timeout=PATIENCE_S).topics):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def figures(balance: Balance) -> tuple[int, int, int]:
    return (balance.given, balance.paid, balance.balance)


def payments(report: Summary) -> dict[str, tuple[int, int, int]]:
    """Return comparisons, feedbacks and credits by payer, without the suffix of the run."""
    return {
        payment.payer.partition("-")[0]: (payment.comparisons, payment.feedbacks, payment.credits)
        for payment in report.payments
    }


def test_without_a_broker_the_error_names_the_command_to_start_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ENTITLEMENTS_KAFKA_BOOTSTRAP_SERVERS", raising=False)

    with chdir(folder), pytest.raises(SystemExit, match="make kafka"):
        demo(kafka=True)


async def keys_and_those_revoked(database: str) -> tuple[int, int]:
    db = await asyncpg.connect(database)
    try:
        return tuple(await db.fetchrow("SELECT count(*), count(revoked_at) FROM api_keys"))
    finally:
        await db.close()


def test_a_later_run_shows_tables_and_exits_with_1_if_verify_finds_anything(
    folder: Path, database: str, reported: Summary, capsys: pytest.CaptureFixture[str]
) -> None:
    asyncio.run(plant_credits_from_nowhere(database, "forger"))

    with chdir(folder), pytest.raises(SystemExit) as end:
        demo(database=database, quick=True)

    shown = capsys.readouterr().out
    assert end.value.code == 1
    assert asyncio.run(keys_and_those_revoked(database)) == (2, 2)
    held = asyncio.run(wallets(database))
    assert {balance.subject for balance in reported.balances} < held, "runs have their own subjects"
    assert len(held) == 2 * len(reported.balances) + len({"forger"})
    assert "user:forger" in shown[shown.index("entitlements verify:") :]
    for title in ("Payments", "Denied", "Unpaid work", "Requests", "Final balances"):
        assert title in shown


async def wallets(database: str) -> set[str]:
    db = await asyncpg.connect(database)
    try:
        rows = await db.fetch("SELECT subject_type || ':' || subject_id FROM credit_balances")
        return {row[0] for row in rows}
    finally:
        await db.close()


async def plant_credits_from_nowhere(database: str, user_id: str) -> None:
    await migrate_at(database, None)
    db = await asyncpg.connect(database)
    try:
        await db.execute(
            "INSERT INTO credit_balances (subject_type, subject_id, credit_type, balance)"
            " VALUES ('user', $1, 'credits', 7)",
            user_id,
        )
    finally:
        await db.close()


def test_a_missing_database_ends_it_with_a_message(folder: Path) -> None:
    with chdir(folder), pytest.raises(SystemExit, match="entitlements migrate"):
        demo(database="postgresql://nobody@127.0.0.1:1/nothing")


CALLED = Calls(
    source="none",
    calls=0,
    context_tokens=0,
    generated_tokens=0,
    charged=7,
    computed=7,
    balances=[Balance(subject="org:1", given=8, paid=7, balance=1)],
)


def a_report(**changes: object) -> Summary:
    nothing = Summary(
        essays="none",
        payments=[],
        denials=[],
        unpaid=[],
        rates=[],
        balances=[],
        calls=CALLED,
        sent_twice=0,
        charged_once=0,
        books_balance=True,
        verify="",
    )
    return msgspec.structs.replace(nothing, **changes)


def test_a_report_is_good_only_if_everything_agrees() -> None:
    right = Balance(subject="org:1", given=10, paid=4, balance=6)
    wrong = Balance(subject="org:1", given=10, paid=4, balance=5)

    assert a_report(balances=[right]).is_good
    assert not a_report(balances=[right, wrong]).is_good
    assert not a_report(sent_twice=2, charged_once=1).is_good
    assert not a_report(books_balance=False).is_good
    for changed in ({"charged": 8}, {"computed": 6}, {"balances": [wrong]}):
        assert not a_report(calls=msgspec.structs.replace(CALLED, **changed)).is_good


def test_every_pair_is_compared_and_every_essay_gets_feedback(tmp_path: Path) -> None:
    file = tmp_path / "essays.csv"
    file.write_text(HEADER + "".join(f"e{n},Sea,Text {n}.\n" for n in range(30)), "utf-8")

    [graded] = classes(file)[1]

    todo = list(tasks(graded))
    pairs = {frozenset((t.left.id, t.right.id)) for t in todo if isinstance(t, Comparison)}
    assert len(pairs) == 30 * 29 // 2
    assert len([t for t in todo if isinstance(t, Feedback)]) == 30
    assert len(todo) == 465


def test_the_richer_text_wins_on_either_side() -> None:
    rich = Essay("rich", "Grey harbours sleep. Boats return slowly! Nobody waits.")
    poor = Essay("poor", "it is it is it is it is")

    assert better(rich, poor) is rich
    assert better(poor, rich) is rich


def test_feedback_counts_words_in_any_script() -> None:
    assert feedback(Essay("å", "Åsa läser. Åsa skriver.")) == (
        "4 words in 2 sentences, 3 of them different. The sentences are easy to follow."
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("essay_id,text\na,b\n", "lack the column prompt"),
        ("", "lack the column essay_id"),
        (HEADER + "a,Sea,one\nb,Sky,two\n", "no prompt has two essays"),
    ],
)
def test_essays_that_cannot_be_graded_are_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "essays.csv"
    file.write_text(text, "utf-8")

    with pytest.raises(UnusableEssays, match=message):
        classes(file)
    with pytest.raises(SystemExit, match=message):
        demo(essays=file)


@pytest.mark.parametrize(
    ("call", "credits"),
    [
        (ModelCall(1, 1), 2),
        (ModelCall(100, 100), 18),
        (ModelCall(101, 100), 19),
        (ModelCall(4_808, 10), 147),
    ],
)
def test_a_call_costs_its_tokens_each_kind_rounded_up_once(call: ModelCall, credits: int) -> None:
    assert computed(call) == credits


def test_calls_are_read_in_order_up_to_a_maximum(tmp_path: Path) -> None:
    file = tmp_path / "calls.csv"
    file.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\na,3,9\nb,1,2\nc,7,7\n", "utf-8")

    assert calls(file) == ("calls.csv", [ModelCall(3, 9), ModelCall(1, 2), ModelCall(7, 7)])
    assert calls(file, at_most=2)[1] == [ModelCall(3, 9), ModelCall(1, 2)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ContextTokens\n1\n", "lack the column GeneratedTokens"),
        (TOKENS, "no call"),
        (TOKENS + "1,2\n3,0\n", "line 3: '0' is not a number of tokens"),
        (TOKENS + "1.5,2\n", "line 2: '1.5' is not a number of tokens"),
        (TOKENS + "1\n", "line 2: None is not a number of tokens"),
        (TOKENS + "1,²\n", "line 2: '²' is not a number of tokens"),
    ],
)
def test_calls_that_cannot_be_priced_are_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "calls.csv"
    file.write_text(text, "utf-8")

    with pytest.raises(SystemExit, match=message):
        demo(calls=file)


def test_a_missing_file_of_calls_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"nowhere\.csv"):
        demo(calls=tmp_path / "nowhere.csv")


def test_a_missing_file_of_essays_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"nowhere\.csv"):
        demo(essays=tmp_path / "nowhere.csv")
