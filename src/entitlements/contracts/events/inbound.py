"""Inbound events. Fields that this service does not use are optional."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from entitlements.contracts import kinds, names
from entitlements.contracts.events.fields import SubjectId, SubjectType, Time, Units

_IDENTITY = "Can be in the envelope's metadata instead."

OptionalName = Annotated[str, kinds.Kind(names.optional_name)]
Metric = Annotated[str, kinds.METRIC]
Text = Annotated[str, kinds.TEXT]
UserId = Annotated[SubjectId | None, Meta(description=_IDENTITY)]
OrgId = Annotated[SubjectId | None, Meta(description=_IDENTITY)]


class ResourceConsumptionV1(Struct, frozen=True, kw_only=True):
    """``quantity`` units of a metric were used. With ``hold_id``, they settle that hold."""

    event_name: Literal["resource.consumption.reported"] = "resource.consumption.reported"
    entity_id: str | None = None
    entity_type: str | None = None
    parent_id: str | None = None
    timestamp: Time | None = None
    user_id: UserId = None
    org_id: OrgId = None
    resource_type: Metric
    quantity: Units
    service_name: OptionalName
    processing_id: OptionalName
    consumed_at: Time
    hold_id: Text | None = None


class UserRegisteredV1(Struct, frozen=True, kw_only=True):
    """A user signed up. The e-mail address of the event is ignored and has no field here, so that
    it cannot be stored or logged.
    """

    user_id: UserId = None
    org_id: OrgId = None
    registered_at: Time
    correlation_id: Text | None = None


class ReportedSubject(Struct, frozen=True):
    type: SubjectType
    id: SubjectId


class UsageReportedV1(Struct, frozen=True, kw_only=True):
    """Usage that is recorded and not charged."""

    subject: ReportedSubject
    metric: Metric
    amount: Units
    period_start: Time
    period_end: Time
    correlation_id: Text | None = None
