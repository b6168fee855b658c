import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entitlements.contracts.events import (
    Metadata,
    ResourceConsumptionV1,
    UsageReportedV1,
    UserRegisteredV1,
)
from entitlements.contracts.reading import Malformed, Received, read

REPORT: dict[str, Any] = {
    "event_name": "resource.consumption.reported",
    "entity_id": "batch-1",
    "entity_type": "batch",
    "parent_id": None,
    "timestamp": "2026-03-01T08:00:00Z",
    "user_id": "åsa",
    "org_id": "school",
    "resource_type": "cj_comparison",
    "quantity": 45,
    "service_name": "cj_assessment_service",
    "processing_id": "cj-batch-1",
    "consumed_at": "2026-03-01T09:00:00+01:00",
}
ENVELOPE: dict[str, Any] = {
    "event_id": "0198C0DE-0000-7000-8000-000000000001",
    "event_type": "huleedu.resource.consumption.v1",
    "event_timestamp": "2026-03-01T08:00:01Z",
    "source_service": "cj_assessment_service",
    "schema_version": 1,
    "correlation_id": "0198c0de-0000-7000-8000-0000000000ff",
    "data_schema_uri": None,
    "data": REPORT,
    "metadata": {"user_id": "åsa", "partition": 3},
}
LEAST = {key: ENVELOPE[key] for key in ("event_type", "source_service", "data")}


def written(event: object) -> bytes:
    return json.dumps(event).encode()


def report(value: bytes) -> Received[ResourceConsumptionV1]:
    return read(value, ResourceConsumptionV1)


def with_data(**changes: Any) -> bytes:
    return written(LEAST | {"data": REPORT | changes})


def reason(value: bytes | None, of: type[Any] = ResourceConsumptionV1) -> str:
    with pytest.raises(Malformed) as malformed:
        read(value, of)
    return malformed.value.reason


def test_a_complete_event_is_read() -> None:
    event = report(written(ENVELOPE))

    assert event.event_id == "0198c0de-0000-7000-8000-000000000001"
    assert event.correlation_id == ENVELOPE["correlation_id"]
    assert event.event_timestamp == datetime(2026, 3, 1, 8, 0, 1, tzinfo=UTC)
    assert event.metadata == Metadata(user_id="åsa")
    assert event.data.consumed_at == datetime(2026, 3, 1, 8, tzinfo=UTC)
    assert (event.data.user_id, event.data.org_id) == ("åsa", "school")
    assert (event.data.quantity, event.data.hold_id) == (45, None)


def test_type_source_and_data_are_enough() -> None:
    event = report(written(LEAST))

    assert event.metadata == Metadata()
    assert event.event_timestamp is None
    assert event.correlation_id == event.event_id


def test_an_event_without_an_id_gets_a_unique_one_that_is_stable_over_deliveries() -> None:
    first = report(written(LEAST))

    assert report(written(LEAST)).event_id == first.event_id
    assert report(with_data(processing_id="cj-batch-2")).event_id != first.event_id


def test_unknown_keys_are_ignored_at_every_level() -> None:
    event = ENVELOPE | {"tenant": 1, "data": REPORT | {"essays": [{"grade": 2.5}]}}

    assert report(written(event)) == report(written(ENVELOPE))


@pytest.mark.parametrize("missing", ["user_id", "org_id", "timestamp", "event_name", "entity_id"])
def test_a_usage_report_is_read_without_an_optional_field(missing: str) -> None:
    data = {key: value for key, value in REPORT.items() if key != missing}

    assert report(written(LEAST | {"data": data})).data.quantity == 45


def test_ids_can_be_whole_numbers() -> None:
    assert report(with_data(user_id=7)).data.user_id == "7"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "the record has no value"),
        (b"", "not valid JSON"),
        (b"[]", "body: Expected `object`, got `array`"),
        (written({"data": REPORT}), "event_type: is required"),
        (written({"event_type": "t", "data": REPORT}), "source_service: is required"),
        (written({"event_type": "t", "source_service": "s"}), "data: is required"),
        (written(LEAST | {"data": None}), "data: Expected `object`, got `null`"),
        (written(LEAST | {"event_id": "no uuid"}), "event_id: Invalid UUID"),
        (written(LEAST | {"metadata": {"user_id": 1.5}}), "metadata.user_id"),
        (with_data(quantity="5"), "data.quantity: Expected `int`, got `str`"),
        (with_data(quantity=5.0), "data.quantity: Expected `int`, got `float`"),
        (with_data(quantity=True), "data.quantity: Expected `int`, got `bool`"),
        (with_data(quantity=-1), "data.quantity: Expected `int` >= 0"),
        (with_data(quantity=10**15 + 1), "data.quantity: Expected `int` <= 1000000000000000"),
        (with_data(quantity=float("nan")), "not valid JSON"),
        (with_data(consumed_at="2026-03-01"), "data.consumed_at"),
        (with_data(consumed_at=1_772_352_000), "data.consumed_at"),
        (with_data(resource_type=None), "data.resource_type"),
        (b"[" * 40 + b"]" * 40, "nested deeper"),
        (written(ENVELOPE)[:-1], "not valid JSON"),
        (written(LEAST).replace(b"school", b"sk\xf6l"), "not valid UTF-8"),
    ],
)
def test_a_malformed_event_has_a_reason(value: bytes | None, expected: str) -> None:
    assert expected in reason(value)


@pytest.mark.parametrize(
    "value",
    [
        with_data(event_name="anna@school.se"),
        with_data(quantity="anna@school.se"),
        with_data(consumed_at="anna@school.se"),
        with_data(user_id=["anna@school.se"]),
        written(LEAST | {"event_id": "anna@school.se"}),
        b"anna@school.se",
        with_data(org_id="anna@school.se")[:-2],
    ],
)
def test_the_reason_contains_no_values_of_the_event(value: bytes) -> None:
    told = reason(value)

    assert "anna" not in told
    assert "school" not in told


@given(st.binary() | st.text().map(str.encode))
def test_arbitrary_bytes_are_malformed(value: bytes) -> None:
    with pytest.raises(Malformed):
        report(value)


def test_an_email_address_is_not_kept() -> None:
    registered = {
        "user_id": "åsa",
        "org_id": None,
        "email": "anna@school.se",
        "registered_at": "2026-03-01T08:00:00Z",
        "correlation_id": "c",
    }

    event = read(written(LEAST | {"data": registered}), UserRegisteredV1)

    assert event.data.user_id == "åsa"
    assert "anna" not in repr(event)


def test_reported_use_names_its_subject() -> None:
    reported = {
        "subject": {"type": "org", "id": "school"},
        "metric": "spellcheck",
        "amount": 3,
        "period_start": "2026-03-01T00:00:00Z",
        "period_end": "2026-03-02T00:00:00Z",
        "correlation_id": "c",
    }

    data = read(written(LEAST | {"data": reported}), UsageReportedV1).data

    assert (data.subject.type, data.subject.id, data.amount) == ("org", "school", 3)
    reported["subject"] = {"type": "anna", "id": "school"}
    told = reason(written(LEAST | {"data": reported}), UsageReportedV1)
    assert told == "data.subject.type: is not one of the allowed values"
