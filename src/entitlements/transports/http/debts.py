"""Routes that list, price, settle and write off debts."""

from typing import Final

from entitlements.app.access.keys import Role
from entitlements.contracts import http
from entitlements.transports.http.answering import route
from entitlements.transports.http.routes import roles

_OPERATOR: Final = roles(Role.OPERATOR)
_REASON: Final = {"reason": "agreed with the school"}
_SETTLED: Final = {
    "success": True,
    "operation_id": "0198c1f2-9b07-7d3a-8c55-0d0f6f0b1c2d",
    "debt_id": "0198c1f2-8a52-7c1e-9d5e-2f6a4c1b7e90",
    "how": "settled",
    "credits": 60,
    "owed": 0,
    "new_balance": 440,
    "correlation_id": "support-12",
    "replayed": False,
}
_WRITTEN_OFF: Final = {**_SETTLED, "how": "written_off", "new_balance": 0}
_PRICED: Final = {
    "success": True,
    "operation_id": "0198c1f2-9b07-7d3a-8c55-0d0f6f0b1c2d",
    "debt_id": "0198c1f2-8a52-7c1e-9d5e-2f6a4c1b7e90",
    "credit_type": "credits",
    "credits": 60,
    "owed": 0,
    "consumed_from": "org",
    "new_balance": 440,
    "correlation_id": "support-12",
    "replayed": False,
}
ROUTES: Final = (
    route(
        http.DEBTS,
        rule=roles(Role.READER, Role.OPERATOR),
        tag="administration",
        summary="List debts of work that no payer covered, oldest first.",
        answer={
            "debts": [
                {
                    "operation_id": "0198c1f2-8a52-7c1e-9d5e-2f6a4c1b7e90",
                    "subject_type": "org",
                    "subject_id": "school-1",
                    "credit_type": "credits",
                    "metric": "cj_comparison",
                    "owed": 60,
                    "created_at": "2026-09-01T08:00:00Z",
                    "closed_by": None,
                }
            ],
            "count": 1,
            "next_cursor": None,
            "correlation_id": "support-12",
        },
    ),
    route(
        http.SETTLE_DEBT,
        rule=_OPERATOR,
        tag="administration",
        summary="Settle a debt, or a part of it, from the debtor's wallet.",
        example={**_REASON, "amount": 60},
        answer=_SETTLED,
        problems=(402, 404, 409),
    ),
    route(
        http.WRITE_OFF_DEBT,
        rule=_OPERATOR,
        tag="administration",
        summary="Write off a debt.",
        example=_REASON,
        answer=_WRITTEN_OFF,
        problems=(404, 409),
    ),
    route(
        http.PRICE_DEBT,
        rule=_OPERATOR,
        tag="administration",
        summary="Charge unpriced work by the active policy.",
        example=_REASON,
        answer=_PRICED,
        problems=(404, 409),
    ),
)
