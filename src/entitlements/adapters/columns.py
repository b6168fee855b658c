"""Columns, in row order, of the tables that both engines write and list."""

from typing import Final

OPERATION: Final = (
    "subject_type", "subject_id", "credit_type", "seq", "id", "kind", "user_id", "org_id",
    "metric", "quantity", "amount", "delta", "balance_after", "owed", "draws", "batch_id",
    "consumed_from", "correlation_id", "operation_status", "reason", "policy_version", "actor",
    "client", "reverses", "hold_id", "counted", "created_at", "effective_at",
    "overdraft_after",
)  # fmt: skip
HOLD: Final = (
    "subject_type", "subject_id", "credit_type", "id", "user_id", "org_id", "requirements",
    "taken", "held", "charged", "returned", "backing", "status", "expires_at", "settled",
    "closing", "correlation_id", "policy_version", "actor", "client", "created_at", "closed_at",
    "costs", "billed",
)  # fmt: skip
AUDIT: Final = (
    "id", "at", "actor", "client", "action", "subject_type", "subject_id", "reason", "detail",
    "correlation_id",
)  # fmt: skip
RECORD: Final = (
    "id", "user_id", "event_id", "event_type", "source_service", "org_id", "resource_type",
    "units", "service_name", "processing_id", "batch_id", "hold_id", "outcome", "operation_id",
    "credits", "owed", "reason", "correlation_id", "trace_id", "reported_at", "consumed_at",
    "recorded_at",
)  # fmt: skip
LETTER: Final = (
    "id", "topic", "partition", "position", "key", "value", "headers", "reason", "detail",
    "died_at", "state", "closed_at",
)  # fmt: skip
EVENT: Final = (
    "bucket", "subject_type", "subject_id", "credit_type", "seq", "n", "event_id", "event_type",
    "key", "payload", "created_at", "traceparent",
)  # fmt: skip
DELIVERY: Final = (
    "endpoint_id", "event_id", "event_type", "state", "attempts", "next_at", "last_status",
    "last_error", "created_at", "ended_at",
)  # fmt: skip
