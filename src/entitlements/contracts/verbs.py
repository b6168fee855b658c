"""A request of the HTTP interface: its route, its contracts, and how it treats keys."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Generic, Literal, TypeVar

from msgspec import Struct


class Keying(StrEnum):
    """How a route treats an Idempotency-Key."""

    TAKEN = "taken"
    IGNORED = "ignored"
    REFUSED = "refused"


_READING: Final = frozenset(
    (
        "/v1/entitlements/check-credits",
        "/v1/entitlements/check-credits/bulk",
        "/v1/entitlements/check",
        "/v1/entitlements/check/bulk",
        "/v1/admin/policies/check",
    )
)
"""POST routes that change nothing."""
_UNKEYED: Final = ("/v1/admin/policies", "/v1/admin/webhooks")
"""Policies are identified by hash and webhooks by URL; secrets are not stored for replays."""


def keying(method: str, path: str) -> Keying:
    """Return how a route treats a key. POST takes one; other methods are repeatable without."""
    if method != "POST" or path in _READING:
        return Keying.IGNORED
    return Keying.REFUSED if path.startswith(_UNKEYED) else Keying.TAKEN


T_co = TypeVar("T_co", bound=Struct, covariant=True)


@dataclass(frozen=True, slots=True, eq=False)
class Verb(Generic[T_co]):
    """A request and the type of its response. Verbs are declared beside their contracts.

    ``name`` is the operation id in the API document; ``path`` has its parameters in braces.
    ``asks`` is the contract of the body of a POST or PUT, or of another method's query string, if
    it has one.
    The body of a response is ``answer`` for the statuses in ``answers_with``, and a problem for
    others.
    """

    name: str
    method: Literal["GET", "POST", "PUT", "DELETE"]
    path: str
    asks: type[Struct] | None
    answer: type[T_co]
    answers_with: tuple[int, ...] = (200,)

    @property
    def has_body(self) -> bool:
        return self.method in {"POST", "PUT"}

    @property
    def is_keyed(self) -> bool:
        """Return whether it takes an Idempotency-Key."""
        return keying(self.method, self.path) is Keying.TAKEN
