"""Pages of listings."""

from __future__ import annotations

from typing import Generic, TypeVar

from msgspec import Struct

T = TypeVar("T")
P = TypeVar("P")


class Page(Struct, Generic[T, P], frozen=True, kw_only=True):
    """Rows of a listing, in its order, and the place where the next page begins.

    ``next`` is None on the last page. A page looks at a bounded number of rows, so that one with
    filters may have fewer rows than asked for, even none, and yet not be the last.
    """

    rows: list[T]
    next: P | None = None
