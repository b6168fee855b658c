"""The findings of `verify`: violations of the ledger's invariants."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from msgspec import Struct

from entitlements.app.policy.document import parse
from entitlements.core.policy import ShortfallRule

FLOOR: Final = "overdraft_is_within_its_floor"
AHEAD: Final = "wallet_is_not_ahead_of_the_clock"
"""The invariants with a bound: the lowest overdraft floor of any policy, and now plus a minute."""
FINDINGS_MAX = 100
"""The maximum number of listed violations per invariant."""


class Finding(Struct, frozen=True, kw_only=True):
    """One violation. ``about`` is its operation, grant or key; ``wallet`` is its wallet."""

    invariant: str
    wallet: str | None
    about: str | None
    expected: str
    found: str

    def __str__(self) -> str:
        place = " ".join(part for part in (self.wallet, self.about) if part)
        return f"{self.invariant}: {place}: expected {self.expected}, found {self.found}"


def finding(invariant: str, row: Sequence[Any]) -> Finding:
    """Return the finding of a row of the invariant's statement."""
    subject_type, subject_id, credit_type, about, expected, found = row
    wallet = f"{subject_type}:{subject_id}/{credit_type}" if subject_type else None
    return Finding(
        invariant=invariant,
        wallet=wallet,
        about=None if about is None else str(about),
        expected=str(expected),
        found=str(found),
    )


def overdraft_max(documents: Iterable[str]) -> int:
    """Return the largest overdraft that any policy ever allowed."""
    policies = [parse(text, source="an earlier policy") for text in documents]
    limits = [p.overdraft_limit for p in policies if p.shortfall is ShortfallRule.OVERDRAFT]
    return max(limits, default=0)
