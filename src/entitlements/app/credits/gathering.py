"""Questions to the database that callers ask at the same time, answered by shared queries."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

from entitlements.app.credits.unreadable import UnreadableLog
from entitlements.app.ports import Contended, StoreUnavailable, Unreadable

QUERIES_AT_ONCE: Final = 2
KEYS_PER_QUERY: Final = 2048

Q = TypeVar("Q")
A = TypeVar("A")


class Gathering(Generic[Q, A]):
    """While queries run, further questions gather, and the next query answers all of them.

    ``find`` answers questions in their order. ``size`` is how many keys a question has.
    """

    def __init__(
        self,
        find: Callable[[Sequence[Q]], Awaitable[list[A]]],
        unreadable: UnreadableLog,
        *,
        size: Callable[[Q], int] = lambda _: 1,
    ) -> None:
        self._find = find
        self._unreadable = unreadable
        self._size = size
        self._waiting: list[tuple[Q, asyncio.Future[A]]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def ask(self, question: Q) -> asyncio.Future[A]:
        """Return a future of the answer; start reading at once. Raises StoreUnavailable."""
        future: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, future))
        if len(self._tasks) < QUERIES_AT_ONCE:
            self._tasks.add(asyncio.create_task(self._drain()))
        return future

    async def _drain(self) -> None:
        while self._waiting:
            number, size = 0, 0
            while number < len(self._waiting) and size < KEYS_PER_QUERY:
                size += self._size(self._waiting[number][0])
                number += 1
            taken, self._waiting = self._waiting[:number], self._waiting[number:]
            await self._answer(taken)
        # In the same step as the last look at the questions: later ones must start a new task.
        task = asyncio.current_task()
        assert task is not None
        self._tasks.discard(task)

    async def _answer(self, asked: Sequence[tuple[Q, asyncio.Future[A]]]) -> None:
        """Answer all with one query. If it fails, split the questions in halves until the query
        that fails has a single question.
        """
        try:
            found = await self._find([question for question, _ in asked])
        except Exception as error:  # noqa: BLE001 - each caller gets it, so that none hangs
            middle = len(asked) // 2
            if middle and not isinstance(error, StoreUnavailable | Contended):
                await self._answer(asked[:middle])
                await self._answer(asked[middle:])
                return
            if isinstance(error, Unreadable):
                self._unreadable.note(error)
            for _, future in asked:
                if not future.done():
                    future.set_exception(error)
                    future.exception()  # mark as retrieved: the caller may have gone away
            return
        for (_, future), answer in zip(asked, found, strict=True):
            if not future.done():
                future.set_result(answer)
