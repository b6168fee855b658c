"""Routes that open accounts and grant their signup bonus."""

from typing import Final

from entitlements.app.access.keys import Role
from entitlements.contracts import http
from entitlements.transports.http.answering import BULK_MAX, route
from entitlements.transports.http.routes import roles


def _account(*, created: bool) -> dict[str, object]:
    return {
        "success": True,
        "created": created,
        "bonus": 50 if created else 0,
        "new_balance": 50,
        "subject_type": "user",
        "subject_id": "teacher-7",
        "operation_id": "0198c1f2-8a52-7c1e-9d5e-2f6a4c1b7e90" if created else None,
        "correlation_id": "signup-7",
        "replayed": False,
    }


ROUTES: Final = (
    route(
        http.OPEN_ACCOUNT,
        rule=roles(Role.OPERATOR),
        tag="administration",
        summary="Open an account; its signup bonus is granted exactly once, ever.",
        example={"subject_type": "user", "subject_id": "teacher-7"},
        answer=_account(created=False),
        created=("created", _account(created=True)),
    ),
    route(
        http.OPEN_ACCOUNTS,
        rule=roles(Role.OPERATOR),
        tag="administration",
        summary="Open up to 1,000 accounts, each once; with `atomic`, all or none.",
        example={"items": [{"subject_type": "user", "subject_id": "teacher-7"}]},
        answer={
            "success": True,
            "results": [_account(created=True)],
            "correlation_id": "signup-7",
        },
        body_max=BULK_MAX,
    ),
)
