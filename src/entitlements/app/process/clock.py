"""The system's clock, for code that does not get the time from a store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime.fromtimestamp(0, UTC)
_MS = timedelta(milliseconds=1)


def utc_now() -> datetime:
    return datetime.now(UTC)  # noqa: TID251 - this is the edge


def at_ms(ms: int) -> datetime:
    """Return the instant ``ms`` milliseconds after the start of 1970."""
    return _EPOCH + ms * _MS


def in_ms(instant: datetime) -> int:
    """Return the milliseconds since 1970, rounded down."""
    return (instant - _EPOCH) // _MS
