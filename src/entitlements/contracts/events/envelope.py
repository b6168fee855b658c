"""What stands around every event: exact where it is written, tolerant where it is read."""

from typing import Any, Generic, TypeVar
from uuid import UUID

from msgspec import Struct

from entitlements.contracts.events.fields import SubjectId, Time, Uuid, Written

T = TypeVar("T")


class Envelope(Struct, Generic[T], frozen=True, gc=False, kw_only=True):
    """As it is written: all nine keys, ``event_type`` the topic, ``event_timestamp`` UTC with
    ``Z``.
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
    """Who asked, whoever paid: ``user_id`` and ``org_id``; and the ``traceparent`` of the request.
    Each only where it is known.
    """


class Metadata(Struct, frozen=True, kw_only=True):
    """Who it is about, where ``data`` does not say so, and the span that it belongs to, where no
    header does.
    """

    user_id: SubjectId | None = None
    org_id: SubjectId | None = None
    traceparent: Any = None


class Incoming(Struct, Generic[T], frozen=True, kw_only=True):
    """As it is read: only ``event_type``, ``source_service`` and ``data`` must be there."""

    event_id: UUID | None = None
    event_type: str
    event_timestamp: Time | None = None
    source_service: str
    schema_version: int = 1
    correlation_id: str | None = None
    data_schema_uri: Any = None
    data: T
    metadata: Metadata | None = None
