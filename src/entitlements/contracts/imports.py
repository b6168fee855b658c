"""Rows that are imported from files and from the tables of an older service."""

from typing import Annotated

from msgspec import Meta, Struct

from entitlements.contracts.http.fields import (
    INT64_MAX,
    INT64_MIN,
    Amount,
    AwareTime,
    CreditTypeName,
    StoredId,
    SubjectId,
    SubjectType,
    Text255,
)


class BalanceRow(Struct, frozen=True, gc=False, kw_only=True):
    """A balance to be granted once; its reference names it for good."""

    subject_type: SubjectType
    subject_id: SubjectId
    credit_type: CreditTypeName
    balance: Amount
    expires_at: AwareTime | None = None
    reference: Text255


class OperationRow(Struct, frozen=True, gc=False, kw_only=True):
    """An operation of an older service's history."""

    id: Text255
    subject_type: SubjectType
    subject_id: StoredId
    credit_type: CreditTypeName
    metric: Text255
    amount: Annotated[int, Meta(ge=INT64_MIN, le=INT64_MAX)]
    batch_id: Text255 | None = None
    consumed_from: Text255 | None = None
    correlation_id: Text255 | None = None
    operation_status: Text255 = "completed"
    created_at: AwareTime
