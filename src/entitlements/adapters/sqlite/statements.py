"""The SQL statements of SQLite, by name."""

from entitlements.adapters.fragments import FRAGMENTS, values
from entitlements.adapters.named_sql import load

SQL = load(
    "entitlements.adapters.sqlite",
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
    fragments={**FRAGMENTS, **values("?")},
)
