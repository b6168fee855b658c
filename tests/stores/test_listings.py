"""Listings of the ledger and of holds return the same rows as filters over the whole history.

Tested for each filter alone and combined, with pages that read a few rows at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from entitlements.adapters import listing
from entitlements.app.inbox.store import LettersQuery, LetterState, RecordsQuery
from entitlements.app.ports import AuditQuery, Cursor, HoldsQuery, OperationsQuery
from entitlements.core import commands as c
from entitlements.core.model import AuditEntry, Operation, Subject, WalletKey
from entitlements.core.reasons import ConsumptionOutcome, HoldStatus
from entitlements.ids import uuid7
from tests.stores.clerk import SCHOOL, TEACHER, Clerk, Store, consume, give, hold, origin, settle
from tests.stores.test_inbox import a_letter, report

TOKENS = WalletKey("user", "teacher", "tokens")
FILTERS: list[dict[str, Any]] = [
    {},
    {"subject_type": "user"},
    {"subject_id": "teacher"},
    {"subject_type": "user", "subject_id": "teacher"},
    {"subject_type": "org", "subject_id": "teacher"},
    {"subject_id": "nobody"},
    {"metric": "cj"},
    {"metric": "unheard"},
    {"status": "failed"},
    {"status": "completed", "kind": "consume"},
    {"kind": "grant"},
    {"user_id": "teacher"},
    {"org_id": "school"},
    {"batch_id": "b"},
    {"correlation_id": "every second"},
    {"correlation_id": "unheard"},
    {"status": "failed", "org_id": "school"},
    {"correlation_id": "every second", "subject_id": "school"},
    {"correlation_id": "every second", "status": "failed"},
    {"subject_id": "teacher", "metric": "cj", "status": "failed"},
    {"subject_id": "teacher", "batch_id": "b", "user_id": "teacher"},
]


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "LOOKED_MAX", 7)


@pytest.fixture
async def busy(clerk: Clerk) -> Clerk:
    """Return a clerk with sixty operations in three wallets, several in each second."""
    await clerk.do(give(30, SCHOOL), give(30, TEACHER), give(5, TOKENS))
    for second in range(12):
        clerk.clock.turn_to(second)
        mark = "every second" if second % 2 else "others"
        commands: list[c.AnyCommand] = [
            consume(1, batch_id="b"),
            consume(99),
            consume(1, org_id="school"),
            give(1, TOKENS),
        ]
        await clerk.do(*(correlated(command, mark) for command in commands))
    return clerk


def correlated(command: Any, correlation_id: str) -> c.AnyCommand:
    changed: c.AnyCommand = replace(
        command, origin=replace(command.origin, correlation_id=correlation_id)
    )
    return changed


async def history(store: Store) -> list[Operation]:
    """Return all operations, newest first, read wallet by wallet."""
    found = []
    for key in (SCHOOL, TEACHER, TOKENS):
        query = OperationsQuery(subject_type=key.subject_type, subject_id=key.subject_id)
        found += [one for one in await paged(store, query) if one.wallet == key]
    return sorted(found, key=lambda one: (one.created_at, one.wallet, one.seq), reverse=True)


async def paged(store: Store, query: OperationsQuery, limit: int = 3) -> list[Operation]:
    """Return the rows of all pages of the listing."""
    found: list[Operation] = []
    after: Cursor | None = None
    while True:
        page = await store.reads.operations(replace(query, limit=limit, after=after))
        assert len(page.rows) <= limit
        found += page.rows
        if page.next is None:
            return found
        assert page.next != after
        after = page.next


def is_meant(operation: Operation, wanted: dict[str, Any]) -> bool:
    return all(
        getattr(operation.wallet if name.startswith("subject") else operation, name) == value
        for name, value in wanted.items()
    )


async def test_pages_return_the_same_rows_as_the_whole_history(store: Store, busy: Clerk) -> None:
    everything = await history(store)

    found = {
        str(wanted): [one.id for one in await paged(store, OperationsQuery(**wanted))]
        for wanted in FILTERS
    }

    assert found == {
        str(wanted): [one.id for one in everything if is_meant(one, wanted)] for wanted in FILTERS
    }


async def test_pages_stay_within_their_time_range(store: Store, busy: Clerk) -> None:
    since, until = busy.clock.at(3), busy.clock.at(9)
    everything = [one for one in await history(store) if since <= one.created_at < until]

    found = {
        str(wanted): [
            one.id
            for one in await paged(store, OperationsQuery(since=since, until=until, **wanted))
        ]
        for wanted in FILTERS
    }

    assert found == {
        str(wanted): [one.id for one in everything if is_meant(one, wanted)] for wanted in FILTERS
    }


async def test_an_empty_page_can_have_a_cursor_to_the_next(store: Store, busy: Clerk) -> None:
    page = await store.reads.operations(OperationsQuery(subject_id="teacher", kind="reversal"))

    assert page.rows == []
    assert page.next is not None


async def test_a_full_last_page_has_no_cursor(store: Store, busy: Clerk) -> None:
    for client in ("one", "two"):
        await busy.do(consume(1, replace(origin("k:mine"), client=client)))

    page = await store.reads.operations(OperationsQuery(key="mine", limit=2))

    assert len(page.rows) == 2
    assert page.next is None


async def test_operations_are_found_by_the_key_of_their_request(store: Store, busy: Clerk) -> None:
    keyed = [consume(1, replace(origin("k:mine"), client=client)) for client in ("app", "jobs")]
    busy.clock.turn_to(20)
    for command in keyed:
        await busy.do(command)
        busy.clock.turn_to(21)

    found = await paged(store, OperationsQuery(key="mine"), limit=1)

    assert [one.id for one in found] == [command.id for command in reversed(keyed)]
    assert await paged(store, OperationsQuery(key="mine", subject_id="school")) == []
    assert await paged(store, OperationsQuery(key="not mine")) == []


async def test_operations_are_found_by_their_hold(store: Store, busy: Clerk) -> None:
    busy.clock.turn_to(20)
    taken = hold(4)
    await busy.do(taken)
    busy.clock.turn_to(30)
    await busy.do(*(consume(1) for _ in range(9)))
    await busy.do(settle(await store.reads.hold(taken.id), 3))

    found = await paged(store, OperationsQuery(hold_id=taken.id))

    assert [one.kind for one in found] == ["consume", "hold"]
    assert await paged(store, OperationsQuery(hold_id=uuid7())) == []
    assert await paged(store, OperationsQuery(hold_id="no id")) == []


async def test_holds_are_paged_by_each_filter(store: Store, clerk: Clerk) -> None:
    await clerk.do(give(100, TEACHER))
    taken = [hold(1) for _ in range(20)]
    await clerk.do(*taken)
    await clerk.do(settle(await store.reads.hold(taken[3].id), 1))

    async def paged_holds(**wanted: Any) -> list[str]:
        found: list[str] = []
        after: str | None = None
        while True:
            page = await store.reads.holds(HoldsQuery(limit=2, after=after, **wanted))
            found += [part.id for part in page.rows]
            if page.next is None:
                return found
            after = page.next

    ids = sorted((one.id for one in taken), reverse=True)
    assert await paged_holds() == ids
    assert await paged_holds(subject_id="teacher") == ids
    assert await paged_holds(subject_type="org") == []
    assert await paged_holds(status=HoldStatus.SETTLED) == [taken[3].id]
    assert await paged_holds(subject_id="teacher", status=HoldStatus.SETTLED) == [taken[3].id]
    assert len(await paged_holds(status=HoldStatus.OPEN)) == 19


async def test_records_and_dead_letters_are_paged_by_each_filter(
    store: Store, clerk: Clerk
) -> None:
    await clerk.do(give(10, TEACHER))
    told = [report(event_id=f"e{n}", units=n % 2) for n in range(20)]
    for one in told:
        await clerk.do(one)
    await store.inbox.add_dead_letters([a_letter(n) for n in range(20)])

    async def counted(ask: Any, query: Any) -> int:
        found = 0
        while True:
            page = await ask(query)
            found += len(page.rows)
            if page.next is None:
                return found
            query = replace(query, after=page.next)

    free = RecordsQuery(result=ConsumptionOutcome.FREE, limit=2)
    assert await counted(store.inbox.use_records, free) == 10
    assert await counted(store.inbox.use_records, replace(free, user_id="teacher")) == 10
    assert await counted(store.inbox.use_records, RecordsQuery(user_id="nobody")) == 0
    assert await counted(store.inbox.use_records, RecordsQuery(limit=3)) == 20
    assert await counted(store.inbox.use_records, RecordsQuery(org_id="nobody", limit=3)) == 0
    assert await counted(store.inbox.dead_letters, LettersQuery(limit=3)) == 20
    assert await counted(store.inbox.dead_letters, LettersQuery(topic="none", limit=3)) == 0
    assert (
        await counted(store.inbox.dead_letters, LettersQuery(state=LetterState.OPEN, limit=3)) == 20
    )


async def test_the_audit_log_is_paged_by_each_filter(store: Store, clerk: Clerk) -> None:
    entries = [
        AuditEntry(
            id=uuid7(),
            at=clerk.clock.at(number // 3),  # some at the same time
            actor="ada" if number % 2 else "cli:root",
            client="cli",
            action="hold.release" if number % 3 else "policy.activate",
            subject=Subject("user", "teacher") if number % 5 else None,
            reason=f"reason {number}",
            detail={"number": number},
            correlation_id=f"c{number % 4}",
        )
        for number in range(20)
    ]
    for entry in entries:
        await store.acts.add_audit(entry)
    newest = sorted(entries, key=lambda entry: (entry.at, entry.id), reverse=True)
    filters: dict[str, tuple[AuditQuery, Callable[[AuditEntry], bool]]] = {
        "client": (AuditQuery(client="cli"), lambda _: True),
        "actor": (AuditQuery(actor="ada"), lambda one: one.actor == "ada"),
        "action": (
            AuditQuery(action="policy.activate", client="cli"),
            lambda one: one.action == "policy.activate",
        ),
        "subject": (
            AuditQuery(subject_type="user", subject_id="teacher"),
            lambda one: one.subject is not None,
        ),
        "correlation": (AuditQuery(correlation_id="c3"), lambda one: one.correlation_id == "c3"),
        "time": (
            AuditQuery(since=clerk.clock.at(2), until=clerk.clock.at(4)),
            lambda one: clerk.clock.at(2) <= one.at < clerk.clock.at(4),
        ),
    }

    async def paged_entries(query: AuditQuery) -> list[AuditEntry]:
        found: list[AuditEntry] = []
        after: Cursor | None = None
        while True:
            page = await store.acts.audit(replace(query, limit=2, after=after))
            found += page.rows
            if page.next is None:
                return found
            after = page.next

    found = {name: await paged_entries(query) for name, (query, _) in filters.items()}

    assert found == {name: list(filter(fits, newest)) for name, (_, fits) in filters.items()}


async def test_a_time_range_of_records_ends_without_scanning_older_ones(
    store: Store, clerk: Clerk
) -> None:
    await clerk.do(give(50, TEACHER))
    for n in range(30):
        await clerk.do(report(event_id=f"old {n}", units=1))
    clerk.clock.turn_to(30 * 86_400)
    await clerk.do(report(event_id="new", units=1))

    page = await store.inbox.use_records(RecordsQuery(since=clerk.clock.at(20 * 86_400)))

    assert [one.report.event_id for one in page.rows] == ["new"]
    assert page.next is None
