"""The worked examples, schemas, documents and types of events agree."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import yaml

from entitlements.contracts.events import Envelope
from entitlements.contracts.events.__main__ import files
from entitlements.contracts.events.topics import OUTBOUND, PREFIX, TOPICS, Direction, Topic
from entitlements.contracts.reading import Malformed, read
from tests.contracts.schemas import EXAMPLES, ROOT, faults

DOCUMENTS = ROOT / "docs" / "events"
PAGES = {
    topic.name: json.loads((EXAMPLES / f"{topic.name}.json").read_text("utf-8")) for topic in TOPICS
}
NINE = [
    "event_id",
    "event_type",
    "event_timestamp",
    "source_service",
    "schema_version",
    "correlation_id",
    "data_schema_uri",
    "data",
    "metadata",
]


def cases(kind: str, *directions: Direction) -> list[Any]:
    return [
        pytest.param(topic, case, id=f"{topic.name}: {case['name']}")
        for topic in TOPICS
        if topic.direction in directions
        for case in PAGES[topic.name].get(kind, ())
    ]


def test_every_topic_has_examples_and_every_example_a_topic() -> None:
    assert {file.stem for file in EXAMPLES.glob("*.json")} == PAGES.keys()
    assert all(page["topic"] == name and page["accepted"] for name, page in PAGES.items())


@pytest.mark.parametrize(("topic", "case"), cases("accepted", *Direction))
def test_an_example_satisfies_its_schema(topic: Topic, case: dict[str, Any]) -> None:
    assert faults(case["event"], topic.name) == []
    assert case["event"]["event_type"] == f"{PREFIX}.{topic.name}"


@pytest.mark.parametrize(("topic", "case"), cases("accepted", Direction.IN))
def test_an_accepted_example_is_decoded_without_losing_fields(
    topic: Topic, case: dict[str, Any]
) -> None:
    event = read(json.dumps(case["event"]).encode(), topic.data)

    told = case["event"]["data"]
    kept = msgspec.to_builtins(event.data)
    changed = {name for name in kept if name in told and kept[name] != told[name]}
    assert changed <= {"consumed_at", "subject", "user_id"}
    assert "@" not in repr(event)


@pytest.mark.parametrize(("topic", "case"), cases("malformed", Direction.IN))
def test_a_malformed_event_is_refused_by_the_reader_and_by_the_schema(
    topic: Topic, case: dict[str, Any]
) -> None:
    with pytest.raises(Malformed) as malformed:
        read(json.dumps(case["event"]).encode(), topic.data)

    assert malformed.value.reason == case["reason"]
    assert faults(case["event"], topic.name)


@pytest.mark.parametrize(("topic", "case"), cases("accepted", Direction.OUT, Direction.PLATFORM))
def test_a_written_event_has_all_nine_keys_and_survives_a_round_trip(
    topic: Topic, case: dict[str, Any]
) -> None:
    text = json.dumps(case["event"], ensure_ascii=False, separators=(",", ":")).encode()

    whole = msgspec.json.decode(text, type=Envelope[topic.data])  # type: ignore[name-defined]

    assert msgspec.json.encode(whole) == text
    assert list(case["event"]) == NINE


@pytest.mark.parametrize("missing", NINE)
@pytest.mark.parametrize("topic", OUTBOUND, ids=lambda topic: topic.name)
def test_every_key_of_a_written_event_is_required(topic: Topic, missing: str) -> None:
    event = dict(PAGES[topic.name]["accepted"][0]["event"])
    del event[missing]

    assert faults(event, topic.name) == [f"'{missing}' is a required property"]


def test_the_documents_are_current() -> None:
    made = files(EXAMPLES)

    assert {str(p.relative_to(DOCUMENTS)) for p in DOCUMENTS.rglob("*.*")} == made.keys()
    stale = [name for name, text in made.items() if (DOCUMENTS / name).read_text("utf-8") != text]
    assert stale == [], "run `make schemas`"


def test_every_reference_in_the_asyncapi_document_resolves() -> None:
    document = yaml.safe_load((DOCUMENTS / "asyncapi.yaml").read_text("utf-8"))

    def references(node: Any) -> Iterator[str]:
        match node:
            case dict():
                if isinstance(node.get("$ref"), str):
                    yield node["$ref"]
                for value in node.values():
                    yield from references(value)
            case list():
                for value in node:
                    yield from references(value)
            case _:
                pass

    led = list(references(document))
    assert len(led) > 3 * len(TOPICS)
    for reference in led:
        file, _, path = reference.partition("#/")
        found = document
        for step in path.split("/") if path else ():
            found = found[step]
        assert not file or (DOCUMENTS / file).is_file()


def test_the_asyncapi_document_has_the_services_own_operations_only() -> None:
    document = yaml.safe_load((DOCUMENTS / "asyncapi.yaml").read_text("utf-8"))

    actions = {name: operation["action"] for name, operation in document["operations"].items()}
    assert actions == {
        topic.name: "receive" if topic.direction is Direction.IN else "send"
        for topic in TOPICS
        if topic.direction is not Direction.PLATFORM
    }
    assert {channel["address"] for channel in document["channels"].values()} == {
        f"huleedu.{topic.name}" for topic in TOPICS
    }
