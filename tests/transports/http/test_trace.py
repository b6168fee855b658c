"""The caller's span is passed on to the events that a request causes."""

import pytest

from entitlements.adapters.sqlite.store import SqliteStore
from tests.transports.http.api import Api

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"


async def spans(api: Api) -> set[str | None]:
    """Return the spans that the events in the outbox name."""
    store = api.system.engine.store
    assert isinstance(store, SqliteStore)
    sql = "SELECT coalesce(traceparent, '') FROM event_outbox"
    found = await store.db.read(lambda db: db.execute(sql).fetchall())
    return {str(row[0]) or None for row in found}


async def spans_of_a_consumption(api: Api, traceparent: str) -> set[str | None]:
    work = {"user_id": "ada", "metric": "spellcheck", "amount": 1, "correlation_id": "c"}
    answer = await api.post("/v1/entitlements/consume-credits", work, traceparent=traceparent)
    assert answer.status_code == 200
    return await spans(api)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-01"),
        (f"cc-{TRACE}-{SPAN}-00-what-will-be-there", f"00-{TRACE}-{SPAN}-00"),
        (f"cc-{TRACE}-{SPAN}-00", f"00-{TRACE}-{SPAN}-00"),
    ],
)
async def test_events_name_the_callers_span(api: Api, given: str, kept: str) -> None:
    assert await spans_of_a_consumption(api, given) == {kept}


@pytest.mark.parametrize(
    "given",
    [
        "",
        "1",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"cc-{TRACE}-{SPAN}-01more",
    ],
)
async def test_a_malformed_span_is_ignored(api: Api, given: str) -> None:
    assert await spans_of_a_consumption(api, given) == {None}
