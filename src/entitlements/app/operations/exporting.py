"""Export of balances, in the form in which they are imported."""

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Final

import msgspec
from msgspec.structs import replace

from entitlements.app.credits.reader import GrantView
from entitlements.app.operations.request import Request
from entitlements.app.paging import rows_of
from entitlements.app.ports import GrantsQuery, WalletsQuery
from entitlements.contracts.imports import BalanceRow
from entitlements.core.model import UNITS, StoredGrant, Subject, WalletKey
from entitlements.core.reasons import EntitlementType, GrantStatus

WALLETS_AT_ONCE: Final = 100
GRANTS_AT_ONCE: Final = 100
"""How many grants of a subject are read together with those of others."""

Parts = dict[datetime | None, int]
"""Credits of a wallet by the time when they expire."""


async def balances(request: Request, query: WalletsQuery) -> AsyncIterator[Sequence[BalanceRow]]:
    """Yield the balances as of now, a page of wallets at a time: a row for each time at which
    credits of a wallet expire.

    A balance that is not positive is one row. Each reference names the wallet and the expiry.
    """
    paged = replace(query, limit=WALLETS_AT_ONCE)
    async for found in rows_of(request.engine.store.reads.wallets, paged):
        keys = [key for key in found if not key.credit_type.startswith(UNITS)]
        views = await request.engine.reader.holdings(keys)
        parts = await _parts(request, keys)
        yield [
            _row(key, expires_at, credits)
            for key in keys
            for expires_at, credits in _ordered(
                parts[key] or {None: min(views[key].wallet.balance, 0)}
            )
        ]


async def _parts(request: Request, keys: Sequence[WalletKey]) -> dict[WalletKey, Parts]:
    engine = request.engine
    parts: dict[WalletKey, Parts] = {key: {} for key in keys}
    subjects = sorted({key.subject for key in keys})
    found = await engine.store.reads.current_grants(
        [(subject, EntitlementType.CREDIT_GRANT) for subject in subjects], GRANTS_AT_ONCE
    )
    counts = Counter(one.grant.wallet.subject for one in found)
    complete = [one for one in found if counts[one.grant.wallet.subject] < GRANTS_AT_ONCE]
    _add(parts, await engine.reader.grants(complete))
    for subject in (one for one, count in counts.items() if count == GRANTS_AT_ONCE):
        async for page in _all_active(request, subject):
            _add(parts, await engine.reader.grants(page))
    return parts


def _all_active(request: Request, subject: Subject) -> AsyncIterator[list[StoredGrant]]:
    query = GrantsQuery(
        subject_type=subject.type,
        subject_id=subject.id,
        entitlement_type=EntitlementType.CREDIT_GRANT,
        status=GrantStatus.ACTIVE,
        now=request.engine.clock(),
        limit=1_000,
    )
    return rows_of(request.engine.store.reads.grants, query)


def _add(parts: dict[WalletKey, Parts], views: Iterable[GrantView]) -> None:
    for stored, status in views:
        grant = stored.grant
        if status is GrantStatus.ACTIVE and grant.remaining and grant.wallet in parts:
            of_wallet = parts[grant.wallet]
            of_wallet[grant.expires_at] = of_wallet.get(grant.expires_at, 0) + grant.remaining


def _ordered(parts: Parts) -> list[tuple[datetime | None, int]]:
    """Return the parts, the soonest expiry first."""
    return sorted(parts.items(), key=lambda part: (part[0] is None, part[0]))


def _row(key: WalletKey, expires_at: datetime | None, credits: int) -> BalanceRow:
    name = msgspec.json.encode((key, expires_at))
    return BalanceRow(
        subject_type=key.subject_type,
        subject_id=key.subject_id,
        credit_type=key.credit_type,
        balance=credits,
        expires_at=expires_at,
        reference=f"balance:{sha256(name).hexdigest()[:32]}",
    )
