"""Who pays: the first candidate whose available credits cover the whole requirement."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import assert_never

from entitlements.core.model import Subject
from entitlements.core.policy import Attribution


def candidates(attribution: Attribution, user_id: str, org_id: str | None) -> tuple[Subject, ...]:
    """Return the subjects that may pay, in the order in which they are asked.

    With `ORG_ONLY` an org that is named pays alone; where none is named, the user does.
    """
    user = Subject("user", user_id)
    org = Subject("org", org_id) if org_id is not None else None
    match attribution:
        case Attribution.ORG_FIRST:
            return (org, user) if org else (user,)
        case Attribution.USER_FIRST:
            return (user, org) if org else (user,)
        case Attribution.ORG_ONLY:
            return (org,) if org else (user,)
        case _:
            assert_never(attribution)


def root_subject(user_id: str, org_id: str | None) -> Subject:
    """Who owes what nobody could pay: the org if named, else the user."""
    return Subject("org", org_id) if org_id is not None else Subject("user", user_id)


def payer(
    order: tuple[Subject, ...],
    required: Mapping[str, int],
    available: Callable[[Subject, str], int],
) -> Subject | None:
    """The first of ``order`` that covers every credit type of ``required``; equality covers.

    ``available``: the credits of that type that the subject has.
    """
    for subject in order:
        for credit_type, credits in required.items():
            if available(subject, credit_type) < credits:
                break
        else:
            return subject
    return None
