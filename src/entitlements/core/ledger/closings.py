"""The parts of a hold, the answer that shows them, and the closing that stores this answer."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Literal, TypedDict, Unpack

from msgspec.structs import replace

from entitlements.core.commands import OfHold
from entitlements.core.ledger.backing import lapse
from entitlements.core.ledger.book import Draft
from entitlements.core.model import Billed, Closing, Hold, Subject, WalletKey, is_units, metric_of
from entitlements.core.outcomes import HoldChanged, HoldNumbers, Refusal
from entitlements.core.pricing import credit_type_order
from entitlements.core.reasons import HoldStatus, RefusalCode


class ClosingFields(TypedDict, total=False):
    """The arguments of `hold_outcome` that the caller of `close` decides."""

    payer: Subject | None
    lapsed: bool
    counted: dict[str, int] | None
    unpriced: tuple[str, ...]


def parts_of(draft: Draft, command: OfHold) -> list[Hold]:
    """Return the current parts of the hold, in order.

    If one part has lapsed by its wallet's clock, all parts lapse.
    """
    parts = [draft.hold(wallet, command.hold_id) for wallet in command.hold.wallets]
    if any(part.status is HoldStatus.LAPSED for part in parts):
        is_open = HoldStatus.OPEN
        return [lapse(draft, command, p) if p.status is is_open else p for p in parts]
    return parts


def clock_of(draft: Draft, parts: list[Hold]) -> datetime:
    """Return the current time, no earlier than the last change of the hold's wallets."""
    return max(draft.now, *(draft.wallet(part.wallet).updated_at for part in parts))


def close(
    draft: Draft,
    command: OfHold,
    status: HoldStatus,
    numbers: dict[str, HoldNumbers],
    *,
    operation_id: str,
    by: Literal["requirements", "credits", "release"],
    asked: dict[str, int] | None = None,
    settled: dict[str, int] | None = None,
    billed: dict[str, Billed] | None = None,
    **answered: Unpack[ClosingFields],
) -> HoldChanged:
    """Close the hold and store the answer for repeats of the request."""
    parts = [draft.hold(wallet, command.hold_id) for wallet in command.hold.wallets]
    now = clock_of(draft, parts)
    outcome = hold_outcome(
        draft, parts, numbers, status=status, operation_id=operation_id, **answered
    )
    closing = Closing(by=by, asked=asked or {}, outcome=outcome)
    for part in parts:
        draft.put_hold(
            replace(
                part,
                status=status,
                settled=part.settled if settled is None else settled,
                billed=part.billed if billed is None else billed,
                closing=closing,
                closed_at=part.closed_at or now,
            )
        )
    return outcome


def hold_outcome(
    draft: Draft,
    parts: list[Hold],
    numbers: dict[str, HoldNumbers],
    *,
    status: HoldStatus | None = None,
    payer: Subject | None = None,
    operation_id: str | None = None,
    lapsed: bool = False,
    counted: dict[str, int] | None = None,
    unpriced: tuple[str, ...] = (),
) -> HoldChanged:
    """Return the state of the hold after a request; ``status`` is its new status if it changed.

    The top-level numbers are those of the first credit type with ``owed``, else of the first type.
    """
    first = parts[0]
    types = {*numbers, *(part.wallet.credit_type for part in parts)}
    every = {name: numbers.get(name, HoldNumbers()) for name in types}
    for part in parts:
        name = part.wallet.credit_type
        every[name] = replace(every[name], held=every[name].held + part.held)
    by_type = {name: every[name] for name in sort_credit_types(types) if not is_units(name)}
    shown = next((name for name, one in by_type.items() if one.owed), next(iter(by_type)))
    top = by_type[shown]
    subject = payer or first.wallet.subject
    consumed_from = subject.type if any(one.charged for one in by_type.values()) else "none"
    return HoldChanged(
        hold_id=first.id,
        status=status or first.status,
        credit_type=shown,
        charged=top.charged,
        returned=top.returned,
        held=top.held,
        owed=top.owed,
        consumed_from="user" if top.owed and consumed_from == "none" else consumed_from,
        new_balance=draft.wallet(WalletKey(subject.type, subject.id, shown)).balance,
        expires_at=first.expires_at,
        by_credit_type=by_type,
        allowances={metric_of(name): one for name, one in sorted(every.items()) if is_units(name)},
        operation_id=operation_id,
        lapsed=lapsed,
        counted=counted or {},
        unpriced=unpriced,
    )


def sort_credit_types(credit_types: Iterable[str]) -> list[str]:
    """Return the types sorted: ``credits`` first, then by name."""
    return sorted(credit_types, key=credit_type_order)


def sort_parts(parts: Iterable[Hold]) -> list[Hold]:
    """Return the parts of one hold: credits by type, then allowances; an org's before a user's."""

    def place(part: Hold) -> tuple[bool, tuple[bool, str], str]:
        wallet = part.wallet
        order = credit_type_order(wallet.credit_type)
        return (wallet.is_of_allowances, order, wallet.subject_type)

    return sorted(parts, key=place)


def replay(part: Hold) -> HoldChanged:
    """Return the answer that closed the hold, as a replay."""
    assert part.closing is not None, part
    return replace(part.closing.outcome, replayed=True)


def refuse_closed(part: Hold) -> Refusal:
    return Refusal(
        code=RefusalCode.HOLD_CLOSED,
        detail=f"the hold is {part.status}",
        data={"hold_id": part.id, "status": part.status},
    )
