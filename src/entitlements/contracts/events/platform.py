"""Events between other services of the platform; this service neither reads nor writes them."""

from typing import Any, Literal

from msgspec import Struct

from entitlements.contracts.events.fields import Time, Units


class ClientBatchPipelineRequestV1(Struct, frozen=True, kw_only=True):
    """A request to run a batch through a pipeline; the org is in the envelope's metadata."""

    batch_id: str
    requested_pipeline: str
    user_id: str
    client_correlation_id: str
    is_retry: bool = False
    retry_reason: str | None = None


class PipelineDeniedV1(Struct, frozen=True, kw_only=True):
    """A pipeline was denied. ``resource_breakdown`` is the required units per metric, or null if
    unknown.
    """

    event_name: Literal["pipeline.denied"] = "pipeline.denied"
    entity_id: str
    entity_type: Literal["batch"] = "batch"
    parent_id: str | None = None
    timestamp: Time
    batch_id: str
    user_id: str
    org_id: str | None = None
    requested_pipeline: str
    denial_reason: str
    required_credits: Units
    available_credits: int
    resource_breakdown: dict[str, Any] | None
    denied_at: Time


class TeacherNotificationRequestedV1(Struct, frozen=True, kw_only=True):
    """A notification for a teacher."""

    teacher_id: str
    notification_type: str
    category: str
    priority: str
    payload: dict[str, Any]
    action_required: bool
    deadline_timestamp: Time | None = None
    batch_id: str | None = None
    class_id: str | None = None
    correlation_id: str
    timestamp: Time
