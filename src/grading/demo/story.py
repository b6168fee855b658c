"""Two schools and a dozen teachers: one school can pay for everything, the other runs out."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import count, cycle
from typing import Final, assert_never

from msgspec import UNSET, Struct

from entitlements.api import Entitlements
from entitlements.contracts.events import ResourceConsumptionV1
from entitlements.contracts.http import BulkCheckResponse, ConsumeResponse
from grading.demo.essays import SchoolClass
from grading.demo.grading import (
    Comparison,
    Feedback,
    Task,
    better,
    feedback,
    metric,
    tasks,
)
from grading.demo.kafka import UsageEvents
from grading.demo.report import Balance, Denial, ReportTally, Subject, Unpaid

CLIENTS: Final = 64
RICH: Final = "norrskolan"
POOR: Final = "söderskolan"
TEACHERS: Final = {
    RICH: ("ada", "björn", "carin", "david", "elsa", "farid"),
    POOR: ("gösta", "hanna", "inés", "jonas", "kajsa", "liam"),
}
SAVER: Final = "kajsa"
AT_ONCE: Final = 2
"""The number of batches per school that run at the same time."""
CLIENTS_EACH: Final = CLIENTS // (len(TEACHERS) * AT_ONCE)
TWICE_EVERY: Final = 50


class UnexpectedAnswer(RuntimeError):
    """The service's response fits no step of the scenario."""


class Teacher(Struct, frozen=True):
    id: str
    org_id: str


class EssayBatch:
    """One class for one teacher; ``left`` counts the tasks not yet started, by metric."""

    def __init__(self, id: str, teacher: Teacher, graded: SchoolClass) -> None:
        self.id = id
        self.teacher = teacher
        self.prompt = graded.prompt
        self.left = Counter(map(metric, tasks(graded)))
        self.size = self.left.total()
        self.wins: Counter[str] = Counter()
        self.feedback: dict[str, str] = {}
        self.owed: list[ConsumeResponse] = []
        self._numbered = enumerate(tasks(graded), 1)

    def todo(self) -> Iterator[tuple[int, Task]]:
        """Yield numbered tasks, shared by all clients of the batch, until one is not paid."""
        for number, task in self._numbered:
            self.left[metric(task)] -= 1
            yield number, task
            if self.owed:
                return

    def perform(self, task: Task) -> None:
        """Perform the task and store its result."""
        match task:
            case Comparison(left=left, right=right):
                self.wins[better(left, right).id] += 1
            case Feedback(essay=essay):
                self.feedback[essay.id] = feedback(essay)
            case _:
                assert_never(task)

    @property
    def requirements(self) -> dict[str, int]:
        return dict(+self.left)


class Story:
    """The scenario. ``log`` prints a line; ``progress`` counts tasks that are done or dropped.

    With ``events``, one school's feedback is reported by events instead of consumed over HTTP.
    """

    def __init__(
        self,
        client: Entitlements,
        *,
        suffix: str,
        log: Callable[[str], None],
        progress: Callable[[int], None],
        events: UsageEvents | None = None,
    ) -> None:
        self.tally = ReportTally()
        self.denials: list[Denial] = []
        self.unpaid: list[Unpaid] = []
        self.sent_twice = 0
        self.charged_once = 0
        self._client = client
        self._suffix = suffix
        self._log = log
        self._progress = progress
        self._events = events

    def batches(self, classes: list[SchoolClass]) -> dict[str, list[EssayBatch]]:
        """Return one batch per teacher, by school; the classes rotate."""
        numbers, graded = count(1), cycle(classes)
        return {
            school: [
                EssayBatch(
                    f"batch-{next(numbers)}{self._suffix}",
                    Teacher(name + self._suffix, school + self._suffix),
                    next(graded),
                )
                for name in names
            ]
            for school, names in TEACHERS.items()
        }

    async def play(self, batches: dict[str, list[EssayBatch]]) -> list[Balance]:
        everyone = [batch for each in batches.values() for batch in each]
        await self._open_accounts(everyone)
        await self._fund(everyone)
        async with asyncio.TaskGroup() as schools:
            for each in batches.values():
                schools.create_task(self._school(each))
        if self._events is not None:
            await self._count_events(self._events)
        return [await self._balance(subject) for subject in sorted(self.tally.given)]

    async def _open_accounts(self, batches: list[EssayBatch]) -> None:
        users = [Subject("user", batch.teacher.id) for batch in batches]
        orgs = sorted({Subject("org", batch.teacher.org_id) for batch in batches})
        for subject in (*orgs, *users):
            opened = await self._client.open_account(
                subject_type=subject.type, subject_id=subject.id
            )
            self.tally.given[subject] += opened.bonus
        self._log(f"{len(orgs)} schools and {len(users)} teachers have accounts and their bonus.")

    async def _fund(self, batches: list[EssayBatch]) -> None:
        """Fund the poor school for two batches and a tenth more than a third one needs."""
        prices = [(await self._check(batch)).required_credits for batch in batches]
        rich, poor = (
            Subject("org", RICH + self._suffix),
            Subject("org", POOR + self._suffix),
        )
        licence = max(prices) * len(TEACHERS[RICH])
        await self._give(rich, licence, "semester licence")
        await self._give(Subject("user", SAVER + self._suffix), max(prices), "own purchase")
        answer = await self._client.set_balance(
            max(prices) * 31 // 10,
            subject_type="org",
            subject_id=poor.id,
            reason="small budget",
        )
        self.tally.given[poor] += answer.delta
        self._log(
            f"A batch costs up to {max(prices):,} credits; {rich} gets {licence:,} on top, "
            f"{poor} has {answer.balance:,} in all, user:{SAVER}{self._suffix} bought some herself."
        )

    async def _give(self, subject: Subject, amount: int, reason: str) -> None:
        await self._client.adjust(
            amount, subject_type=subject.type, subject_id=subject.id, reason=reason
        )
        self.tally.given[subject] += amount

    async def _school(self, batches: list[EssayBatch]) -> None:
        """Run the batches in waves: check all, then grade the allowed ones. Checks hold nothing."""
        for start in range(0, len(batches), AT_ONCE):
            wave = batches[start : start + AT_ONCE]
            allowed = await asyncio.gather(*map(self._is_allowed, wave))
            async with asyncio.TaskGroup() as working:
                for batch, may_start in zip(wave, allowed, strict=True):
                    if may_start:
                        working.create_task(self._grade(batch))

    async def _is_allowed(self, batch: EssayBatch) -> bool:
        answer = await self._check(batch)
        if answer.allowed:
            source = next(iter(answer.per_metric.values())).source
            self._log(
                f"{batch.id} of {batch.teacher.id}, {batch.prompt!r}: allowed, "
                f"{answer.required_credits:,} credits, the {source} has "
                f"{answer.available_credits:,}."
            )
            return True
        self._deny(batch, answer)
        self._progress(sum(batch.requirements.values()))
        return False

    def _deny(self, batch: EssayBatch, answer: BulkCheckResponse) -> None:
        has = answer.balances
        assert has is not UNSET, "a denial shows balances"
        denial = Denial(
            batch=batch.id,
            user=batch.teacher.id,
            org=batch.teacher.org_id,
            reason=answer.denial_reason or "",
            required=answer.required_credits,
            org_available=has.org or 0,
            user_available=has.user,
            missing=0 if answer.missing_credits is UNSET else answer.missing_credits,
        )
        self.denials.append(denial)
        self._log(
            f"{batch.id} of {batch.teacher.id}: denied, {denial.reason}, "
            f"{denial.missing:,} credits are missing."
        )

    async def _grade(self, batch: EssayBatch) -> None:
        async with asyncio.TaskGroup() as clients:
            for _ in range(CLIENTS_EACH):
                clients.create_task(self._work_through(batch))
        if not batch.owed:
            best, wins = batch.wins.most_common(1)[0]
            self._log(f"{batch.id} of {batch.teacher.id}: done; {best} won {wins} times.")
            return

        self._file_unpaid(batch)
        if batch.requirements:
            await self._is_allowed(batch)

    def _file_unpaid(self, batch: EssayBatch) -> None:
        unpaid = Unpaid(
            batch=batch.id,
            user=batch.teacher.id,
            org=batch.teacher.org_id,
            reason=batch.owed[0].reason or "",
            operations=len(batch.owed),
            owed=sum(answer.owed for answer in batch.owed),
        )
        self.unpaid.append(unpaid)
        self._log(f"{batch.id} of {batch.teacher.id}: stopped, neither payer has enough credits.")

    async def _work_through(self, batch: EssayBatch) -> None:
        for number, task in batch.todo():
            batch.perform(task)
            if self._events is not None and self._is_reported(batch, task):
                self._report(self._events, batch, number, metric(task))
            else:
                await self._consume(batch, number, metric(task))
            self._progress(1)

    async def _consume(self, batch: EssayBatch, number: int, metric: str) -> None:
        times = 2 if number % TWICE_EVERY == 0 else 1
        sent = (
            self._client.consume(
                user_id=batch.teacher.id,
                org_id=batch.teacher.org_id,
                metric=metric,
                batch_id=batch.id,
                key=f"{batch.id}-{number}",
                correlation_id=batch.id,
            )
            for _ in range(times)
        )
        operations = {answer.operation_id: answer for answer in await asyncio.gather(*sent)}
        if times > 1:
            self.sent_twice += 1
            self.charged_once += len(operations) == 1
        for answer in operations.values():
            self._count(batch, metric, answer)

    def _is_reported(self, batch: EssayBatch, task: Task) -> bool:
        """Return whether to report by event: no result comes back, so only payable work is."""
        return batch.teacher.org_id == RICH + self._suffix and isinstance(task, Feedback)

    def _report(self, events: UsageEvents, batch: EssayBatch, number: int, metric: str) -> None:
        now = datetime.now(UTC)  # noqa: TID251 - as the clock of another service
        work = ResourceConsumptionV1(
            entity_id=batch.id,
            entity_type="batch",
            timestamp=now,
            user_id=batch.teacher.id,
            org_id=batch.teacher.org_id,
            resource_type=metric,
            quantity=1,
            service_name="essay_grader",
            processing_id=f"{batch.id}-{number}",
            consumed_at=now,
        )
        events.publish(work)

    async def _count_events(self, events: UsageEvents) -> None:
        """Count the payers of reported work, from the ledger's events."""
        charged = await events.charged()
        for work in charged:
            self.tally.pay(work.payer, work.metric, work.credits)
        self.sent_twice += events.sent_twice
        self.charged_once += events.sent_twice - sum(work.operations - 1 for work in charged)
        self._log(
            f"{len(charged)} feedbacks were reported over Kafka, {events.sent_twice} of them "
            "twice; their balance changes came back as events."
        )

    def _count(self, batch: EssayBatch, metric: str, answer: ConsumeResponse) -> None:
        if not answer.success:
            batch.owed.append(answer)
            return
        match answer.consumed_from:
            case "org":
                self.tally.pay(Subject("org", batch.teacher.org_id), metric, answer.credits)
            case "user":
                self.tally.pay(Subject("user", batch.teacher.id), metric, answer.credits)
            case "none":
                raise UnexpectedAnswer(f"{metric} was free: the story needs its own policy")

    async def _check(self, batch: EssayBatch) -> BulkCheckResponse:
        return await self._client.check_all(
            batch.requirements,
            user_id=batch.teacher.id,
            org_id=batch.teacher.org_id,
            correlation_id=batch.id,
        )

    async def _balance(self, subject: Subject) -> Balance:
        answer = await self._client.balance(subject.id, org_id=subject.id)
        ledger = answer.user_balance if subject.type == "user" else answer.org_balance
        return Balance(
            subject=str(subject),
            given=self.tally.given[subject],
            paid=self.tally.paid[subject],
            balance=ledger or 0,
        )
