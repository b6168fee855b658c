"""Burn-down: which grants pay, and how much each pays."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from msgspec import Struct

from entitlements.core.model import NEVER, Draw, Grant
from entitlements.core.policy import BurnOrder

BurnKey = tuple[int, datetime, datetime, str]


class Draws(Struct, frozen=True, gc=False):
    """The credits that each grant pays, in burn order, and the unpaid rest.

    ``uncounted`` is the part that unlimited grants pay, which is in no balance.
    """

    draws: tuple[Draw, ...]
    unpaid: int = 0
    uncounted: int = 0


def burn_key(grant: Grant, order: BurnOrder) -> BurnKey:
    """Return the sort key of the burn order, which is total.

    Lowest priority number first, then soonest expiry (not with fifo), then oldest, then id.
    """
    expiry = NEVER if order is BurnOrder.FIFO else grant.expires_at or NEVER
    return (grant.priority, expiry, grant.granted_at, grant.id)


def draw(amount: int, grants: Iterable[Grant]) -> Draws:
    """Spread ``amount`` over live ``grants``, given in burn order; held credits are not drawn.

    An unlimited grant pays all that is left when its turn comes.
    """
    draws: list[Draw] = []
    unpaid, uncounted = amount, 0
    for grant in grants:
        if unpaid == 0:
            break
        taken = unpaid if grant.unlimited else min(grant.remaining - grant.held, unpaid)
        if taken > 0:
            draws.append(Draw(grant.id, taken))
            unpaid -= taken
        if grant.unlimited:
            uncounted = taken
    return Draws(tuple(draws), unpaid, uncounted)
