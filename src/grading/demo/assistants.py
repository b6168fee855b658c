"""The teachers' assistants: every call of a language model is charged for its tokens at once."""

import asyncio
from collections.abc import Callable
from fractions import Fraction
from math import ceil
from typing import Final

from entitlements.api import Entitlements
from entitlements.contracts.http import BulkConsumeResponse, ConsumeItem
from grading.demo.calls import ModelCall
from grading.demo.report import Balance, Calls, Subject
from grading.demo.story import Teacher, UnexpectedAnswer

MODEL: Final = "assistant-1"
CREDIT_TYPE: Final = "ai_tokens"
INPUT: Final = 30_000
OUTPUT: Final = 150_000
"""Credits per million tokens, as in the policy."""
SPARE: Final = 1_000
"""Credits that a school buys beyond the needs of its teachers' assistants."""


def computed(call: ModelCall) -> int:
    """Return the call's cost, computed independently of the product: the tokens of each kind times
    their price, rounded up to whole credits.
    """
    read = Fraction(call.context * INPUT, 1_000_000)
    written = Fraction(call.generated * OUTPUT, 1_000_000)
    return ceil(read) + ceil(written)


class Assistants:
    """Distributes the calls to the teachers; each one's run in order, all teachers' in parallel."""

    def __init__(
        self,
        client: Entitlements,
        teachers: list[Teacher],
        calls: list[ModelCall],
        *,
        suffix: str,
        log: Callable[[str], None],
        progress: Callable[[int], None],
    ) -> None:
        self._client = client
        self._calls = calls
        self._teachers = teachers
        self._suffix = suffix
        self._log = log
        self._progress = progress
        self._given: dict[str, int] = {}
        self._paid: dict[str, int] = {}

    async def play(self, source: str) -> Calls:
        await self._fund()
        async with asyncio.TaskGroup() as at_work:
            for first in range(len(self._teachers)):
                at_work.create_task(self._assist(first))
        return Calls(
            source=source,
            calls=len(self._calls),
            context_tokens=sum(call.context for call in self._calls),
            generated_tokens=sum(call.generated for call in self._calls),
            charged=sum(self._paid.values()),
            computed=sum(map(computed, self._calls)),
            balances=[await self._balance(org_id) for org_id in sorted(self._given)],
        )

    async def _fund(self) -> None:
        for first, teacher in enumerate(self._teachers):
            needed = sum(map(computed, self._calls[first :: len(self._teachers)]))
            self._given[teacher.org_id] = self._given.get(teacher.org_id, SPARE) + needed
            self._paid[teacher.org_id] = 0
        for org_id, amount in self._given.items():
            await self._client.adjust(
                amount,
                subject_type="org",
                subject_id=org_id,
                reason="model credits",
                credit_type=CREDIT_TYPE,
            )
            self._log(f"org:{org_id} buys {amount:,} {CREDIT_TYPE} for its assistants.")

    async def _assist(self, first: int) -> None:
        teacher = self._teachers[first]
        for number in range(first, len(self._calls), len(self._teachers)):
            call, name = self._calls[number], f"call-{number + 1}{self._suffix}"
            items = _items(teacher, call, name)
            answer = await self._client.consume_all(items, atomic=True, key=name)
            self._count(teacher, name, answer)
            self._progress(1)

    def _count(self, teacher: Teacher, name: str, answer: BulkConsumeResponse) -> None:
        if not answer.success or {one.consumed_from for one in answer.results} != {"org"}:
            raise UnexpectedAnswer(f"{name} was not paid by the school: {answer.results}")
        self._paid[teacher.org_id] += sum(one.credits for one in answer.results)

    async def _balance(self, org_id: str) -> Balance:
        answer = await self._client.balance(org_id, org_id=org_id)
        return Balance(
            subject=str(Subject("org", org_id)),
            given=self._given[org_id],
            paid=self._paid[org_id],
            balance=answer.by_credit_type[CREDIT_TYPE]["org"].balance,
        )


def _items(teacher: Teacher, call: ModelCall, name: str) -> list[ConsumeItem]:
    used = {"input": call.context, "output": call.generated}
    return [
        ConsumeItem(
            user_id=teacher.id,
            org_id=teacher.org_id,
            metric=f"llm.{MODEL}.{kind}",
            amount=tokens,
            correlation_id=name,
        )
        for kind, tokens in used.items()
    ]
