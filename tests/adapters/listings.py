"""Listings with their filters, and the index that each must use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Final, NamedTuple

from entitlements.adapters import listing
from entitlements.adapters.listing import Listed, Steps
from entitlements.app.inbox.store import LettersQuery, LetterState, Reason, RecordsQuery
from entitlements.app.ports import (
    AuditQuery,
    Cursor,
    HoldsQuery,
    ImportedOperationsQuery,
    OperationsQuery,
    WalletsQuery,
)
from entitlements.app.webhooks.store import DeliveriesQuery
from entitlements.core.model import WalletKey
from entitlements.core.reasons import ConsumptionOutcome, HoldStatus
from entitlements.ids import uuid7
from tests.stores.clerk import NOON

ID: Final = uuid7()
"""The id of a hold and of an endpoint that exist."""
OTHERS: dict[str, Any] = {"metric": "cj", "kind": "consume", "user_id": "u", "batch_id": "b"}
TIMES: dict[str, Any] = {"since": NOON, "until": NOON}
PKEY, CREATED = "credit_operations_pkey", "credit_operations_created"
OPERATIONS: list[tuple[dict[str, Any], str]] = [
    ({}, CREATED),
    (OTHERS, CREATED),
    ({"status": "completed"}, CREATED),
    ({"org_id": "o"}, CREATED),
    ({"subject_type": "user"}, CREATED),
    ({"subject_id": "ada"}, PKEY),
    ({"subject_id": "ada", "subject_type": "user", "status": "failed"}, PKEY),
    ({"subject_id": "ada"} | OTHERS, PKEY),
    ({"correlation_id": "c"}, "credit_operations_correlated"),
    ({"correlation_id": "c", "subject_id": "ada"} | OTHERS, PKEY),
    ({"correlation_id": "c", "subject_id": "busy"}, "credit_operations_correlated"),
    ({"status": "failed"}, "credit_operations_failed"),
    ({"status": "failed", "org_id": "o"} | OTHERS, "credit_operations_failed"),
    ({"key": "k"}, "credit_operations_id"),
    ({"key": "k", "subject_id": "ada"} | OTHERS, "credit_operations_id"),
    ({"hold_id": ID}, PKEY),
    ({"hold_id": ID} | OTHERS, PKEY),
]
LOOKUPS = {"credit_balances_pkey", "receipts_pkey", "holds_id", "credit_operations_id"}
RECORDS: list[tuple[dict[str, Any], str]] = [
    ({}, "consumption_records_id"),
    ({"org_id": "o", "metric": "cj"} | TIMES, "consumption_records_id"),
    ({"result": ConsumptionOutcome.FREE}, "consumption_records_id"),
    ({"user_id": "u"} | TIMES, "consumption_records_of"),
    ({"user_id": "u", "result": ConsumptionOutcome.CONFLICT}, "consumption_records_of"),
    ({"result": ConsumptionOutcome.CONFLICT, "org_id": "o"}, "consumption_records_conflicts"),
]
HOLDS: list[tuple[dict[str, Any], str]] = [
    ({}, "holds_id"),
    ({"status": HoldStatus.SETTLED}, "holds_id"),
    ({"subject_type": "user"}, "holds_id"),
    ({"status": HoldStatus.OPEN}, "holds_open"),
    ({"subject_id": "ada", "status": HoldStatus.OPEN}, "holds_pkey"),
    ({"subject_id": "ada"}, "holds_pkey"),
]
LETTERS: list[tuple[dict[str, Any], str]] = [
    ({}, "dead_letters_pkey"),
    ({"state": LetterState.DROPPED, "topic": "t"}, "dead_letters_pkey"),
    ({"state": LetterState.OPEN, "reason": Reason.FAILED}, "dead_letters_open"),
]
AUDIT: list[dict[str, Any]] = [
    {},
    {"actor": "a", "client": "c", "action": "hold.release", "correlation_id": "c"},
    {"subject_type": "user", "subject_id": "ada"},
    {"after": Cursor(NOON, ID)},
]
DELIVERIES: list[tuple[dict[str, Any], str]] = [
    ({}, "webhook_deliveries_pkey"),
    ({"state": "pending"}, "webhook_deliveries_pkey"),
    ({"state": "failed"}, "webhook_deliveries_failed"),
]


IMPORTED: list[tuple[dict[str, Any], str]] = [
    ({}, "imported_operations_time"),
    ({"metric": "cj", "status": "failed", "batch_id": "b"}, "imported_operations_time"),
    ({"after": Cursor(NOON, "row 7")}, "imported_operations_time"),
    ({"correlation_id": "c"}, "imported_operations_correlated"),
    ({"correlation_id": "c", "after": Cursor(NOON, "row 7")}, "imported_operations_correlated"),
    ({"subject_id": "ada"}, "imported_operations_of"),
    ({"subject_id": "ada", "after": Cursor(NOON, "row 7")}, "imported_operations_of"),
    ({"subject_id": "ada", "subject_type": "user", "metric": "cj"}, "imported_operations_of"),
]
WALLETS: list[dict[str, Any]] = [
    {"subject_type": "user", "subject_id": "ada"},
    {"after": WalletKey("user", "ada", "credits")},
]


class Case(NamedTuple):
    label: str
    steps: Steps[Listed]
    walks: str


def cases(stored: Callable[[datetime], Any]) -> Iterator[Case]:
    """Yield each listing with its times as the engine stores them."""
    for filters, index in OPERATIONS:
        for asked in (filters, filters | TIMES):
            query = OperationsQuery(**asked)
            yield Case(f"operations {asked}", listing.operations(query, stored), index)
    for filters, index in RECORDS:
        query_ = RecordsQuery(**filters)
        yield Case(f"records {filters}", listing.records(query_, stored), index)
    for filters, index in HOLDS:
        yield Case(f"holds {filters}", listing.holds(HoldsQuery(**filters)), index)
    for filters, index in LETTERS:
        yield Case(f"letters {filters}", listing.dead_letters(LettersQuery(**filters)), index)
    for filters in AUDIT:
        for asked in (filters, filters | TIMES):
            listed = listing.audit(AuditQuery(**asked), stored)
            yield Case(f"audit {asked}", listed, "audit_log_at")
    for filters, index in DELIVERIES:
        query__ = DeliveriesQuery(endpoint_id=ID, **filters)
        yield Case(f"deliveries {filters}", listing.deliveries(query__), index)
    yield from _of_moves(stored)


def _of_moves(stored: Callable[[datetime], Any]) -> Iterator[Case]:
    """Yield the listings of imported and exported rows."""
    for filters, index in IMPORTED:
        for asked in (filters, filters | TIMES):
            listed = listing.imported_operations(ImportedOperationsQuery(**asked), stored)
            yield Case(f"imported operations {asked}", listed, index)
    for filters in WALLETS:
        steps = listing.wallets(WalletsQuery(**filters))
        yield Case(f"wallets {filters}", steps, "credit_balances_pkey")
