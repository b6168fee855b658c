"""Events as they come, read tolerantly: what is not known is passed over, what is wrong is said."""

from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final, Generic, TypeVar
from uuid import NAMESPACE_OID, UUID, uuid5

import msgspec
from msgspec import Struct

from entitlements.contracts import strict_json
from entitlements.contracts.errors import InvalidRequest
from entitlements.contracts.events.envelope import Incoming, Metadata

T = TypeVar("T", bound=Struct)

_NOBODY: Final = Metadata()
_ENUM: Final = "Invalid enum value"


class Malformed(ValueError):
    """It can never be read. The text names the field and what was expected there, and repeats
    nothing of what the event says.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Received(Struct, Generic[T], frozen=True, kw_only=True):
    """An event with its gaps filled: ``event_id`` is the same however often it comes."""

    event_id: str
    event_type: str
    source_service: str
    event_timestamp: datetime | None
    correlation_id: str
    metadata: Metadata
    data: T


def read(value: bytes | None, of: type[T]) -> Received[T]:
    """The event in a record's value. Raises Malformed.

    Without an event id it is named by its bytes, so that the same report sent twice, or sent again
    to another partition, has one id. Without a correlation id, that is the event's id.
    """
    if value is None:
        raise Malformed("the record has no value")
    try:
        incoming: Incoming[T] = strict_json.decode(value, _decoder(of))
    except InvalidRequest as error:
        raise Malformed(_impersonal(error)) from None
    event_id = str(incoming.event_id or name_of(value))
    return Received(
        event_id=event_id,
        event_type=incoming.event_type,
        source_service=incoming.source_service,
        event_timestamp=incoming.event_timestamp,
        correlation_id=incoming.correlation_id or event_id,
        metadata=incoming.metadata or _NOBODY,
        data=incoming.data,
    )


def name_of(value: bytes) -> UUID:
    """The id of an event that brings none."""
    return uuid5(NAMESPACE_OID, sha256(value).hexdigest())


@lru_cache(maxsize=64)
def _decoder(of: type[Any]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(Incoming[of])  # type: ignore[valid-type]


def _impersonal(error: InvalidRequest) -> str:
    """The decoder quotes a value only where it expected one of a few."""
    if not error.errors:
        return error.detail
    field, message = error.errors[0].field, error.errors[0].message
    return f"{field}: {'is none of the allowed values' if _ENUM in message else message}"
