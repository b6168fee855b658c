"""What the fields of events have in common."""

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from entitlements.contracts.http import AMOUNT_MAX, SubjectId, SubjectType

Time = Annotated[datetime, Meta(tz=True)]
"""With its offset: a time without one names no instant."""

Written = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
"""UTC with ``Z``, as text already: the events of a batch share their times."""

Uuid = Annotated[str, Meta(extra_json_schema={"format": "uuid"})]

Units = Annotated[int, Meta(ge=0, le=AMOUNT_MAX)]

__all__ = ["SubjectId", "SubjectRef", "SubjectType", "Time", "Units", "Uuid", "Written"]


class SubjectRef(Struct, frozen=True, gc=False):
    type: SubjectType
    id: str
