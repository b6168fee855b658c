"""Listings in the terminal: read pages until the limit is reached."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from msgspec.structs import replace

from entitlements.app.inbox.store import LettersQuery, RecordsQuery
from entitlements.app.paging import Page
from entitlements.app.ports import (
    AuditQuery,
    GrantsQuery,
    HoldsQuery,
    ImportedOperationsQuery,
    OperationsQuery,
    SubscriptionsQuery,
)
from entitlements.transports.cli.output import PAGE_MAX, complain

T = TypeVar("T")
Q = TypeVar(
    "Q",
    AuditQuery,
    GrantsQuery,
    HoldsQuery,
    ImportedOperationsQuery,
    LettersQuery,
    OperationsQuery,
    RecordsQuery,
    SubscriptionsQuery,
)


async def listed(ask: Callable[[Q], Awaitable[Page[T, Any]]], query: Q) -> list[T]:
    """Return the first matching rows, up to the query's limit. Warn if there are more."""
    limit = query.limit
    rows: list[T] = []
    query = replace(query, limit=min(limit, PAGE_MAX))
    while True:
        page = await ask(query)
        rows += page.rows
        if page.next is None and len(rows) <= limit:
            return rows
        if len(rows) >= limit:
            warn_of_more(limit)
            return rows[:limit]
        query = replace(query, after=page.next)


def warn_of_more(limit: int) -> None:
    """Say on stderr that the listing is not complete."""
    complain(f"only the first {limit} rows are shown; --limit shows more")
