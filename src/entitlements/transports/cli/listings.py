"""Listings in the terminal: read pages until the limit is reached."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from msgspec.structs import replace

from entitlements.app.inbox import LettersQuery, RecordsQuery
from entitlements.app.paging import Page
from entitlements.app.ports import AuditQuery, HoldsQuery, OperationsQuery

T = TypeVar("T")
Q = TypeVar("Q", AuditQuery, HoldsQuery, LettersQuery, OperationsQuery, RecordsQuery)


async def listed(ask: Callable[[Q], Awaitable[Page[T, Any]]], query: Q) -> list[T]:
    """Return the first matching rows, up to the query's limit."""
    rows: list[T] = []
    page = await ask(query)
    while True:
        rows += page.rows
        if page.next is None or len(rows) >= query.limit:
            return rows[: query.limit]
        page = await ask(replace(query, after=page.next))
