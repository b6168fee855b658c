"""Parsing of records into commands, and the reasons for rejecting them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from entitlements.app.inbox.parsing import Parser
from entitlements.app.inbox.records import ConsumerRecord, DeadLettered
from entitlements.app.inbox.store import Reason
from entitlements.core.commands import IngestUsage, OpenAccount
from entitlements.core.model import Subject, UsageReport
from entitlements.ids import uuid7
from tests.app.inbox.events import CONSUMPTION, REGISTERED, REPORTED, envelope, event_id, use

PARSER = Parser("huleedu", uuid7)
SPAN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
OTHER_SPAN = "00-00000000000000000000000000000001-0000000000000002-01"


def arrived(topic: str, value: bytes | None, **fields: Any) -> ConsumerRecord:
    return ConsumerRecord(topic=f"huleedu.{topic}", partition=0, offset=7, value=value, **fields)


def sent(topic: str, data: dict[str, Any], **fields: Any) -> ConsumerRecord:
    return arrived(topic, envelope(f"huleedu.{topic}", data, **fields))


def asked(record: ConsumerRecord) -> IngestUsage | OpenAccount:
    parsed = PARSER.parse(record)
    assert not isinstance(parsed, DeadLettered), parsed
    return parsed


def reported(data: dict[str, Any], **fields: Any) -> UsageReport:
    command = asked(sent(CONSUMPTION, data, **fields))
    assert isinstance(command, IngestUsage)
    return command.report


def test_the_topic_determines_the_event_and_a_different_type_is_kept() -> None:
    report = reported(use("ada", 3), event_type="grader.work.done")

    assert (report.metric, report.units) == ("credit", 3)
    assert report.event_type == "grader.work.done"


def test_a_time_without_an_offset_is_utc() -> None:
    data = use("ada", consumed_at="2026-09-01T07:59:59", timestamp="2026-09-01T10:00:00+02:00")

    report = reported(data)

    assert report.consumed_at == datetime(2026, 9, 1, 7, 59, 59, tzinfo=UTC)
    assert report.reported_at == datetime(2026, 9, 1, 8, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "metadata", "kept"),
    [
        (SPAN, {"traceparent": OTHER_SPAN}, SPAN),
        (None, {"traceparent": OTHER_SPAN}, OTHER_SPAN),
        ("none", {"traceparent": OTHER_SPAN}, OTHER_SPAN),
        (None, {"traceparent": "none"}, None),
        (None, {"traceparent": 7}, None),
    ],
)
def test_the_trace_is_taken_from_the_header_else_from_the_metadata(
    header: str | None, metadata: dict[str, Any], kept: str | None
) -> None:
    value = envelope(f"huleedu.{CONSUMPTION}", use("ada"), metadata=metadata)
    headers = (("traceparent", header.encode()),) if header else ()

    assert asked(arrived(CONSUMPTION, value, headers=headers)).origin.traceparent == kept


def test_a_consumption_becomes_a_usage_report_with_its_event_id() -> None:
    data = use("ada", 3, org_id="school", entity_id="b-1", entity_type="batch", hold_id=uuid7())
    value = envelope(f"huleedu.{CONSUMPTION}", data, event_id=event_id("e"), correlation_id="c-1")

    command = asked(arrived(CONSUMPTION, value, headers=(("traceparent", SPAN.encode()),)))

    assert isinstance(command, IngestUsage)
    assert command.report == UsageReport(
        user_id="ada",
        event_id=event_id("e"),
        event_type=f"huleedu.{CONSUMPTION}",
        source_service="grader",
        org_id="school",
        metric="credit",
        units=3,
        service_name="grader",
        processing_id="p1",
        batch_id="b-1",
        hold_id=data["hold_id"],
        trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
        reported_at=datetime(2026, 9, 1, 8, tzinfo=UTC),
        consumed_at=datetime(2026, 9, 1, 7, 59, 59, tzinfo=UTC),
    )
    assert command.is_charged
    assert (command.origin.actor, command.origin.client) == ("consumer", "grader")
    assert (command.origin.correlation_id, command.origin.traceparent) == ("c-1", SPAN)


def test_an_entity_that_is_not_a_batch_is_ignored() -> None:
    assert reported(use(entity_id="e-1", entity_type="essay")).batch_id is None
    assert reported(use(entity_id="e-1")).batch_id is None


def test_blank_optional_text_counts_as_absent() -> None:
    blank = "\u00a0\u200b"

    command = asked(
        sent(
            CONSUMPTION,
            use(processing_id=blank, service_name=" ", entity_id=blank, entity_type="batch"),
            correlation_id=blank,
            event_id="5f0c7a52-52a8-4b70-8f2b-6c2d2f6f6a11",
        )
    )

    assert isinstance(command, IngestUsage)
    assert (command.report.job, command.report.batch_id) == (None, None)
    assert command.origin.correlation_id == command.report.event_id


def test_the_identity_can_be_in_the_metadata() -> None:
    data = use()
    del data["user_id"]

    found = reported(data, metadata={"user_id": 17, "org_id": "school", "other": 1})

    assert (found.user_id, found.org_id) == ("17", "school")


def test_an_identity_can_be_in_both_data_and_metadata() -> None:
    found = reported(use("ada", org_id=" "), metadata={"user_id": "ada", "org_id": "school"})

    assert (found.user_id, found.org_id) == ("ada", "school")


@pytest.mark.parametrize(
    ("data", "fields", "detail"),
    [
        (use("ada"), {"metadata": {"user_id": "bo"}}, "user_id: data and metadata disagree"),
        (
            use("ada", org_id="school"),
            {"metadata": {"org_id": "two"}},
            "org_id: data and metadata disagree",
        ),
        (use(""), {}, "user_id: is required, in data or in metadata"),
        (use("a\x00b"), {}, "user_id: must not contain control characters or lone surrogates"),
        (use("a" * 256), {}, "user_id: must have at most 255 characters"),
        (use(resource_type=""), {}, "resource_type: must have 1 to 255 printable characters"),
        (use(processing_id="\n"), {}, "processing_id: must not contain control characters"),
        (use(), {"source_service": ""}, "source_service: must not be blank"),
        (use(" ada"), {}, "user_id: must not begin or end with white space"),
        (use(org_id="school\u00a0"), {}, "org_id: must not begin or end with white space"),
        (use(resource_type=" "), {}, "resource_type: must not begin or end with white space"),
        (use(service_name="\u200bs"), {}, "service_name: must not begin or end with white space"),
        (use(processing_id="p "), {}, "processing_id: must not begin or end with white space"),
        (
            use(entity_id="b ", entity_type="batch"),
            {},
            "entity_id: must not begin or end with white space",
        ),
        (use(), {"metadata": {"org_id": "school "}}, "metadata.org_id: must not begin or end"),
        (use(), {"source_service": "\u00a0"}, "source_service: must not be blank"),
        (use(consumed_at="0001-01-01T00:00:00+14:00"), {}, "timestamp out of range"),
        (use(quantity=-1), {}, "quantity"),
        (use(quantity="5"), {}, "quantity"),
        (use(quantity=5.0), {}, "quantity"),
        (use(quantity=True), {}, "quantity"),
        (use(quantity=10**15 + 1), {}, "quantity"),
    ],
)
def test_unusable_data_is_malformed_with_a_reason(
    data: dict[str, Any], fields: dict[str, Any], detail: str
) -> None:
    parsed = PARSER.parse(sent(CONSUMPTION, data, **fields))

    assert isinstance(parsed, DeadLettered)
    assert parsed.reason is Reason.MALFORMED
    assert detail in parsed.detail
    assert "school" not in parsed.detail


@pytest.mark.parametrize("value", [None, b"", b"{", b"[]", b"\xff\xfe", b'{"data": {}}', b"null"])
def test_bytes_that_are_not_an_event_are_malformed(value: bytes | None) -> None:
    parsed = PARSER.parse(arrived(CONSUMPTION, value))

    assert isinstance(parsed, DeadLettered)


def test_an_event_of_an_unexpected_topic_is_malformed() -> None:
    assert isinstance(PARSER.parse(sent("other.v1", use())), DeadLettered)


def test_a_registration_opens_an_account_without_keeping_the_email_address() -> None:
    data = {
        "user_id": "ada",
        "org_id": "school",
        "email": "ada@example.org",
        "registered_at": "2026-09-01T08:00:00Z",
        "correlation_id": "c-2",
    }

    command = asked(sent(REGISTERED, data))

    assert isinstance(command, OpenAccount)
    assert command.subject == Subject("user", "ada")
    assert command.org_id == "school"
    assert not command.by_operator
    assert command.origin.correlation_id == "c-2"
    assert "example.org" not in repr(command)


@pytest.mark.parametrize(
    ("subject", "user_id", "org_id"),
    [({"type": "user", "id": "ada"}, "ada", None), ({"type": "org", "id": "school"}, "", "school")],
)
def test_reported_usage_is_recorded_and_not_charged(
    subject: dict[str, str], user_id: str, org_id: str | None
) -> None:
    data = {
        "subject": subject,
        "metric": "storage",
        "amount": 12,
        "period_start": "2026-08-01T00:00:00Z",
        "period_end": "2026-09-01T00:00:00Z",
    }

    command = asked(sent(REPORTED, data))

    assert isinstance(command, IngestUsage)
    assert not command.is_charged
    assert (command.report.user_id, command.report.org_id) == (user_id, org_id)
    assert (command.report.metric, command.report.units) == ("storage", 12)
    assert command.report.job is None


def test_an_event_with_only_its_required_keys_is_accepted() -> None:
    value = json.dumps(
        {"event_type": f"huleedu.{CONSUMPTION}", "source_service": "s", "data": use()}
    ).encode()

    first, again = asked(arrived(CONSUMPTION, value)), asked(arrived(CONSUMPTION, value))

    assert isinstance(first, IngestUsage)
    assert isinstance(again, IngestUsage)
    assert first.report == again.report
    assert first.id != again.id
