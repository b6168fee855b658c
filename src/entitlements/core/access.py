"""Access checks, decided on the grants of subjects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from msgspec import Struct

from entitlements.core.model import StoredGrant, Subject
from entitlements.core.policy import Requirement
from entitlements.core.reasons import EntitlementType

Had = Mapping[Subject, Sequence[StoredGrant]]
"""The active grants of each subject, in burn order."""


class Wanted(Struct, frozen=True, gc=False, kw_only=True):
    """The entitlement that a check asks for: a type, and of its details those that are given."""

    entitlement_type: EntitlementType
    credit_type: str | None = None
    metric: str | None = None
    feature: str | None = None
    product_id: str | None = None
    tier_id: str | None = None
    subscription_id: str | None = None
    quantity: int = 1
    """The required quantity of credits or allowances."""

    def matches(self, found: StoredGrant) -> bool:
        grant, details = found.grant, found.details
        if grant.entitlement_type is not self.entitlement_type:
            return False
        asked = (
            (self.credit_type, grant.wallet.credit_type),
            (self.metric, details.metric),
            (self.feature, details.feature),
            (self.product_id, details.product_id),
            (self.tier_id, details.tier_id),
            (self.subscription_id, details.subscription_id),
        )
        return all(wanted in (None, has) for wanted, has in asked)


def lacking(
    requires: Mapping[str, Requirement], metrics: Iterable[str], had: Had
) -> frozenset[str]:
    """Return the metrics whose required entitlement no subject has."""
    return frozenset(
        metric
        for metric in metrics
        if metric in requires and not presence(_wanted(requires[metric]), had).has_access
    )


def required_kinds(
    requires: Mapping[str, Requirement], metrics: Iterable[str]
) -> set[EntitlementType]:
    """Return the types of entitlement that the metrics require."""
    return {_wanted(requires[metric]).entitlement_type for metric in metrics if metric in requires}


def _wanted(one: Requirement) -> Wanted:
    if one.feature is not None:
        return Wanted(entitlement_type=EntitlementType.FEATURE_UNLOCK, feature=one.feature)
    return Wanted(entitlement_type=EntitlementType.TIER_ACCESS, tier_id=one.tier)


class Access(Struct, frozen=True, gc=False, kw_only=True):
    """The answer of a check. ``available`` is None without a limit or a quantity."""

    has_access: bool
    available: int | None
    expires_at: datetime | None
    sources: tuple[StoredGrant, ...]


def presence(wanted: Wanted, had: Had) -> Access:
    """Check an entitlement without a quantity: any grant of any subject suffices."""
    sources = [one for grants in had.values() for one in grants if wanted.matches(one)]
    return _access(sources, has_access=bool(sources), available=None if sources else 0)


def quantity(
    wanted: Wanted, candidates: Sequence[Subject], had: Had, available: Mapping[Subject, int]
) -> Access:
    """Check credits or allowances: the first candidate with the whole quantity gives it.

    If none has it, the answer shows what the last one has. ``available`` is what each can spend of
    the wanted type.
    """
    covering = [one for one in candidates if available[one] >= wanted.quantity]
    subject = covering[0] if covering else candidates[-1]
    sources = [one for one in had[subject] if wanted.matches(one)]
    is_unlimited = any(one.grant.unlimited for one in sources)
    return _access(
        sources,
        has_access=bool(covering),
        available=None if is_unlimited else available[subject],
    )


def _access(sources: Sequence[StoredGrant], *, has_access: bool, available: int | None) -> Access:
    ends = [one.grant.expires_at for one in sources if one.grant.expires_at is not None]
    return Access(
        has_access=has_access,
        available=available,
        expires_at=min(ends, default=None),
        sources=tuple(sources),
    )


def merged(metadata: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge objects: of numbers the largest, of lists the union, else the first.

    Values of different kinds under one name do not mix: the first decides.
    """
    found: dict[str, Any] = {}
    for one in metadata:
        for name, value in one.items():
            known = found.get(name)
            if name not in found:
                found[name] = value
            elif _is_number(known) and _is_number(value):
                found[name] = max(known, value)
            elif isinstance(known, list) and isinstance(value, list):
                found[name] = known + [entry for entry in value if entry not in known]
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
