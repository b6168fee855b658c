import asyncio

from entitlements.adapters.sqlite.store import SqliteStore
from entitlements.app.outbox.store import BUCKETS, Unpublishable
from tests.transports.cli.conftest import Entitlements


async def park_all() -> list[str]:
    store = await SqliteStore.open("entitlements.db")
    try:
        found = await store.outbox.unpublished(range(BUCKETS), each=100, at_most=100)
        epochs = (await store.outbox.heartbeat("a", sink="kafka", lease_s=30)).epochs
        refused = [Unpublishable(event=event, reason="too large", attempts=2) for event in found]
        await store.outbox.mark_published("a", epochs, [], refused, keep=True)
        return [event.event_id for event in found]
    finally:
        await store.close()


def test_operators_see_waiting_events_and_retry_parked_ones(entitlements: Entitlements) -> None:
    entitlements("migrate")
    for user in ("ada", "bo"):
        entitlements("consume", user, "spellcheck")  # free work has exactly one event

    waiting = entitlements("outbox", "status")
    ids = asyncio.run(park_all())
    status = entitlements("outbox", "status", "--json").json
    parked = entitlements("outbox", "parked", "--json").json
    table = entitlements("outbox", "parked")
    one = entitlements("outbox", "retry", ids[0], "--reason", "fixed")
    again = entitlements("outbox", "retry", ids[0])
    rest = entitlements("outbox", "retry", "--everything", "--json")
    handed = entitlements("outbox", "hand-over")

    assert waiting.out.startswith("2 events wait, since ")
    assert (status["waiting"], status["parked"]) == (0, 2)
    assert status["relays"] == [{"relay": "a", "sink": "kafka", "buckets": 64}]
    assert sorted(row["event_id"] for row in parked) == sorted(ids)
    assert "too large" in table.out
    assert one.out == "1 events will be retried\n"
    assert (again.code, again.err) == (1, f"entitlements: no event {ids[0]} is parked\n")
    assert rest.json == {"changed": 1}
    assert handed.out == "64 of 64 buckets released: processes without Kafka can publish them now\n"
    assert entitlements("outbox", "parked").out == "no parked events\n"


def test_a_retry_needs_an_event_or_everything(entitlements: Entitlements) -> None:
    entitlements("adjust", "user:ada", "5", "--reason", "x")

    for arguments in ((), ("e", "--everything")):
        assert entitlements("outbox", "retry", *arguments).code == 2
    assert entitlements("outbox", "parked", "--limit", "0").code == 2
    assert entitlements("outbox", "retry", "no-id").code == 1
