"""Attribution: the first candidate whose available credits cover the whole requirement pays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import assert_never

from entitlements.core.model import Subject, Wallet, WalletKey
from entitlements.core.outcomes import Candidate, Candidates
from entitlements.core.policy import Attribution


def candidates(attribution: Attribution, user_id: str, org_id: str | None) -> tuple[Subject, ...]:
    """Return the subjects that can pay, in the order in which they are tried.

    With `ORG_ONLY` the org pays alone; if the request names no org, the user pays.
    """
    user = Subject("user", user_id)
    if org_id is None:
        return (user,)
    org = Subject("org", org_id)
    match attribution:
        case Attribution.ORG_FIRST:
            return (org, user)
        case Attribution.USER_FIRST:
            return (user, org)
        case Attribution.ORG_ONLY:
            return (org,)
        case _:
            assert_never(attribution)


def shortage(
    credit_type: str,
    required: int,
    user_id: str,
    org_id: str | None,
    wallet: Callable[[WalletKey], Wallet | None],
) -> Candidates:
    """Return each candidate's credits and shortage; a candidate without a wallet has 0 credits."""

    def candidate(key: WalletKey) -> Candidate:
        found = wallet(key)
        available = found.available if found is not None else 0
        return Candidate(
            balance=found.balance if found is not None else 0,
            held=found.held if found is not None else 0,
            available=available,
            missing=max(0, required - available),
        )

    org = candidate(WalletKey("org", org_id, credit_type)) if org_id is not None else None
    return Candidates(org=org, user=candidate(WalletKey("user", user_id, credit_type)))


def root_subject(user_id: str, org_id: str | None) -> Subject:
    """Return the debtor of work that could not be paid: the org if named, else the user."""
    return Subject("org", org_id) if org_id is not None else Subject("user", user_id)


def payer(
    order: tuple[Subject, ...],
    required: Mapping[str, int],
    available: Callable[[Subject, str], int],
) -> Subject | None:
    """Return the first of ``order`` that covers every credit type of ``required``, or None.

    ``available`` returns the subject's available credits of a type.
    """
    for subject in order:
        for credit_type, credits in required.items():
            if available(subject, credit_type) < credits:
                break
        else:
            return subject
    return None
