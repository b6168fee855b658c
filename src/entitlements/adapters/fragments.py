"""Fragments of the SQL of both engines: columns, and bounds that Python code uses too."""

from typing import Final

from entitlements.adapters import columns
from entitlements.app.inbox.store import LETTERS_COUNTED_MAX
from entitlements.app.ports import Backlog
from entitlements.core.windows import COUNT_MAX

_COLUMNS: Final = {
    "wallet": columns.WALLET,
    "grant": columns.GRANT,
    "grant_state": columns.GRANT_STATE,
    "grant_details": columns.GRANT_DETAILS,
    "stored_grant": columns.STORED_GRANT,
    "debt": columns.DEBT,
    "subscription": columns.SUBSCRIPTION,
    "lifecycle_call": columns.LIFECYCLE_CALL,
    "waiting_call": columns.WAITING_CALL,
    "receipt": columns.RECEIPT,
    "job": columns.JOB,
    "operation": columns.OPERATION,
    "imported_operation": columns.IMPORTED_OPERATION,
    "hold": columns.HOLD,
    "member": columns.MEMBER,
    "audit": columns.AUDIT,
    "record": columns.RECORD,
    "letter": columns.LETTER,
    "delivery": columns.DELIVERY,
    "event": columns.EVENT,
    "waiting": columns.WAITING,
    "parked": columns.PARKED,
    "lease": columns.LEASE,
    "limit_event": columns.LIMIT_EVENT,
    "limit_exceeded": columns.LIMIT_EXCEEDED,
    "limit_near": columns.LIMIT_NEAR,
    "api_key": columns.API_KEY,
    "policy_version": columns.POLICY_VERSION,
    "endpoint": columns.ENDPOINT,
}

FRAGMENTS: Final = {
    **{f"{name}_columns": ", ".join(found) for name, found in _COLUMNS.items()},
    "count_max": str(COUNT_MAX),
    "backlog_max": str(Backlog.COUNTED_MAX),
    "letters_max": str(LETTERS_COUNTED_MAX),
}


def values(place: str) -> dict[str, str]:
    """Return the fragments with a value for each column, as in ``VALUES ({{hold_values}})``."""
    return {f"{name}_values": ", ".join([place] * len(found)) for name, found in _COLUMNS.items()}
