"""The write rights of a running service on each table. Every table may be read.

PostgreSQL enforces them as privileges of the service's role, SQLite as an authorizer of the
connection that writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from msgspec import Struct


class Rights(Struct, frozen=True):
    """Rights on one table. ``update`` lists the columns that may change in existing rows."""

    insert: bool = True
    update: tuple[str, ...] = ()
    delete: bool = False
    lock: bool = False
    """Whether the table exists only to be locked; on PostgreSQL alone."""


NONE: Final = Rights(insert=False)


def in_the_way(tables: Iterable[str], another: str) -> str:
    """Return the error for tables of another program that have names of this service's tables."""
    return (
        f"it has tables of another program ({', '.join(sorted(tables))}): use {another};"
        " nothing was changed"
    )


RIGHTS: Final[Mapping[str, Rights]] = {
    "accounts": Rights(),
    "allowance_metrics": Rights(),
    "api_keys": Rights(update=("revoked_at", "last_used_at")),
    "audit_log": Rights(),
    "consumption_records": Rights(),
    "credit_balances": Rights(
        update=(
            "balance",
            "held",
            "overdraft",
            "version",
            "next_due_at",
            "updated_at",
            "balance_at_grant",
            "unlimited",
            "promised",
        )
    ),
    "credit_operations": Rights(),
    "dead_letters": Rights(update=("state", "closed_at", "reason", "detail")),
    "debts": Rights(update=("credit_type", "owed", "closed_by")),
    "event_outbox": Rights(
        update=("published_at", "parked_at", "park_reason", "attempts"), delete=True
    ),
    "grants": Rights(
        update=(
            "remaining",
            "held",
            "used",
            "started",
            "ended_at",
            "end_reason",
            "live",
            "due_at",
            "revoke_reason",
            "renews_at",
            "used_before",
            "expires_at",
        )
    ),
    "holds": Rights(
        update=(
            "held",
            "charged",
            "returned",
            "backing",
            "status",
            "expires_at",
            "settled",
            "billed",
            "closing",
            "closed_at",
        )
    ),
    "imported_operations": Rights(),
    "jobs": Rights(),
    "lifecycle_calls": Rights(update=("attempts", "next_at", "last_error"), delete=True),
    "limit_exceeded": Rights(update=("published_at",), delete=True),
    "limit_near": Rights(
        update=(
            "event_id",
            "event_type",
            "key",
            "payload",
            "created_at",
            "again_at",
            "published_at",
        ),
        delete=True,
    ),
    "lone_limiters": Rights(update=("expires_at",), delete=True),
    "org_members": Rights(update=("joined_at", "left_at", "monthly_cap", "month", "drawn")),
    "policies": Rights(update=("active",)),
    "policy_lock": Rights(insert=False, lock=True),
    "receipts": Rights(update=("fingerprint", "outcome", "created_at", "expires_at"), delete=True),
    "relay_leases": Rights(
        insert=False, update=("holder", "epoch", "sink", "expires_at", "cleaned_until")
    ),
    "relays": Rights(update=("sink", "expires_at"), delete=True),
    "reversals": Rights(update=("reversed",)),
    "schema_version": NONE,
    "subscriptions": Rights(
        update=(
            "plan_id",
            "policy_version",
            "lifecycle",
            "status",
            "activated_at",
            "current_period_end",
            "cancels_at",
            "ended_at",
            "grant_id",
            "given",
            "follow_up",
            "replaced",
            "version",
        )
    ),
    "webhook_deliveries": Rights(
        update=(
            "state",
            "attempts",
            "next_at",
            "give_up_at",
            "last_status",
            "last_error",
            "ended_at",
        ),
        delete=True,
    ),
    "webhook_endpoints": Rights(
        update=(
            "url",
            "events",
            "description",
            "secrets",
            "active",
            "disabled_because",
            "failing_since",
            "deleted_at",
        ),
        delete=True,
    ),
}
"""By table. An expired receipt is replaced in place by a new one with its key."""
