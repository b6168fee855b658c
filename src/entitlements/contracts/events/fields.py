"""Common field types of events."""

from datetime import datetime
from typing import Annotated, Final

from msgspec import Meta, Struct

from entitlements.contracts.http.fields import AMOUNT_MAX, SubjectId, SubjectType

_LOCAL: Final = r"^\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d+)?$"

Time = Annotated[
    datetime,
    Meta(
        description="UTC if it has no offset.",
        extra_json_schema={"anyOf": [{"format": "date-time"}, {"pattern": _LOCAL}]},
    ),
]

Written = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
"""UTC with ``Z``, already formatted: the events of a batch share their times."""

Uuid = Annotated[str, Meta(extra_json_schema={"format": "uuid"})]

Units = Annotated[int, Meta(ge=0, le=AMOUNT_MAX)]

__all__ = ["SubjectId", "SubjectRef", "SubjectType", "Time", "Units", "Uuid", "Written"]


class SubjectRef(Struct, frozen=True, gc=False):
    type: SubjectType
    id: str
