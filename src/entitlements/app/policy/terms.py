"""The terms of a grant, validated alike for requests and for plans of the policy."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from entitlements.contracts.errors import invalid
from entitlements.contracts.http import GrantTerms
from entitlements.core.plans import Terms
from entitlements.core.policy import AMOUNT_MAX
from entitlements.core.reasons import ConsumptionType, EntitlementType
from entitlements.core.renewals import Interval, Period, zones

PERIOD: Final = ("reset_interval", "reset_day", "timezone", "rollover_cap")
"""The keys of the metadata that say when a grant is renewed."""
_OWN_FIELDS: Final[Mapping[EntitlementType, str]] = {
    EntitlementType.SUBSCRIPTION: "subscription_id",
    EntitlementType.PRODUCT_ACCESS: "product_id",
    EntitlementType.CREDIT_GRANT: "credit_type",
    EntitlementType.FEATURE_UNLOCK: "feature",
    EntitlementType.TIER_ACCESS: "tier_id",
    EntitlementType.USAGE_ALLOWANCE: "metric",
}
"""The field that says what exactly a type gives."""
_OPTIONAL: Final = frozenset((EntitlementType.FEATURE_UNLOCK, EntitlementType.USAGE_ALLOWANCE))
_RENEWED: Final = frozenset((ConsumptionType.RENEWABLE, ConsumptionType.ACCUMULATIVE))


def terms_of(body: GrantTerms) -> Terms:
    """Return the terms of a normalised body. Raise InvalidRequest."""
    kind = EntitlementType(body.entitlement_type)
    _require_own_fields(kind, body)
    consumption = _consumption(kind, body)
    metadata = body.metadata or {}
    return Terms(
        entitlement_type=kind,
        consumption=consumption,
        quantity=body.quantity_granted or 0,
        unlimited=kind.is_consumable and body.quantity_granted is None,
        period=_period(consumption, metadata),
        priority=body.priority,
        credit_type=body.credit_type,
        metric=body.metric,
        feature=body.feature,
        product_id=id_text(body.product_id),
        tier_id=id_text(body.tier_id),
        subscription_id=id_text(body.subscription_id),
        cost_microcents=body.cost_microcents,
        notes=body.notes,
        metadata=json_text(metadata),
    )


def refuse_foreign_fields(kind: EntitlementType, body: Struct, where: str = "") -> None:
    """Raise InvalidRequest for a field that belongs to another type."""
    own = _OWN_FIELDS.get(kind)
    for field in _OWN_FIELDS.values():
        if field != own and getattr(body, field, None) is not None:
            raise invalid(f"{where}{field}", f"does not belong to a {kind}")


def id_text(given: str | int | None) -> str | None:
    """Return an id of a body as text."""
    return None if given is None else str(given)


def json_text(given: Mapping[str, Any]) -> str:
    return msgspec.json.encode(given).decode()


def _require_own_fields(kind: EntitlementType, body: GrantTerms) -> None:
    """Raise InvalidRequest for a missing field of the type, or one of another type."""
    refuse_foreign_fields(kind, body)
    own = _OWN_FIELDS.get(kind)
    if own is not None and kind not in _OPTIONAL and getattr(body, own) is None:
        raise invalid(own, f"is required for a {kind}")
    if not kind.is_consumable and body.quantity_granted is not None:
        raise invalid("quantity_granted", f"a {kind} cannot be consumed, so it has no quantity")


def _consumption(kind: EntitlementType, body: GrantTerms) -> ConsumptionType:
    usual = ConsumptionType.DECREMENTAL if kind.is_consumable else ConsumptionType.NONE
    given = ConsumptionType(body.consumption_type) if body.consumption_type else usual
    if kind.is_consumable == (given is ConsumptionType.NONE):
        raise invalid("consumption_type", f"does not fit a {kind}, which is usually {usual}")
    if given in _RENEWED and body.quantity_granted is None:
        raise invalid("quantity_granted", f"is required for a {given} grant")
    return given


def _period(consumption: ConsumptionType, metadata: Mapping[str, Any]) -> Period | None:
    """Return when the grant is renewed, from its metadata. Raise InvalidRequest."""
    if consumption not in _RENEWED:
        return None
    given = {name: metadata[name] for name in PERIOD if name in metadata}
    interval = given.get("reset_interval", Interval.MONTH.value)
    if interval not in list(Interval):
        raise invalid("metadata.reset_interval", f"must be one of {', '.join(Interval)}")
    reset_day = given.get("reset_day")
    if reset_day is not None and not _is_whole(reset_day, 1, 31):
        raise invalid("metadata.reset_day", "must be a day of the month, 1 to 31")
    if reset_day is not None and interval not in (Interval.MONTH, Interval.YEAR):
        raise invalid("metadata.reset_day", "belongs to a reset_interval of month or year")
    zone = given.get("timezone", "UTC")
    if not isinstance(zone, str) or zone not in zones():
        raise invalid("metadata.timezone", "must be an IANA time zone, such as Europe/Stockholm")
    cap = given.get("rollover_cap")
    if cap is not None and consumption is not ConsumptionType.ACCUMULATIVE:
        raise invalid("metadata.rollover_cap", "belongs to an accumulative grant")
    if cap is not None and not _is_whole(cap, 0, AMOUNT_MAX):
        raise invalid("metadata.rollover_cap", f"must be a whole number, 0 to {AMOUNT_MAX}")
    return Period(interval=Interval(interval), reset_day=reset_day, timezone=zone, rollover_cap=cap)


def _is_whole(given: Any, least: int, most: int) -> bool:
    return isinstance(given, int) and not isinstance(given, bool) and least <= given <= most
