"""Tolerant decoding of events: unknown fields are ignored, invalid ones are reported."""

from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final, Generic, TypeVar
from uuid import NAMESPACE_OID, UUID, uuid5

import msgspec
from msgspec import Struct

from entitlements.contracts import names, strict_json
from entitlements.contracts.errors import InvalidRequest
from entitlements.contracts.events.envelope import Incoming, Metadata
from entitlements.contracts.kinds import kept, normalised

T = TypeVar("T", bound=Struct)

_NOBODY: Final = Metadata()
_ENUM: Final = "Invalid enum value"


class Malformed(ValueError):
    """Raised for an event that can never be decoded.

    The text names the field and the expected value. It never repeats content of the event.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Received(Struct, Generic[T], frozen=True, kw_only=True):
    """A decoded event with its missing fields filled; each delivery has the same ``event_id``."""

    event_id: str
    event_type: str
    source_service: str
    event_timestamp: datetime | None
    correlation_id: str
    metadata: Metadata
    data: T


def read(value: bytes | None, of: type[T]) -> Received[T]:
    """Decode the event in a record's value. Raise Malformed.

    An event without an id gets one derived from its bytes. So a report that is sent twice, even to
    another partition, has the same id. The default correlation id is the event's id.
    """
    if value is None:
        raise Malformed("the record has no value")
    try:
        incoming: Incoming[T] = strict_json.decode(value, _decoder(of))
    except InvalidRequest as error:
        raise Malformed(_impersonal(error)) from None
    data = normalised(incoming.data, malformed)
    source_service = kept("source_service", names.text, incoming.source_service, malformed)
    correlation_id = kept("correlation_id", names.optional_text, incoming.correlation_id, malformed)
    event_id = str(incoming.event_id or name_of(value))
    return Received(
        event_id=event_id,
        event_type=incoming.event_type,
        source_service=source_service,
        event_timestamp=incoming.event_timestamp,
        correlation_id=correlation_id or event_id,
        metadata=incoming.metadata or _NOBODY,
        data=data,
    )


def malformed(field: str, reason: str) -> Malformed:
    """Return the error of a field."""
    return Malformed(f"{field}: {reason}")


def name_of(value: bytes) -> UUID:
    """Return the id of an event without one, derived from its bytes."""
    return uuid5(NAMESPACE_OID, sha256(value).hexdigest())


@lru_cache(maxsize=64)
def _decoder(of: type[Any]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(Incoming[of])  # type: ignore[valid-type]


def _impersonal(error: InvalidRequest) -> str:
    """Return the error's text without values of the event; only enum errors quote a value."""
    if not error.errors:
        return error.detail
    field, message = error.errors[0].field, error.errors[0].message
    return f"{field}: {'is not one of the allowed values' if _ENUM in message else message}"
