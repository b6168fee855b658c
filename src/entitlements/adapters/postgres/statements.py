"""The SQL statements of PostgreSQL, by name."""

from datetime import timedelta

from entitlements.adapters.fragments import FRAGMENTS, values
from entitlements.adapters.named_sql import load
from entitlements.app.outbox.store import BUCKETS
from entitlements.app.ports import LIMIT_EVENTS_KEPT
from entitlements.app.webhooks.store import ENDPOINTS_KEPT, GIVE_UP_AFTER


def _interval(time: timedelta) -> str:
    return f"interval '{time.days} days {time.seconds} seconds'"


SQL = load(
    "entitlements.adapters.postgres",
    "ledger.sql",
    "records.sql",
    "keys.sql",
    "policies.sql",
    "limits.sql",
    "inbox.sql",
    "outbox.sql",
    "webhooks.sql",
    "schema.sql",
    "roles.sql",
    fragments={
        **FRAGMENTS,
        "no_hold": values("NULL")["hold_values"],
        "last_bucket": str(BUCKETS - 1),
        "limit_events_kept": _interval(LIMIT_EVENTS_KEPT),
        "endpoints_kept": _interval(ENDPOINTS_KEPT),
        "give_up_after": _interval(GIVE_UP_AFTER),
    },
)
