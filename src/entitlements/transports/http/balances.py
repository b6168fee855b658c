"""What a user has, and what the org has that they named."""

from typing import Final

from entitlements.app import reader
from entitlements.app.access import Role
from entitlements.contracts.http import (
    BalanceQuery,
    BalanceResponse,
    Holding,
    SoonestExpiry,
    SubjectType,
)
from entitlements.core.model import WalletKey
from entitlements.core.policy import DEFAULT_CREDIT_TYPE
from entitlements.transports.http.request import Reply, Request
from entitlements.transports.http.routes import Route, roles


async def balance(request: Request, _: None) -> Reply:
    """The org is the query's, else that of the header X-Org-ID."""
    named = request.query(BalanceQuery).org_id or request.text_header(b"x-org-id", "X-Org-ID")
    user_id, org_id = request.subjects(request.params["user_id"], named)

    keys = await _keys(request, "user", user_id)
    if org_id is not None:
        keys += await _keys(request, "org", org_id)
    held = await request.service.reader.holdings(keys)

    user = held[WalletKey("user", user_id, DEFAULT_CREDIT_TYPE)].wallet
    org = None
    if org_id is not None:
        org = held[WalletKey("org", org_id, DEFAULT_CREDIT_TYPE)].wallet
    return Reply(
        BalanceResponse(
            user_id=user_id,
            user_balance=user.balance,
            org_balance=org.balance if org else None,
            org_id=org_id,
            user_held=user.held,
            user_available=user.available,
            org_held=org.held if org else None,
            org_available=org.available if org else None,
            by_credit_type=_by_credit_type(held),
        )
    )


async def _keys(request: Request, subject_type: SubjectType, subject_id: str) -> list[WalletKey]:
    """Every wallet of the subject, and the one of credits though it may not exist."""
    keys = await request.service.records.wallet_keys(subject_type, subject_id)
    return list(dict.fromkeys((WalletKey(subject_type, subject_id, DEFAULT_CREDIT_TYPE), *keys)))


def _by_credit_type(
    held: dict[WalletKey, reader.Holding],
) -> dict[str, dict[SubjectType, Holding]]:
    answer: dict[str, dict[SubjectType, Holding]] = {}
    for key, (wallet, expiry) in held.items():
        answer.setdefault(key.credit_type, {})[key.subject_type] = Holding(
            balance=wallet.balance,
            held=wallet.held,
            available=wallet.available,
            soonest_expiry=SoonestExpiry(at=expiry.at, credits=expiry.credits) if expiry else None,
        )
    return answer


ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/entitlements/balance/{user_id}",
        handler=balance,
        rule=roles(Role.SERVICE, Role.READER, Role.OPERATOR),
        tag="balances",
        summary="What a user has, and what the org has that the request names.",
        query=BalanceQuery,
        responses={200: BalanceResponse},
    ),
)
