"""Inbound events as operators see them."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from entitlements.app.engine import _keep_up
from entitlements.app.inbox.batch import PolledRecords
from entitlements.app.inbox.intake import TRIES_MAX, RetryLater
from entitlements.app.inbox.records import ConsumerRecord
from entitlements.app.inbox.status import STOPPED_S, PartitionStatus, State, Status
from entitlements.app.inbox.store import DeadLetter
from entitlements.app.ports import StoreUnavailable
from entitlements.observe.health import consumer
from tests.app.inbox.events import CONSUMPTION, REGISTERED, REPORTED, envelope, event_id, use
from tests.audit import audited
from tests.observe.test_metrics import samples
from tests.stores.clerk import an_activation
from tests.transports.http.api import Api

RECORDS = "/v1/admin/consumption-records"
LETTERS = "/v1/admin/dead-letters"
ESSAY = "ai_feedback_generation"
STORED = {
    "subject": {"type": "org", "id": "school"},
    "metric": "storage",
    "amount": 7,
    "period_start": "2026-08-01T00:00:00Z",
    "period_end": "2026-09-01T00:00:00Z",
}
TOO_DEAR = f"costs: {{odd: {10**15}}}\nsignup_bonuses: {{user: 50}}\n"
"""A policy by which two units cost more than the largest amount."""


class Topics:
    """Dead-letter topics that keep what is sent to them."""

    def __init__(self) -> None:
        self.sent: list[DeadLetter] = []

    async def send(self, letters: Sequence[DeadLetter]) -> None:
        self.sent += letters


async def come(api: Api, *events: tuple[str, dict[str, Any] | bytes], first: int = 0) -> Topics:
    """Process the events in one batch; return the dead-letter topics."""
    topics = Topics()
    records = [
        ConsumerRecord(
            topic=f"huleedu.{topic}",
            partition=0,
            offset=first + n,
            key=b"ada",
            value=data
            if isinstance(data, bytes)
            else envelope(f"huleedu.{topic}", data, event_id=event_id((first, n, str(data)))),
            headers=(("n", str(n).encode()),),
        )
        for n, (topic, data) in enumerate(events)
    ]
    engine = api.system.engine
    await PolledRecords(engine.intake, engine.store.inbox, topics, records).work()
    return topics


def essays(units: int, **fields: Any) -> tuple[str, dict[str, Any]]:
    return CONSUMPTION, use("ada", units, resource_type=ESSAY, **fields)


async def listed(api: Api, path: str, name: str, **query: Any) -> list[dict[str, Any]]:
    answer = await api.call("GET", path, params=query)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()[name]
    return found


async def test_records_have_the_outcome_of_every_report(api: Api) -> None:
    await api.give("user:ada", 100)
    await come(api, essays(2), essays(2), essays(3), essays(50, processing_id="p2"))

    records = await listed(api, RECORDS, "records")

    assert sorted(record["outcome"] for record in records) == [
        "charged",
        "conflict",
        "duplicate",
        "failed",
    ]
    charged = next(record for record in records if record["outcome"] == "charged")
    assert (charged["credits"], charged["units"], charged["user_id"]) == (10, 2, "ada")
    (conflict,) = await listed(api, RECORDS, "records", outcome="conflict")
    assert conflict["operation_id"] == charged["operation_id"]
    assert conflict["reason"] == "this job was reported before with 2 units"
    assert await api.balance("ada") == (90, None)


async def test_records_are_paged(api: Api) -> None:
    await api.give("user:ada", 100)
    await come(api, *(essays(1, processing_id=f"p{n}") for n in range(5)))

    first = (await api.call("GET", RECORDS, params={"limit": 3})).json()
    rest = (await api.call("GET", RECORDS, params={"cursor": first["next_cursor"]})).json()

    assert (first["count"], rest["count"], rest["next_cursor"]) == (3, 2, None)
    ids = {record["id"] for page in (first, rest) for record in page["records"]}
    assert len(ids) == 5


@pytest.mark.parametrize(
    "query", [{"cursor": "x"}, {"outcome": "odd"}, {"limit": 0}, {"since": "yesterday"}]
)
async def test_invalid_filters_are_refused(api: Api, query: dict[str, Any]) -> None:
    assert (await api.call("GET", RECORDS, params=query)).status_code == 400


async def test_a_job_of_another_batch_is_another_job_over_events_and_requests(api: Api) -> None:
    await api.give("user:ada", 100)
    await come(
        api,
        essays(2, entity_type="batch", entity_id="batch-a"),
        essays(2, entity_type="batch", entity_id="batch-b"),
    )
    body = {
        "user_id": "ada",
        "metric": ESSAY,
        "amount": 2,
        "correlation_id": "c",
        "service_name": "grader",
        "processing_id": "p1",
    }

    same = await api.post("/v1/entitlements/consume-credits", body | {"batch_id": "batch-a"})
    other = await api.post("/v1/entitlements/consume-credits", body | {"batch_id": "batch-c"})

    assert (same.json()["replayed"], other.json()["replayed"]) == (True, False)
    assert await api.balance("ada") == (70, None)


async def test_a_job_is_charged_once_over_events_and_requests(api: Api) -> None:
    await api.give("user:ada", 100)
    await come(api, essays(2))
    body = {
        "user_id": "ada",
        "metric": ESSAY,
        "amount": 2,
        "correlation_id": "c",
        "service_name": "grader",
        "processing_id": "p1",
    }

    same = await api.post("/v1/entitlements/consume-credits", body)
    other = await api.post("/v1/entitlements/consume-credits", body | {"amount": 3})
    again = await api.post("/v1/entitlements/consume-credits", body | {"amount": 3})
    bulk = await api.post(
        "/v1/entitlements/consume-credits/bulk",
        {"items": [body | {"amount": 4}], "atomic": True},
    )

    assert (same.status_code, same.json()["replayed"]) == (200, True)
    assert {answer.status_code for answer in (other, again, bulk)} == {409}
    conflicts = await listed(api, RECORDS, "records", outcome="conflict")
    assert sorted(one["units"] for one in conflicts) == [3, 4]
    assert {one["event_type"] for one in conflicts} == {"request"}
    assert await api.balance("ada") == (90, None)
    seen = await samples(api)
    assert seen[f'entitlements_consumption_conflicts_total{{metric="{ESSAY}"}}'] == 3


async def test_a_registration_opens_the_users_account_once_and_gives_the_org_nothing(
    api: Api,
) -> None:
    data = {
        "user_id": "ada",
        "org_id": "school",
        "email": "ada@example.org",
        "registered_at": "2026-09-01T08:00:00Z",
    }

    await come(api, (REGISTERED, data), (REGISTERED, data))
    await come(api, (REGISTERED, data), first=10)

    assert await api.balance("ada", "school") == (50, 0)


async def test_reported_usage_is_recorded_and_costs_nothing(api: Api) -> None:
    await come(api, (REPORTED, STORED))

    (record,) = await listed(api, RECORDS, "records", org_id="school")
    assert (record["outcome"], record["units"], record["user_id"]) == ("free", 7, None)
    assert await api.ledger() == []


async def test_unusable_events_are_dead_lettered_and_the_rest_is_processed(api: Api) -> None:
    await api.give("user:ada", 100)
    hold = use("ada", 1, resource_type=ESSAY, hold_id="no hold")

    topics = await come(
        api,
        (CONSUMPTION, b"\xff no text"),
        (CONSUMPTION, use("ada", 10**15, resource_type=ESSAY, processing_id="p8")),
        (CONSUMPTION, hold),
        essays(1, processing_id="p9"),
    )

    letters = await listed(api, LETTERS, "dead_letters")
    assert sorted((one["offset"], one["reason"], one["detail"]) for one in letters) == [
        (0, "malformed", "the body is not valid UTF-8"),
        (1, "unpriceable", f"an amount must be at most {10**15}"),
        (2, "unpriceable", "no such hold"),
    ]
    assert [letter.offset for letter in topics.sent] == [0, 1, 2]
    assert await api.balance("ada") == (95, None)


async def test_an_event_of_an_unknown_metric_is_charged_once_its_price_is_known(api: Api) -> None:
    await api.give("user:ada", 100)
    odd = use("ada", 3, resource_type="odd")

    topics = await come(api, (CONSUMPTION, odd))
    (filed,) = (await api.call("GET", "/v1/admin/credits/debts")).json()["debts"]
    content = "costs: {odd: 2}\nsignup_bonuses: {user: 50}\n"
    assert (await api.post("/v1/admin/policies", {"content": content})).is_success
    await come(api, (CONSUMPTION, odd))

    assert topics.sent == []
    assert (filed["metric"], filed["owed"]) == ("odd", None)
    (record,) = await listed(api, RECORDS, "records")
    assert (record["outcome"], record["reason"]) == ("failed", "policy_denied")
    assert await api.balance("ada") == (94, None)
    assert (await api.call("GET", "/v1/admin/credits/debts")).json()["count"] == 0


async def test_a_dead_letter_is_shown_byte_for_byte(api: Api) -> None:
    await come(api, (CONSUMPTION, b"\xff no text"), (CONSUMPTION, b"{}"))
    first, second = sorted(
        await listed(api, LETTERS, "dead_letters"), key=lambda letter: letter["offset"]
    )

    odd = (await api.call("GET", f"{LETTERS}/{first['id']}")).json()
    plain = (await api.call("GET", f"{LETTERS}/{second['id']}")).json()

    assert (b64decode(odd["value"]), odd["text"]) == (b"\xff no text", None)
    assert (plain["text"], b64decode(plain["key"])) == ("{}", b"ada")
    assert [(h["name"], b64decode(h["value"])) for h in plain["headers"]] == [("n", b"1")]
    assert (await api.call("GET", f"{LETTERS}/{event_id('no')}")).status_code == 404


async def test_a_replay_charges_once_if_the_event_can_be_priced_now(api: Api) -> None:
    await api.give("user:ada", 100)
    assert (await api.post("/v1/admin/policies", {"content": TOO_DEAR})).is_success
    await come(api, (CONSUMPTION, use("ada", 3, resource_type="odd")))
    (letter,) = await listed(api, LETTERS, "dead_letters")
    path = f"{LETTERS}/{letter['id']}/replay"

    too_early = (await api.post(path, {})).json()
    content = "costs: {odd: 2}\nsignup_bonuses: {user: 50}\n"
    assert (await api.post("/v1/admin/policies", {"content": content})).is_success
    done = await api.post(path, {"reason": "priced by now"})
    twice = await api.post(path, {})

    assert (too_early["success"], too_early["result"]) == (False, "unpriceable")
    assert too_early["detail"] == f"an amount must be at most {10**15}"
    assert (done.json()["success"], done.json()["result"]) == (True, "charged")
    assert (twice.status_code, twice.json()["code"]) == (409, "dead_letter_closed")
    assert await api.balance("ada") == (94, None)
    assert await listed(api, LETTERS, "dead_letters") == []
    (closed,) = await listed(api, LETTERS, "dead_letters", state="replayed")
    assert closed["id"] == letter["id"]
    acts = [e for e in await audited(api.system.engine.store, 99) if "dead_letter" in e.action]
    assert [(e.detail["result"], e.reason) for e in reversed(acts)] == [
        ("unpriceable", None),
        ("charged", "priced by now"),
    ]


async def test_concurrent_replays_charge_once_and_each_is_audited(api: Api) -> None:
    await api.give("user:ada", 100)
    assert (await api.post("/v1/admin/policies", {"content": TOO_DEAR})).is_success
    await come(api, (CONSUMPTION, use("ada", 3, resource_type="odd")))
    (letter,) = await listed(api, LETTERS, "dead_letters")
    content = "costs: {odd: 2}\nsignup_bonuses: {user: 50}\n"
    assert (await api.post("/v1/admin/policies", {"content": content})).is_success
    path = f"{LETTERS}/{letter['id']}/replay"

    done = await asyncio.gather(api.post(path, {}), api.post(path, {}))

    assert [answer.json()["result"] for answer in done] == ["charged", "charged"]
    assert await api.balance("ada") == (94, None)
    acts = [e for e in await audited(api.system.engine.store, 99) if "replay" in e.action]
    assert len(acts) == 2


async def test_a_dead_letter_is_dropped_with_a_reason(api: Api) -> None:
    await come(api, (CONSUMPTION, b"{}"))
    (letter,) = await listed(api, LETTERS, "dead_letters")
    path = f"{LETTERS}/{letter['id']}/drop"

    silent = await api.post(path, {})
    done = await api.post(path, {"reason": "a test"})
    twice = await api.post(path, {"reason": "a test"})

    assert (silent.status_code, done.status_code, twice.status_code) == (400, 200, 409)
    (entry,) = [e for e in await audited(api.system.engine.store, 99) if "dead_letter" in e.action]
    assert (entry.action, entry.reason) == ("dead_letter.drop", "a test")


async def test_the_email_address_of_a_registration_is_stored_nowhere(api: Api) -> None:
    data = {"user_id": "ada", "email": "ada@example.org", "registered_at": "someday"}

    topics = await come(api, (REGISTERED, data), (REGISTERED, b"ada@example.org"))

    assert all(b"ada@example.org" in (letter.value or b"") for letter in topics.sent)
    letters = await listed(api, LETTERS, "dead_letters")
    shown = [(await api.call("GET", f"{LETTERS}/{one['id']}")).text for one in letters]
    kept = [await api.system.engine.store.inbox.dead_letter(one["id"]) for one in letters]
    assert not any("example.org" in text for text in shown)
    assert not any(b"example.org" in (one.value or b"") for one in kept if one)
    assert any(b'"user_id": "ada"' in (one.value or b"") for one in kept if one)


async def test_events_are_counted_by_their_result(api: Api) -> None:
    await api.give("user:ada", 100)
    repeated = envelope(f"huleedu.{CONSUMPTION}", use("ada", 1, resource_type=ESSAY))
    await come(api, (CONSUMPTION, repeated), (CONSUMPTION, repeated), (CONSUMPTION, b"{}"))
    lost = use("ada", 1, resource_type="odd", hold_id="no hold", processing_id="p7")
    await come(api, essays(1), (CONSUMPTION, lost), first=9)
    await _keep_up(api.system.engine)

    seen = await samples(api)

    def events(outcome: str) -> float:
        labels = f'outcome="{outcome}",resource_type="{ESSAY}"'
        return seen[f"entitlements_consumer_events_total{{{labels}}}"]

    assert (events("charged"), events("repeated"), events("duplicate")) == (1, 1, 1)
    assert seen[f'entitlements_consumer_duplicates_total{{resource_type="{ESSAY}"}}'] == 2
    letters = "entitlements_consumer_dead_letters_total"
    assert seen[f'{letters}{{reason="malformed",resource_type="none"}}'] == 1
    assert seen[f'{letters}{{reason="unpriceable",resource_type="other"}}'] == 1
    assert seen["entitlements_dead_letters_open"] == 2


async def test_consumptions_are_counted_over_http_and_kafka(api: Api) -> None:
    await api.give("user:ada", 12)
    await api.give("org:school", 5)
    repeated = essays(1, processing_id="p1")
    await come(
        api,
        repeated,
        essays(1, processing_id="p2", org_id="school"),
        essays(0, processing_id="p3"),
        essays(9, processing_id="p4"),
        (REPORTED, STORED),
    )
    await come(api, repeated, first=10)
    await come(api, essays(1, processing_id="p1"), first=20)
    work = {"user_id": "ada", "metric": ESSAY, "amount": 1, "correlation_id": "c"}
    await api.post("/v1/entitlements/consume-credits", work)

    name = "entitlements_credit_consumption_total"
    counted = {one: n for one, n in (await samples(api)).items() if one.startswith(name)}
    assert counted == {
        f'{name}{{metric="{ESSAY}",source="user"}}': 2,
        f'{name}{{metric="{ESSAY}",source="org"}}': 1,
        f'{name}{{metric="{ESSAY}",source="none"}}': 2,
    }


async def test_an_event_that_fails_by_an_internal_error_does_not_block_others(
    api: Api,
) -> None:
    """The second event's operation has the id of the first, which the database refuses."""
    await api.give("user:ada", 100)
    parser = api.system.engine.intake.parser
    taken = api.system.engine.new_id()
    fresh, parser.new_id = parser.new_id, lambda: taken
    await come(api, essays(1, processing_id="p1"))
    topics = await come(api, essays(1, processing_id="p2"), first=5)
    parser.new_id = fresh
    await come(api, essays(1, processing_id="p3"), first=9)

    (letter,) = await listed(api, LETTERS, "dead_letters")

    assert (letter["reason"], letter["offset"]) == ("failed", 5)
    assert len(topics.sent) == 1
    assert await api.balance("ada") == (90, None)
    seen = await samples(api)
    assert seen[f'entitlements_consumer_errors_total{{resource_type="{ESSAY}"}}'] == 3
    again = await api.post(f"{LETTERS}/{letter['id']}/replay", {})
    assert again.json()["result"] == "charged"


async def test_an_event_that_the_parser_fails_on_does_not_block_others(api: Api) -> None:
    await api.give("user:ada", 100)
    parser = api.system.engine.intake.parser

    def broken() -> str:
        raise RecursionError

    fresh, parser.new_id = parser.new_id, broken
    await come(api, essays(1, processing_id="p1"))
    parser.new_id = fresh
    await come(api, essays(1, processing_id="p2"), first=5)

    (letter,) = await listed(api, LETTERS, "dead_letters")
    assert (letter["reason"], letter["detail"]) == (
        "failed",
        "unexpected error: RecursionError",
    )
    assert await api.balance("ada") == (95, None)


async def test_a_process_without_a_consumer_reports_that(api: Api) -> None:
    answer = (await api.call("GET", "/v1/admin/consumer")).json()

    assert (answer["status"], answer["partitions"]) == ("none", [])
    assert "consumer" not in (await api.call("GET", "/healthz")).json()["checks"]


class Reading:
    def __init__(self, **state: Any) -> None:
        given: dict[str, Any] = {"status": Status.RUNNING, "group": "g", "turned_at": 0.0}
        self.state = State(**(given | state))


async def test_a_consumer_reports_its_positions(api: Api) -> None:
    standing = PartitionStatus(topic="t", partition=3, position=5, lag=7)
    api.system.engine.watch.consumer = Reading(
        partitions=(standing,), problem="broker away", restarts=2, turned_at=1e12
    )

    answer = (await api.call("GET", "/v1/admin/consumer")).json()
    seen = await samples(api)
    health = (await api.call("GET", "/healthz")).json()["checks"]["consumer"]

    assert (answer["status"], answer["problem"], answer["restarts"]) == (
        "running",
        "broker away",
        2,
    )
    assert answer["partitions"] == [{"topic": "t", "partition": 3, "position": 5, "lag": 7}]
    assert seen['entitlements_consumer_lag{partition="3",topic="t"}'] == 7
    assert seen["entitlements_consumer_running"] == 1
    assert seen["entitlements_consumer_restarts_total"] == 2
    assert health["status"] == "warning"
    assert "broker" not in health["message"]


@pytest.mark.parametrize(
    ("state", "idle_s", "health"),
    [
        ({}, 1.0, "healthy"),
        ({"status": Status.PAUSED}, 1.0, "warning"),
        ({"status": Status.RESTARTING}, STOPPED_S, "warning"),
        ({"status": Status.RESTARTING}, STOPPED_S + 1, "unhealthy"),
        ({}, STOPPED_S + 1, "unhealthy"),
    ],
)
def test_a_consumer_without_progress_for_a_minute_is_unhealthy(
    state: dict[str, Any], idle_s: float, health: str
) -> None:
    assert consumer(Reading(**state).state, idle_s).status == health


async def test_a_record_has_the_times_of_the_event_and_of_its_recording(api: Api) -> None:
    await api.give("user:ada", 100)
    await come(api, essays(1))

    (record,) = await listed(api, RECORDS, "records")

    assert record["consumed_at"] == "2026-09-01T07:59:59Z"
    assert record["reported_at"] == "2026-09-01T08:00:00Z"
    assert datetime.fromisoformat(record["recorded_at"]).astimezone(UTC) > datetime(
        2026, 9, 1, tzinfo=UTC
    )


async def test_partitions_assigned_to_another_consumer_are_dropped_from_a_batch(api: Api) -> None:
    await api.give("user:ada", 100)
    topic = f"huleedu.{CONSUMPTION}"
    records = [
        ConsumerRecord(
            topic=topic,
            partition=n % 2,
            offset=n,
            value=envelope(topic, essays(1, processing_id=f"p{n}")[1], event_id=event_id(n)),
        )
        for n in range(4)
    ]
    engine = api.system.engine
    batch = PolledRecords(engine.intake, engine.store.inbox, Topics(), records)

    batch.drop({(topic, 1)})
    await batch.work()

    assert batch.offsets() == {(topic, 0): 3}
    assert await api.balance("ada") == (90, None)


async def test_a_retried_batch_repeats_nothing(api: Api) -> None:
    await api.give("user:ada", 100)
    topic = f"huleedu.{CONSUMPTION}"
    value = envelope(topic, essays(1)[1])
    records = [
        ConsumerRecord(topic=topic, partition=0, offset=n, value=one)
        for n, one in enumerate((value, b"{}"))
    ]
    engine = api.system.engine
    batch = PolledRecords(engine.intake, engine.store.inbox, Away(), records)

    with pytest.raises(RetryLater):
        await batch.work()
    with pytest.raises(RetryLater):
        await batch.work()

    assert len(await listed(api, LETTERS, "dead_letters")) == 1
    assert await api.balance("ada") == (95, None)
    assert engine.intake.tallies.events.total() == 0, "results are counted once the batch is done"


async def test_a_transient_failure_never_makes_a_dead_letter(api: Api) -> None:
    """While the policy is unreadable, pricing fails on every attempt."""
    await api.give("user:ada", 100)
    topic = f"huleedu.{CONSUMPTION}"
    engine = api.system.engine
    record = ConsumerRecord(topic=topic, partition=0, offset=0, value=envelope(topic, essays(1)[1]))
    batch = PolledRecords(engine.intake, engine.store.inbox, Topics(), [record])
    await engine.store.policies.activate(
        "f" * 64, "costs: {a: of a newer program}", an_activation()
    )

    for _ in range(TRIES_MAX + 1):
        with pytest.raises(RetryLater):
            await batch.work()
    content = f"costs: {{{ESSAY}: 2}}"
    assert (await api.post("/v1/admin/policies", {"content": content})).is_success
    await batch.work()

    assert await listed(api, LETTERS, "dead_letters") == []
    assert await api.balance("ada") == (98, None)


class Away:
    async def send(self, letters: Sequence[DeadLetter]) -> None:
        raise StoreUnavailable(f"{len(letters)} dead letters cannot be sent")
