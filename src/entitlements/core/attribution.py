"""Attribution: the first candidate whose available credits cover the whole requirement pays, or
the candidates share it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar, assert_never

from entitlements.core.model import Subject, Wallet, WalletKey
from entitlements.core.outcomes import Candidate, Candidates
from entitlements.core.policy import Attribution
from entitlements.core.reasons import SubjectType

K = TypeVar("K", bound=Hashable)
Available = Callable[[Subject, str], int]
"""Returns a subject's available credits of a type."""
Shares = dict[str, dict[Subject, int]]
"""The credits that each subject pays, by credit type."""


def candidates(attribution: Attribution, user_id: str, org_id: str | None) -> tuple[Subject, ...]:
    """Return the subjects that can pay, in the order in which they are tried.

    With `ORG_ONLY` the org pays alone; if the request names no org, the user pays. With `SPLIT`
    they pay in this order.
    """
    user = Subject("user", user_id)
    if org_id is None:
        return (user,)
    org = Subject("org", org_id)
    match attribution:
        case Attribution.ORG_FIRST | Attribution.SPLIT:
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


def shares(
    attribution: Attribution,
    order: tuple[Subject, ...],
    required: Mapping[str, int],
    available: Available,
    org_most: int | None = None,
) -> Shares | None:
    """Return who of ``order`` pays how much, or None if ``required`` is not covered.

    ``org_most``: the most credits that an org pays, of all types together; None without a cap.
    """
    if attribution is Attribution.SPLIT:
        return _split(order, required, available, org_most)
    if org_most is not None:
        order = within(order, required, org_most)
    subject = payer(order, required, available)
    return whole(subject, required) if subject is not None else None


def whole(subject: Subject, required: Mapping[str, int]) -> Shares:
    """Return the shares if the subject pays everything."""
    return {credit_type: {subject: credits} for credit_type, credits in required.items()}


def within(
    order: tuple[Subject, ...], required: Mapping[str, int], org_most: int | None
) -> tuple[Subject, ...]:
    """Return the candidates without an org that does not pay that much for the user."""
    if org_most is None or sum(required.values()) <= org_most:
        return order
    return tuple(subject for subject in order if subject.type != "org")


def _split(
    order: tuple[Subject, ...],
    required: Mapping[str, int],
    available: Available,
    org_most: int | None,
) -> Shares | None:
    """Let each subject in ``order`` pay as much as it can of the rest."""
    most = {subject: org_most if subject.type == "org" else None for subject in order}
    split: Shares = {}
    for credit_type, credits in required.items():
        left, parts = credits, split.setdefault(credit_type, {})
        for subject in order:
            can = max(0, available(subject, credit_type))
            if (cap := most[subject]) is not None:
                can = min(can, cap)
            if part := min(left, can):
                parts[subject] = part
                left -= part
                if cap is not None:
                    most[subject] = cap - part
        if left:
            return None
    return split


def take_from(parts: dict[K, int], credits: int) -> dict[K, int]:
    """Move ``credits`` out of the parts, from the first ones on, and return what each gave."""
    taken: dict[K, int] = {}
    left = credits
    for key, part in parts.items():
        if used := min(left, part):
            taken[key] = used
            parts[key] = part - used
            left -= used
    return taken


def source_of(paid: Shares | None) -> SubjectType | None:
    """Return the type of the payer; ``org`` if an org pays anything, None if nothing is paid."""
    types = {subject.type for parts in (paid or {}).values() for subject in parts}
    if not types:
        return None
    return "org" if "org" in types else "user"


def payer(
    order: tuple[Subject, ...], required: Mapping[str, int], available: Available
) -> Subject | None:
    """Return the first of ``order`` that covers every credit type of ``required``, or None."""
    for subject in order:
        for credit_type, credits in required.items():
            if available(subject, credit_type) < credits:
                break
        else:
            return subject
    return None
