"""Usage reports, memberships and dead letters, on both engines."""

from __future__ import annotations

from datetime import timedelta
from itertools import count
from typing import Any
from uuid import UUID

import pytest
from msgspec.structs import replace

from entitlements.app.inbox.store import (
    DeadLetter,
    Inbox,
    LettersQuery,
    LetterState,
    Reason,
    RecordsQuery,
)
from entitlements.core import commands as c
from entitlements.core.model import ConsumptionRecord, Membership, Subject, UsageReport, facts_of
from entitlements.core.outcomes import AccountOpened, Consumed, UsageIngested
from entitlements.core.reasons import ConsumptionOutcome
from entitlements.ids import uuid7
from tests.audit import audited
from tests.stores.clerk import NOON, Clerk, Clock, an_activation, consume, give, hold, origin
from tests.stores.clerk import Store as Books

_numbers = count()


def an_id() -> str:
    """Return an id. Ids sort in the order of their creation, even within a millisecond."""
    return str(UUID(int=(1 << 120) + next(_numbers)))


class Store(Books, Inbox):
    """The type of the store that the fixture opens."""


def report(event_id: str, units: int = 2, **fields: Any) -> c.IngestUsage:
    beside = {name: fields.pop(name) for name in ("hold", "is_charged") if name in fields}
    told: dict[str, Any] = {"user_id": "teacher", "metric": "cj"}
    told |= {"event_type": "resource.consumption.v1", "source_service": "grader"}
    return c.IngestUsage(
        id=an_id(),
        origin=origin(),
        report=UsageReport(event_id=event_id, units=units, **(told | fields)),
        **beside,
    )


JOB: dict[str, Any] = {"service_name": "grader", "processing_id": "p1"}


async def reported(clerk: Clerk, *commands: c.AnyCommand) -> list[UsageIngested]:
    outcomes = await clerk.do(*commands)
    assert all(isinstance(outcome, UsageIngested) for outcome in outcomes), outcomes
    return outcomes  # type: ignore[return-value]


async def test_a_record_has_the_report_of_the_event_and_its_outcome(
    store: Store, clerk: Clerk, clock: Clock
) -> None:
    command = report(
        "e1",
        batch_id="b",
        org_id="school",
        trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
        reported_at=clock.at(-2),
        consumed_at=clock.at(-5),
        **JOB,
    )
    await clerk.do(give(9), command)

    (record,) = (await store.inbox.use_records(RecordsQuery())).rows

    assert record == ConsumptionRecord(
        id=command.id,
        report=command.report,
        result=ConsumptionOutcome.CHARGED,
        operation_id=command.id,
        credits=2,
        correlation_id=command.origin.correlation_id,
        recorded_at=NOON,
    )


async def test_an_event_is_charged_once_within_and_across_batches(clerk: Clerk) -> None:
    await clerk.do(give(9))

    first, second = await reported(clerk, report("e1"), report("e1"))
    (third,) = await reported(clerk, report("e1", 7))

    assert (first.replayed, second.replayed, third.replayed) == (False, True, True)
    assert first.operation_id == second.operation_id == third.operation_id
    assert third.credits == 2


async def test_a_job_is_charged_once_over_requests_and_events(clerk: Clerk) -> None:
    await clerk.do(give(9))
    told = report("e1", **JOB)
    await clerk.do(told)

    (asked,) = await clerk.do(consume(2, job=told.report.job))
    (again,) = await reported(clerk, report("e2", 3, **JOB))

    assert isinstance(asked, Consumed)
    assert (asked.operation_id, asked.replayed) == (told.id, True)
    assert (again.result, again.operation_id) == (ConsumptionOutcome.CONFLICT, told.id)


async def test_a_report_settles_its_hold(store: Store, clerk: Clerk) -> None:
    await clerk.do(give(9))
    taken = hold(5)
    await clerk.do(taken)
    found = facts_of(await store.reads.hold(taken.id))
    told = report("e1", 3, hold=found, hold_id=taken.id, **JOB)

    (outcome,) = await reported(clerk, told)
    (record,) = (
        await store.inbox.use_records(RecordsQuery(result=ConsumptionOutcome.SETTLED))
    ).rows

    assert (outcome.result, outcome.credits) == (ConsumptionOutcome.SETTLED, 3)
    assert record.report.hold_id == taken.id
    assert [part.status for part in await store.reads.hold(taken.id)] == ["settled"]


async def test_a_free_report_needs_no_wallet(store: Store, clerk: Clerk) -> None:
    told = report("e1", user_id="", org_id="school", is_charged=False)

    (outcome,) = await reported(clerk, told)

    assert outcome == UsageIngested(result=ConsumptionOutcome.FREE)
    assert [one.report for one in (await store.inbox.use_records(RecordsQuery())).rows] == [
        told.report
    ]
    assert await store.reads.wallet_keys("org", "school") == []


async def test_records_are_listed_newest_first_by_their_filters(
    store: Store, clerk: Clerk, clock: Clock
) -> None:
    await clerk.do(give(99))
    await clerk.do(report("e1", **JOB), report("e2", **JOB), report("e3", 9, **JOB))
    clock.turn_to(60)
    await clerk.do(report("e4", metric="cj", user_id="other", org_id="school"))

    async def events(**query: Any) -> list[str]:
        return [
            one.report.event_id
            for one in (await store.inbox.use_records(RecordsQuery(**query))).rows
        ]

    assert await events() == ["e4", "e3", "e2", "e1"]
    assert await events(user_id="teacher") == ["e3", "e2", "e1"]
    assert await events(org_id="school") == ["e4"]
    assert await events(metric="essay") == []
    assert await events(result=ConsumptionOutcome.CONFLICT) == ["e3"]
    assert await events(result=ConsumptionOutcome.CONFLICT, user_id="other") == []
    assert await events(result=ConsumptionOutcome.DUPLICATE) == ["e2"]
    assert await events(since=clock.at(60)) == ["e4"]
    assert await events(until=clock.at(60), limit=2) == ["e3", "e2"]
    last = (await store.inbox.use_records(RecordsQuery(limit=2))).rows[-1].id
    assert await events(after=last) == ["e2", "e1"]


async def test_the_conflict_of_a_request_is_recorded_once(store: Store, clerk: Clerk) -> None:
    await clerk.do(give(9), report("e1", **JOB))
    (charged,) = (await store.inbox.use_records(RecordsQuery())).rows
    conflict = replace(
        charged,
        id=uuid7(),
        report=replace(charged.report, event_id="request"),
        result=ConsumptionOutcome.CONFLICT,
    )

    await store.inbox.add_conflict(conflict)
    await store.inbox.add_conflict(replace(conflict, id=uuid7()))

    assert (
        await store.inbox.use_records(RecordsQuery(result=ConsumptionOutcome.CONFLICT))
    ).rows == [conflict]


@pytest.mark.parametrize("again", [False, True])
async def test_an_account_and_its_membership_are_created_once(clerk: Clerk, again: bool) -> None:  # noqa: FBT001
    def opening() -> c.OpenAccount:
        return c.OpenAccount(
            id=uuid7(),
            origin=origin(),
            subject=Subject("user", "ada"),
            org_id="school",
            by_operator=False,
        )

    await clerk.do(opening())
    (outcome,) = await clerk.do(opening()) if again else [None]
    book = await clerk.look(needs=clerk.needs(opening()))

    assert book.members.keys() == {Membership("school", "ada")}
    assert book.accounts == {Subject("user", "ada")}
    assert outcome is None or (isinstance(outcome, AccountOpened) and not outcome.created)


async def test_a_users_orgs_are_found_by_id(store: Store, clerk: Clerk) -> None:
    def opening(user: str, org: str) -> c.OpenAccount:
        subject = Subject("user", user)
        return c.OpenAccount(
            id=uuid7(), origin=origin(), subject=subject, org_id=org, by_operator=False
        )

    await clerk.do(*(opening("ada", org) for org in ("c", "a", "b")), opening("bo", "d"))

    assert await store.reads.orgs_of("ada", 2) == ["a", "b"]
    assert await store.reads.orgs_of("ada", 9) == ["a", "b", "c"]
    assert await store.reads.orgs_of("nobody", 9) == []


async def test_an_account_opened_by_an_event_is_not_audited(store: Store, clerk: Clerk) -> None:
    await clerk.do(
        c.OpenAccount(
            id=uuid7(), origin=origin(), subject=Subject("user", "ada"), by_operator=False
        )
    )

    assert [entry.action for entry in await audited(store, 9)] == ["policy.activate"]


def a_letter(offset: int, **fields: Any) -> DeadLetter:
    given: dict[str, Any] = {
        "id": an_id(),
        "topic": "huleedu.resource.consumption.v1",
        "partition": 3,
        "offset": offset,
        "key": b"\xff\x00",
        "value": b"{not json \x00\xfe",
        "headers": (("event_id", b"\x80"), ("event_id", None)),
        "reason": Reason.MALFORMED,
        "detail": "no JSON",
        "died_at": NOON,
    }
    return DeadLetter(**(given | fields))


async def test_a_dead_letter_is_stored_byte_for_byte_once_per_topic_partition_and_offset(
    store: Store,
) -> None:
    letter = a_letter(1)
    empty = a_letter(2, key=None, value=None, headers=())

    await store.inbox.add_dead_letters([letter, empty])
    await store.inbox.add_dead_letters([a_letter(1, value=b"other")])

    assert (await store.inbox.dead_letters(LettersQuery())).rows == [empty, letter]
    assert await store.inbox.dead_letter(letter.id) == letter
    assert await store.inbox.dead_letter("no id") is None
    assert await store.inbox.open_dead_letters() == 2


async def test_dead_letters_are_listed_by_their_filters(store: Store) -> None:
    one = a_letter(1)
    two = a_letter(2, reason=Reason.UNPRICEABLE, topic="other")
    await store.inbox.add_dead_letters([one, two])
    await store.inbox.close_dead_letter(one.id, LetterState.DROPPED, NOON, an_activation())

    async def found(**query: Any) -> list[str]:
        return [
            letter.id for letter in (await store.inbox.dead_letters(LettersQuery(**query))).rows
        ]

    assert await found(state=LetterState.OPEN) == [two.id]
    assert await found(state=LetterState.DROPPED) == [one.id]
    assert await found(reason=Reason.UNPRICEABLE) == [two.id]
    assert await found(topic="other") == [two.id]
    assert await found(limit=1) == [two.id]
    assert await found(after=two.id) == [one.id]


async def test_a_dead_letter_is_closed_once(store: Store) -> None:
    letter = a_letter(1)
    await store.inbox.add_dead_letters([letter])
    await store.inbox.note_replay(letter.id, Reason.UNPRICEABLE, "no such metric")
    later = NOON + timedelta(hours=1)

    closed = await store.inbox.close_dead_letter(
        letter.id, LetterState.REPLAYED, later, an_activation()
    )
    twice = await store.inbox.close_dead_letter(
        letter.id, LetterState.DROPPED, later, an_activation()
    )
    await store.inbox.note_replay(letter.id, Reason.FAILED, "too late")

    assert (closed, twice) == (True, False)
    assert await store.inbox.open_dead_letters() == 0
    assert len(await audited(store, 9)) == 1
    assert await store.inbox.dead_letter(letter.id) == replace(
        letter,
        reason=Reason.UNPRICEABLE,
        detail="no such metric",
        state=LetterState.REPLAYED,
        closed_at=later,
    )
