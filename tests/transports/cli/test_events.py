"""Dead letters, conflicts and consumers on the command line."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from entitlements.app.inbox.batch import PolledRecords
from entitlements.app.inbox.records import ConsumerRecord
from entitlements.app.inbox.store import DeadLetter
from entitlements.service.compose import build
from entitlements.settings import load
from tests.app.inbox.events import CONSUMPTION, Sent, envelope, event_id, produce, use
from tests.app.inbox.scene import make_topics
from tests.kafka import Kafka
from tests.transports.cli.conftest import Entitlements

ESSAY = "ai_feedback_generation"


class NoTopics:
    async def send(self, letters: Sequence[DeadLetter]) -> None:
        """Discard the letters."""


def come(*values: bytes) -> None:
    """Process the events against the database of this folder."""

    async def run() -> None:
        async with build(load(database_url="sqlite:///entitlements.db")) as system:
            engine = system.engine
            topic = f"huleedu.{CONSUMPTION}"
            records = [
                ConsumerRecord(topic=topic, partition=2, offset=n, value=value)
                for n, value in enumerate(values)
            ]
            await PolledRecords(engine.intake, engine.store.inbox, NoTopics(), records).work()

    asyncio.run(run())


def essay(units: int, name: str, **fields: Any) -> bytes:
    data = use("ada", units, resource_type=ESSAY, **fields)
    return envelope(f"huleedu.{CONSUMPTION}", data, event_id=event_id(name))


def test_a_dead_letter_is_listed_shown_and_dropped(entitlements: Entitlements) -> None:
    entitlements("account", "open", "user:ada")
    come(b"{no json \xff \x1b[2J\n\xc3\xa5")

    (letter,) = entitlements("dlq", "list", "--json").json
    listed = entitlements("dlq", "list")
    shown = entitlements("dlq", "show", letter["id"])
    dropped = entitlements("dlq", "drop", letter["id"], "--reason", "a test")
    again = entitlements("dlq", "drop", letter["id"], "--reason", "a test")

    assert f"huleedu.{CONSUMPTION}/2/0" in listed.out
    assert "{no json \\xff \\x1b[2J\nå" in shown.out
    assert dropped.out == f"{letter['id']} is dropped\n"
    assert (again.code, "before" in again.err) == (1, True)
    assert entitlements("dlq", "list").out == "no dead letters\n"
    (closed,) = entitlements("dlq", "list", "--state", "all", "--json").json
    assert closed["state"] == "dropped"


def test_a_replay_reports_its_result(entitlements: Entitlements, tmp_path: Any) -> None:
    entitlements("account", "open", "user:ada")
    (tmp_path / "policy.yaml").write_text(f"costs: {{odd: {10**15}}}\n")
    entitlements("policy", "apply", "policy.yaml")
    odd = use("ada", 3, resource_type="odd")
    come(envelope(f"huleedu.{CONSUMPTION}", odd))
    (letter,) = entitlements("dlq", "list", "--reason", "unpriceable", "--json").json

    early = entitlements("dlq", "replay", letter["id"])
    (tmp_path / "policy.yaml").write_text("costs: {odd: 2}\n")
    entitlements("policy", "apply", "policy.yaml")
    done = entitlements("dlq", "replay", letter["id"], "--reason", "priced", "--json")

    assert (early.code, "an amount must be at most" in early.err) == (1, True)
    assert (done.json["success"], done.json["result"]) == (True, "charged")
    assert entitlements("balance", "user:ada", "--json").json[0]["balance"] == 44
    assert entitlements("dlq", "replay", letter["id"]).code == 1


@pytest.mark.parametrize(
    "arguments",
    [("dlq", "show", "x"), ("dlq", "replay", "x"), ("dlq", "drop", "x", "--reason", "r")],
)
def test_an_unknown_dead_letter_is_reported(
    entitlements: Entitlements, arguments: tuple[str, ...]
) -> None:
    entitlements("account", "open", "user:ada")

    answer = entitlements(*arguments)

    assert (answer.code, answer.err) == (1, "entitlements: no such dead letter: x\n")


def test_conflicts_are_listed(entitlements: Entitlements) -> None:
    entitlements("account", "open", "user:ada")
    come(essay(1, "one"), essay(2, "two"))

    (conflict,) = entitlements("conflicts", "--user", "ada", "--json").json

    assert (conflict["units"], conflict["reason"]) == (
        2,
        "this job was reported before with 1 units",
    )
    assert "grader/p1" in entitlements("conflicts").out
    assert entitlements("conflicts", "--user", "bo").out == "no conflicts\n"
    assert entitlements("conflicts", "--limit", "0").code == 2


def test_the_consumer_group_is_shown_as_the_broker_reports_it(
    entitlements: Entitlements,
    kafka_server: Kafka,
    topic_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    topic = f"{topic_prefix}.{CONSUMPTION}"
    asyncio.run(make_topics(kafka_server.bootstrap, topic_prefix, partitions=2))
    produce(kafka_server.bootstrap, topic, [Sent("ada", b"x"), Sent("ada", b"y")])
    monkeypatch.setenv("ENTITLEMENTS_KAFKA_BOOTSTRAP_SERVERS", kafka_server.bootstrap)
    monkeypatch.setenv("ENTITLEMENTS_TOPIC_PREFIX", topic_prefix)
    monkeypatch.setenv("ENTITLEMENTS_CONSUMER_GROUP", topic_prefix)

    told = entitlements("consumer", "status")
    plain = entitlements("consumer", "status", "--json").json

    assert f"{topic_prefix} is 2 events behind" in told.out, told
    assert told.code == 1
    assert told.err == f"entitlements: the consumer group {topic_prefix} has no member\n"
    assert sum(one["lag"] for one in plain["partitions"]) == 2
    assert {one["member"] for one in plain["partitions"]} == {None}


def test_without_a_broker_there_is_no_consumer_group(entitlements: Entitlements) -> None:
    answer = entitlements("consumer", "status")

    assert (answer.code, "KAFKA_BOOTSTRAP_SERVERS" in answer.err) == (2, True)
