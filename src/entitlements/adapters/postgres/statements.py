"""The engine's statements, by name."""

from entitlements.adapters.named_sql import load

SQL = load("entitlements.adapters.postgres", "queries.sql")
OUTBOX = load("entitlements.adapters.postgres", "outbox.sql")
ROLES = load("entitlements.adapters.postgres", "roles.sql")
