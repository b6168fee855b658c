"""The SQL statements of PostgreSQL, by name."""

from collections.abc import Sequence
from datetime import timedelta

from entitlements.adapters import columns
from entitlements.adapters.fragments import FRAGMENTS, values
from entitlements.adapters.named_sql import load
from entitlements.app.outbox.store import BUCKETS
from entitlements.app.ports import LIMIT_EVENTS_KEPT
from entitlements.app.webhooks.store import ENDPOINTS_KEPT, GIVE_UP_AFTER


def _as_text(names: Sequence[str], *ids: str) -> str:
    return ", ".join(f"{name}::text" if name in ids else name for name in names)


def _interval(time: timedelta) -> str:
    return f"interval '{time.days} days {time.seconds} seconds'"


SQL = load(
    "entitlements.adapters.postgres",
    "ledger.sql",
    "reads.sql",
    "subscriptions.sql",
    "lifecycle.sql",
    "keys.sql",
    "policies.sql",
    "limits.sql",
    "imports.sql",
    "inbox.sql",
    "outbox.sql",
    "webhooks.sql",
    "schema.sql",
    "roles.sql",
    fragments={
        **FRAGMENTS,
        "no_receipt": values("NULL")["receipt_values"],
        "no_grant": values("NULL")["grant_values"],
        "no_hold": values("NULL")["hold_values"],
        "no_member": values("NULL")["member_values"],
        "grant_columns": _as_text(columns.GRANT, "id"),
        "stored_grant_columns": _as_text(columns.STORED_GRANT, "id"),
        "grant_state_columns": _as_text(columns.GRANT_STATE, "id"),
        "debt_columns": _as_text(columns.DEBT, "operation_id", "closed_by"),
        "api_key_columns": _as_text(columns.API_KEY, "id"),
        "endpoint_columns": _as_text(columns.ENDPOINT, "id"),
        "waiting_columns": _as_text(columns.WAITING, "event_id"),
        "parked_columns": _as_text(columns.PARKED, "event_id"),
        "limit_event_columns": _as_text(columns.LIMIT_EVENT, "event_id"),
        "last_bucket": str(BUCKETS - 1),
        "limit_events_kept": _interval(LIMIT_EVENTS_KEPT),
        "endpoints_kept": _interval(ENDPOINTS_KEPT),
        "give_up_after": _interval(GIVE_UP_AFTER),
    },
)
