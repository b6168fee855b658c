"""Plans: the grants of a subscription, and the lifecycle that follows its end."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final

from msgspec import Struct

from entitlements.core.reasons import ConsumptionType, EntitlementType
from entitlements.core.renewals import Interval, Period


class Terms(Struct, frozen=True, gc=False, kw_only=True):
    """The validated terms of a grant, without its subject, reason and times.

    ``quantity`` is 0 for what cannot be consumed and with ``unlimited``. ``metadata`` is a JSON
    object as text.
    """

    entitlement_type: EntitlementType
    consumption: ConsumptionType = ConsumptionType.NONE
    quantity: int = 0
    unlimited: bool = False
    period: Period | None = None
    priority: int = 50
    credit_type: str | None = None
    metric: str | None = None
    feature: str | None = None
    product_id: str | None = None
    tier_id: str | None = None
    subscription_id: str | None = None
    cost_microcents: int | None = None
    notes: str | None = None
    metadata: str = "{}"


class LifecycleRule(StrEnum):
    """The grants after the end of a subscription: none (``DEFAULT``), the free plan, temporary
    access, the same for reading only, or for the subject's data only and without an end.
    """

    DEFAULT = "default"
    FREEMIUM = "freemium"
    GRACE_PERIOD = "grace_period"
    READ_ONLY = "read_only"
    KEEP_DATA = "keep_data"


LIFECYCLE_DAYS_MAX: Final = 3_650
_LIFECYCLE: Final = re.compile(r"([a-z][a-z0-9_]{0,62})(?:\(days=([1-9][0-9]{0,9})\))?")
_LIFECYCLE_DAYS: Final = {LifecycleRule.GRACE_PERIOD: 14, LifecycleRule.READ_ONLY: 30}
"""The rules whose access ends, and the days after which it does by default."""


class Lifecycle(Struct, frozen=True, gc=False):
    """The rule for the end of a subscription; ``days`` only where the access that it gives ends.

    ``handler`` names a handler of the user's own, which is called after each change; the rule is
    then the default.
    """

    rule: LifecycleRule = LifecycleRule.DEFAULT
    days: int | None = None
    handler: str | None = None

    def __str__(self) -> str:
        if self.handler is not None:
            return self.handler
        return self.rule.value if self.days is None else f"{self.rule}(days={self.days})"

    @classmethod
    def parse(cls, text: str) -> Lifecycle:
        """Return the rule that the text names, such as ``grace_period(days=14)``; any other name
        is that of a handler.

        Raise ValueError with the reason.
        """
        match = _LIFECYCLE.fullmatch(text)
        if match is None:
            rules = ", ".join(LifecycleRule)
            raise ValueError(
                f"must be one of {rules}, or as in grace_period(days=14), or a handler's name"
            )
        if match[1] not in list(LifecycleRule):
            if match[2] is not None:
                raise ValueError(f"{match[1]} is no rule, and a handler takes no days")
            return cls(handler=match[1])
        rule = LifecycleRule(match[1])
        if match[2] is None:
            return cls(rule, _LIFECYCLE_DAYS.get(rule))
        if rule not in _LIFECYCLE_DAYS:
            raise ValueError(f"{rule} has no days")
        if int(match[2]) > LIFECYCLE_DAYS_MAX:
            raise ValueError(f"must be at most {LIFECYCLE_DAYS_MAX} days")
        return cls(rule, int(match[2]))


class Plan(Struct, frozen=True, gc=False, kw_only=True):
    """The grants of a subscription, the default length of its period, and the rule for its end."""

    grants: tuple[Terms, ...]
    period: Interval = Interval.MONTH
    lifecycle: Lifecycle = Lifecycle()
