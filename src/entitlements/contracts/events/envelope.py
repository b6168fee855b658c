"""The envelope of every event: exact when written, tolerant when read."""

from typing import Any, Generic, TypeVar
from uuid import UUID

from msgspec import Struct

from entitlements.contracts.events.fields import SubjectId, Time, Uuid, Written

T = TypeVar("T")


class Envelope(Struct, Generic[T], frozen=True, gc=False, kw_only=True):
    """The envelope as written, with all nine keys: ``event_type`` is the topic, and
    ``event_timestamp`` is UTC with ``Z``.
    """

    event_id: Uuid
    event_type: str
    event_timestamp: Written
    source_service: str
    schema_version: int = 1
    correlation_id: Uuid
    data_schema_uri: None = None
    data: T
    metadata: dict[str, str] = {}
    """``user_id`` and ``org_id`` of the request, even if another subject paid, and its
    ``traceparent``. Each is left out if unknown.
    """


class Metadata(Struct, frozen=True, kw_only=True):
    """The identity, if ``data`` does not contain it, and the trace context, if no header has it."""

    user_id: SubjectId | None = None
    org_id: SubjectId | None = None
    traceparent: Any = None


class Incoming(Struct, Generic[T], frozen=True, kw_only=True):
    """The envelope as read: only ``event_type``, ``source_service`` and ``data`` are required."""

    event_id: UUID | None = None
    event_type: str
    event_timestamp: Time | None = None
    source_service: str
    schema_version: int = 1
    correlation_id: str | None = None
    data_schema_uri: Any = None
    data: T
    metadata: Metadata | None = None
