"""The differences between two policies, by rule and in the terms of the document."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from msgspec import Struct

from entitlements.core.plans import Plan, Terms
from entitlements.core.policy import (
    DEFAULT_CREDIT_TYPE,
    Cost,
    Limit,
    Policy,
    Requirement,
    Threshold,
)

_PERIODS: Final = {
    1: "second",
    60: "minute",
    3_600: "hour",
    86_400: "day",
    604_800: "week",
    2_592_000: "month",
}
_UNITS_S: Final = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_KEYS: Final = {
    "limits": "rate_limits",
    "unknown_metrics_free": "unknown_metrics",
    "implicit_idempotency_s": "implicit_idempotency",
    "cache_ttl_s": "cache_ttl",
    "consumption": "consumption_type",
}

_NOT_IN_THE_DOCUMENT: Final = {"version", "allowances"}


class Change(Struct, frozen=True, gc=False):
    """One rule that differs. An added rule has no ``before``, a removed one no ``after``."""

    path: str
    before: str | None
    after: str | None

    def __str__(self) -> str:
        if self.before is None:
            return f"{self.path}: added, {self.after}"
        if self.after is None:
            return f"{self.path}: removed, was {self.before}"
        return f"{self.path}: {self.before} -> {self.after}"


def difference(before: Policy, after: Policy) -> list[Change]:
    """Return every rule that differs, in the order of the document's keys, then by name.

    The list is empty if the documents differ only in comments, order or defaults written out.
    """
    old, new = _rules(before), _rules(after)
    paths = list(old) + [path for path in new if path not in old]
    order = {field: place for place, field in enumerate(Policy.__struct_fields__)}
    changed = [path for path in paths if old.get(path) != new.get(path)]
    return [
        Change(".".join(part for part in (_KEYS.get(field, field), name) if part), *sides)
        for field, name in sorted(changed, key=lambda path: (order[path[0]], path[1]))
        for sides in [(old.get((field, name)), new.get((field, name)))]
    ]


def _rules(policy: Policy) -> dict[tuple[str, str], str]:
    """Return every rule as text, by field and name."""
    rules: dict[tuple[str, str], str] = {}
    for field in Policy.__struct_fields__:
        value = getattr(policy, field)
        if isinstance(value, Mapping):
            rules |= {(field, name): _text(field, each) for name, each in value.items()}
        elif field not in _NOT_IN_THE_DOCUMENT:
            rules[field, ""] = _text(field, value)
    return rules


def _text(field: str, value: object) -> str:  # noqa: C901, PLR0911 - one for each kind of rule
    match field, value:
        case _, Cost():
            return _cost(value)
        case _, tuple():
            return ", ".join(_text(field, each) for each in value) or "none"
        case _, Limit():
            return _limit(value)
        case _, Threshold():
            return _threshold(value)
        case _, Requirement():
            return f"feature {value.feature}" if value.feature is not None else f"tier {value.tier}"
        case _, Plan():
            return _plan(value)
        case "unknown_metrics_free", bool():
            return "free" if value else "denied"
        case "implicit_idempotency_s", _:
            return _duration(value) if isinstance(value, int) else "off"
        case _, bool() | None:
            return str(value).lower()
        case _, StrEnum():
            return value.value
        case _:
            return str(value)


def _cost(cost: Cost) -> str:
    kind = "" if cost.credit_type == DEFAULT_CREDIT_TYPE else f" {cost.credit_type}"
    block = "" if cost.per == 1 else f" per {cost.per}"
    return f"{cost.credits}{kind}{block}"


def _limit(limit: Limit) -> str:
    if limit.count is None:
        return "unlimited"
    whose = " per org" if limit.per == "org" else ""
    warns = f" warn {limit.warn}%" if limit.warn is not None else ""
    return f"{limit.count}/{_PERIODS[limit.window_s]}{whose}{warns}"


def _threshold(threshold: Threshold) -> str:
    level = f"below {threshold.below}" if threshold.percent is None else f"{threshold.percent} %"
    kind = "" if threshold.credit_type == DEFAULT_CREDIT_TYPE else f" {threshold.credit_type}"
    whose = f" per {threshold.subject_type}" if threshold.subject_type else ""
    return level + kind + whose


def _plan(plan: Plan) -> str:
    grants = ", ".join(map(terms_text, plan.grants)) or "no grants"
    return f"{grants}; {plan.period}; {plan.lifecycle}"


def terms_text(terms: Terms) -> str:
    """Return the terms as text: the type, and each field that differs from its default."""
    shown: list[str] = [terms.entitlement_type]
    defaults = Terms(entitlement_type=terms.entitlement_type)
    for name in Terms.__struct_fields__:
        value = getattr(terms, name)
        if value == getattr(defaults, name) or name == "period":
            continue
        key = _KEYS.get(name, name)
        shown.append(key if value is True else f"{key}={value}")
    return " ".join(shown)


def _duration(seconds: int) -> str:
    """Return the duration in the largest unit that divides it."""
    unit = next(unit for unit, size in _UNITS_S.items() if seconds % size == 0)
    return f"{seconds // _UNITS_S[unit]}{unit}"
