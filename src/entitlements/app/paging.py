"""Pages of listings."""

from __future__ import annotations

from typing import Generic, TypeVar

from msgspec import Struct

T = TypeVar("T")
P = TypeVar("P")


class Page(Struct, Generic[T, P], frozen=True, kw_only=True):
    """The rows of a page, in order, and the position of the next page.

    ``next`` is None on the last page. A page reads a bounded number of rows, so with filters it can
    have fewer rows than requested, even none, without being the last.
    """

    rows: list[T]
    next: P | None = None
