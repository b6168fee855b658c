"""Columns, in row order, of the tables that both engines write and list."""

from typing import Final

WALLET: Final = (
    "subject_type", "subject_id", "credit_type", "balance", "held", "overdraft", "version",
    "next_due_at", "updated_at", "balance_at_grant", "unlimited", "promised",
)  # fmt: skip
WALLET_MOVING: Final = WALLET[:-3]
"""Columns that most operations change; the others change with grants alone."""
GRANT: Final = (
    "subject_type", "subject_id", "credit_type", "id", "quantity", "remaining", "held", "priority",
    "granted_at", "expires_at", "reason", "started", "ended_at", "end_reason", "entitlement_type",
    "consumption", "unlimited", "used", "period", "renews_at", "used_before",
)  # fmt: skip
GRANT_STATE: Final = GRANT[3:]
GRANT_DETAILS: Final = (
    "granted_by", "reference_id", "cost_microcents", "notes", "metadata", "metric", "feature",
    "product_id", "tier_id", "subscription_id",
)  # fmt: skip
STORED_GRANT: Final = (*GRANT, *GRANT_DETAILS, "created_at", "revoke_reason")
DEBT: Final = (
    "subject_type", "subject_id", "credit_type", "operation_id", "owed", "metric", "created_at",
    "closed_by",
)  # fmt: skip
SUBSCRIPTION: Final = (
    "subscription_id", "subject_type", "subject_id", "plan_id", "policy_version", "lifecycle",
    "status", "activated_at", "current_period_end", "cancels_at", "ended_at", "grant_id", "given",
    "follow_up", "replaced", "version",
)  # fmt: skip
LIFECYCLE_CALL: Final = (
    "subscription_id", "version", "handler", "change", "subject_type", "subject_id", "plan_id",
    "old_plan_id", "at", "operation_id", "correlation_id", "created_at",
)  # fmt: skip
WAITING_CALL: Final = (*LIFECYCLE_CALL, "attempts", "next_at", "last_error")
RECEIPT: Final = ("client", "key", "fingerprint", "outcome", "created_at", "expires_at")
JOB: Final = (
    "user_id", "service_name", "processing_id", "metric", "batch_id", "units", "outcome",
)  # fmt: skip
OPERATION: Final = (
    "subject_type", "subject_id", "credit_type", "seq", "id", "kind", "user_id", "org_id",
    "metric", "quantity", "amount", "delta", "balance_after", "owed", "draws", "batch_id",
    "consumed_from", "correlation_id", "operation_status", "reason", "policy_version", "actor",
    "client", "reverses", "hold_id", "counted", "created_at", "effective_at",
    "overdraft_after", "context", "group_id", "member_month",
)  # fmt: skip
IMPORTED_OPERATION: Final = (
    "subject_type", "subject_id", "id", "credit_type", "metric", "amount", "batch_id",
    "consumed_from", "correlation_id", "operation_status", "created_at",
)  # fmt: skip
HOLD: Final = (
    "subject_type", "subject_id", "credit_type", "id", "user_id", "org_id", "requirements",
    "taken", "held", "charged", "returned", "backing", "status", "expires_at", "settled",
    "closing", "correlation_id", "policy_version", "actor", "client", "created_at", "closed_at",
    "costs", "billed", "member_month",
)  # fmt: skip
HOLD_CHANGING: Final = (
    "held", "charged", "returned", "backing", "status", "expires_at", "settled", "closing",
    "closed_at", "billed",
)  # fmt: skip
MEMBER: Final = (
    "org_id", "user_id", "joined_at", "left_at", "monthly_cap", "month", "drawn",
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
WAITING: Final = (
    "bucket", "created_at", "seq", "n", "event_id", "event_type", "key", "payload", "traceparent",
)  # fmt: skip
PARKED: Final = (
    "subject_type", "subject_id", "credit_type", "seq", "event_id", "event_type", "created_at",
    "parked_at", "park_reason", "attempts",
)  # fmt: skip
LEASE: Final = ("bucket", "holder", "epoch", "sink", "expires_at")
LIMIT_EVENT: Final = ("event_id", "event_type", "key", "payload", "created_at")
LIMIT_EXCEEDED: Final = ("subject_type", "subject_id", "metric", "minute", *LIMIT_EVENT)
LIMIT_NEAR: Final = ("subject_type", "subject_id", "metric", "window_s", *LIMIT_EVENT)
BACKLOG: Final = ("events", "oldest_at", "parked")
WEBHOOK_BACKLOG: Final = ("pending", "failing", "failing_since")
PAST_USE: Final = ("user_id", "org_id", "metric", "slice", "units", "of_user", "of_org")
POLICY_VERSION: Final = ("version", "activated_at", "actor", "active")
API_KEY: Final = (
    "id", "name", "role", "prefix", "secret_sha256", "created_at", "revoked_at", "last_used_at",
)  # fmt: skip
ENDPOINT: Final = (
    "id", "url", "events", "description", "secrets", "active", "disabled_because", "failing_since",
    "created_at", "created_by",
)  # fmt: skip
DELIVERY: Final = (
    "endpoint_id", "event_id", "event_type", "state", "attempts", "next_at", "last_status",
    "last_error", "created_at", "ended_at",
)  # fmt: skip
