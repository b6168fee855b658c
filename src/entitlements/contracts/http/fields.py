"""Field types that several bodies share: the schema of a value, and its kind."""

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta

from entitlements.contracts import kinds

AMOUNT_MAX = 10**15
METRICS_MAX = 1_000
ITEMS_MAX = 1_000
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1

SubjectType = Literal["org", "user"]
_IdText = Annotated[
    str,
    Meta(
        description="Text of 1 to 255 characters after Unicode NFC, no control characters.",
        extra_json_schema={"maxLength": 255},
    ),
]
_IdNumber = Annotated[
    int, Meta(ge=INT64_MIN, le=INT64_MAX, description="Taken as its decimal digits.")
]
SubjectId = Annotated[_IdText, kinds.SUBJECT_ID] | _IdNumber
StoredId = Annotated[_IdText, kinds.STORED_ID] | _IdNumber
"""The id of a subject that may be older than the rule for white space at its ends."""
Metric = Annotated[
    str,
    Meta(min_length=1, max_length=255, description="Printable characters, verbatim."),
    kinds.METRIC,
]
CreditType = Annotated[str, Meta(min_length=1, max_length=255), kinds.CREDIT_TYPE]
_Text255 = Annotated[
    str, Meta(max_length=255, description="Stored verbatim; no control characters.")
]
Text255 = Annotated[_Text255, kinds.TEXT]
Name = Annotated[_Text255, kinds.NAME]
"""The name of a batch, service or job."""
CreditTypeName = Annotated[_Text255, kinds.CREDIT_TYPE]
IdFilter = Annotated[str, kinds.ID_FILTER]
TextFilter = Annotated[str, kinds.TEXT_FILTER]
IdempotencyKey = Annotated[
    str,
    Meta(
        description="1 to 255 visible ASCII characters.",
        max_length=255,
        extra_json_schema={"minLength": 1, "pattern": "^[!-~]+$"},
    ),
]
Reason = Annotated[
    str,
    Meta(min_length=1, max_length=1_000, description="No control characters."),
    kinds.REASON,
]
OptionalReason = Annotated[
    str, Meta(max_length=1_000, description="No control characters."), kinds.REASON
]
Amount = Annotated[int, Meta(ge=0, le=AMOUNT_MAX)]
PositiveAmount = Annotated[int, Meta(ge=1, le=AMOUNT_MAX)]
SignedAmount = Annotated[int, Meta(ge=-AMOUNT_MAX, le=AMOUNT_MAX)]
Requirements = Annotated[dict[Metric, Amount], Meta(max_length=METRICS_MAX)]
AwareTime = Annotated[datetime, Meta(tz=True), kinds.TIME]
PageLimit = Annotated[int, Meta(ge=1, le=1_000)]


def one_of(*values: str) -> Meta:
    """Return a closed set of values for the schema.

    In Python the type is plain text, so that a client accepts the values of later versions.
    """
    return Meta(extra_json_schema={"enum": list(values)})


DenialReason = Annotated[
    str, one_of("policy_denied", "rate_limit_exceeded", "insufficient_credits")
]
OperationStatus = Annotated[str, one_of("completed", "failed", "pending")]
ConsumedFrom = Literal["org", "user", "none"]
