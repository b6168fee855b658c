"""Pages of listings."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Generic, TypeVar

from msgspec import Struct
from msgspec.structs import replace

T = TypeVar("T")
P = TypeVar("P")
Q = TypeVar("Q", bound=Struct)


class Page(Struct, Generic[T, P], frozen=True, kw_only=True):
    """The rows of a page, in order, and the position of the next page.

    ``next`` is None on the last page. A page reads a bounded number of rows, so with filters it can
    have fewer rows than requested, even none, without being the last.
    """

    rows: list[T]
    next: P | None = None


async def rows_of(ask: Callable[[Q], Awaitable[Page[T, Any]]], query: Q) -> AsyncIterator[list[T]]:
    """Yield the rows of all pages, a page at a time, with as many rows each as the query allows."""
    while True:
        page = await ask(query)
        yield page.rows
        if page.next is None:
            return
        query = replace(query, after=page.next)
