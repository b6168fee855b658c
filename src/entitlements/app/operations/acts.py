"""Administrative acts outside of the ledger, each executed once per idempotency key."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

import msgspec
from msgspec import Struct

from entitlements.app.operations import naming
from entitlements.app.operations.refusals import refused
from entitlements.app.operations.request import Request
from entitlements.core.commands import Origin
from entitlements.core.ledger.answers import KEY_REUSED
from entitlements.core.model import Receipt
from entitlements.core.outcomes import Acted

R = TypeVar("R", bound=Struct)
ReceiptOf = Callable[[R], Receipt | None]
"""Returns the receipt of a response, to be written with the act; None without a key."""


async def once(
    request: Request,
    response: type[R],
    act: Callable[[ReceiptOf[R]], Awaitable[R]],
    *subjects: str,
) -> R:
    """Execute the act once per key and return its response. Raises KeyReused."""
    if request.key is None:
        return await act(lambda _: None)
    origin = naming.origin(request, subjects)
    if (earlier := await _earlier(request, origin, response)) is not None:
        return earlier
    try:
        return await act(lambda answer: _receipt(request, origin, answer))
    except Exception:
        # A concurrent request with the same key may have acted since the look-up.
        if (earlier := await _earlier(request, origin, response)) is None:
            raise
        return earlier


async def _earlier(request: Request, origin: Origin, response: type[R]) -> R | None:
    receipt = await request.engine.store.acts.receipt(origin.client, origin.key)
    if receipt is None or receipt.expires_at <= request.engine.clock():
        return None
    if receipt.fingerprint != origin.fingerprint or not isinstance(receipt.outcome, Acted):
        raise refused(KEY_REUSED)
    known = {"correlation_id": request.correlation_id, "replayed": True}
    answer = receipt.outcome.answer | known
    return msgspec.convert(answer, response)


def _receipt(request: Request, origin: Origin, answer: Struct) -> Receipt:
    now = request.engine.clock()
    return Receipt(
        client=origin.client,
        key=origin.key,
        fingerprint=origin.fingerprint,
        outcome=Acted(answer=msgspec.to_builtins(answer)),
        created_at=now,
        expires_at=now + timedelta(seconds=origin.lifetime_s),
    )
