"""Page cursors as opaque text."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import datetime, timedelta

from entitlements.app.ports import Cursor
from entitlements.contracts import names
from entitlements.contracts.errors import InvalidRequest, invalid
from entitlements.ids import is_uuid


def cursor_text(place: Cursor | None) -> str | None:
    if place is None:
        return None
    text = f"{place.created_at.isoformat()} {place.id}"
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")


def read_id(text: str | None) -> str | None:
    """Return a cursor that is an id; ids are ordered by time. Raises InvalidRequest."""
    if not text:
        return None
    if not is_uuid(text):
        raise _not_ours()
    return text


def read_cursor(text: str | None) -> Cursor | None:
    """Return the decoded cursor. Raises InvalidRequest if it is malformed."""
    cursor = read_foreign_cursor(text)
    if cursor is not None and not is_uuid(cursor.id):
        raise _not_ours()
    return cursor


def read_foreign_cursor(text: str | None) -> Cursor | None:
    """As `read_cursor`, of rows whose ids are those of another system."""
    if not text:
        return None
    try:
        plain = urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
        created_at, _, row_id = plain.partition(" ")
        cursor = Cursor(datetime.fromisoformat(created_at), names.text(row_id))
    except ValueError:
        raise _not_ours() from None
    if cursor.created_at.utcoffset() != timedelta(0):
        raise _not_ours()
    return cursor


def _not_ours() -> InvalidRequest:
    return invalid("cursor", "is not a cursor of this listing")
