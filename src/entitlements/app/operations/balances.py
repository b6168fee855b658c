"""Balances of a user and of their org."""

from typing import Final

from entitlements.app.credits import reader
from entitlements.app.operations.request import Request, UseCases
from entitlements.contracts import http
from entitlements.core.model import UNITS, WalletKey
from entitlements.core.policy import DEFAULT_CREDIT_TYPE


async def balance(request: Request, wanted: http.BalanceQuery) -> http.BalanceResponse:
    """Return the balances. The org defaults to the user's if they are in exactly one."""
    user_id, org_id = request.params["user_id"], wanted.org_id
    await request.known_subject("user_id", "user", user_id)
    if org_id is None:
        org_id = await _sole_org(request, user_id)
    else:
        await request.known_subject("org_id", "org", org_id)
    request.ids = (user_id, org_id)
    keys = await _keys(request, "user", user_id)
    if org_id is not None:
        keys += await _keys(request, "org", org_id)
    held = await request.engine.reader.holdings(keys)

    own = held[WalletKey("user", user_id, DEFAULT_CREDIT_TYPE)].wallet
    shared = None
    if org_id is not None:
        shared = held[WalletKey("org", org_id, DEFAULT_CREDIT_TYPE)].wallet
    return http.BalanceResponse(
        user_id=user_id,
        user_balance=own.balance,
        org_balance=shared.balance if shared else None,
        org_id=org_id,
        user_held=own.held,
        user_available=own.available,
        org_held=shared.held if shared else None,
        org_available=shared.available if shared else None,
        by_credit_type=_by_credit_type(held),
    )


async def _sole_org(request: Request, user_id: str) -> str | None:
    orgs = await request.engine.store.reads.orgs_of(user_id, limit=2)
    return orgs[0] if len(orgs) == 1 else None


async def _keys(
    request: Request, subject_type: http.SubjectType, subject_id: str
) -> list[WalletKey]:
    """Return every wallet of credits of the subject, and that of the default type even if it does
    not exist.
    """
    known = await request.engine.store.reads.wallet_keys(subject_type, subject_id)
    keys = [key for key in known if not key.credit_type.startswith(UNITS)]
    return list(dict.fromkeys((WalletKey(subject_type, subject_id, DEFAULT_CREDIT_TYPE), *keys)))


def _by_credit_type(
    held: dict[WalletKey, reader.WalletView],
) -> dict[str, dict[http.SubjectType, http.Holding]]:
    answer: dict[str, dict[http.SubjectType, http.Holding]] = {}
    for key, (wallet, expiry) in held.items():
        answer.setdefault(key.credit_type, {})[key.subject_type] = http.Holding(
            balance=wallet.balance,
            held=wallet.held,
            available=wallet.available,
            unlimited=wallet.unlimited > 0,
            soonest_expiry=http.SoonestExpiry(at=expiry.at, credits=expiry.credits)
            if expiry
            else None,
        )
    return answer


USE_CASES: Final[UseCases] = {http.BALANCE: balance}
