"""Runs users' lifecycle handlers on an engine of this process."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from inspect import isawaitable
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from entitlements.api import Call, Entitlements
from entitlements.app.lifecycle.caller import HandlerCaller
from entitlements.app.lifecycle.store import LifecycleCalls
from entitlements.app.process.loop import background
from entitlements.contracts import http
from entitlements.core.subscription import LifecycleCall, SubscriptionChange
from entitlements.entitlement_service import EntitlementService
from entitlements.lifecycle import handler_class, known_handlers

T = TypeVar("T", bound=Struct)

CLIENT = "lifecycle"
"""The client of handlers' requests: the scope of their keys."""


@asynccontextmanager
async def calling_handlers(
    store: LifecycleCalls, entitlements: Entitlements
) -> AsyncIterator[HandlerCaller]:
    """Call handlers that this process knows until the block ends; they work on ``entitlements``."""

    async def call(one: LifecycleCall) -> None:
        await handle(one, entitlements)

    caller = HandlerCaller(store, call, known_handlers)
    async with background(caller.run()):
        yield caller


async def handle(call: LifecycleCall, entitlements: Entitlements) -> None:
    """Call the handler once. Each change that it makes by its service is made once, however often
    it is called, as long as it asks for the same.
    """
    service = EntitlementService(_OfCall(entitlements, call))
    handler = handler_class(call.handler)(service)
    method = getattr(handler, f"handle_subscription_{call.change}")
    handling = method(call.subscription_id, **_context(call))
    if not isawaitable(handling):
        raise TypeError(f"{method.__qualname__} is not async")
    await handling


def _context(call: LifecycleCall) -> dict[str, Any]:
    context: dict[str, Any] = {
        "subject_type": call.subject_type,
        "subject_id": call.subject_id,
        "user_id": call.subject_id if call.subject_type == "user" else None,
        "plan_id": call.plan_id,
        "at": call.at,
        "operation_id": call.operation_id,
        "correlation_id": call.correlation_id,
    }
    if call.change is SubscriptionChange.CHANGED:
        context["old_plan_id"] = call.old_plan_id
    return context


class _OfCall(Entitlements):
    """Gives each change of a handler a key: the operation of the call, and its number."""

    def __init__(self, entitlements: Entitlements, call: LifecycleCall) -> None:
        self._entitlements = entitlements
        self._call_of = call
        self._made: Counter[str] = Counter()

    async def ask(self, call: Call[T]) -> T:
        key = call.key
        if key is None and call.verb.is_keyed:
            name = call.verb.name
            self._made[name] += 1
            key = f"{self._call_of.operation_id}:{name}:{self._made[name]}"
        correlation_id = self._call_of.correlation_id
        return await self._entitlements.ask(replace(call, key=key, correlation_id=correlation_id))

    async def revoke_reference(
        self,
        reference_id: str,
        *,
        reason: str | None = None,
        key: str | None = None,
        correlation_id: str | None = None,
    ) -> http.RevokedResponse:
        """As that of the engine, but a subscription of the call that has begun again keeps its
        grants: those that it gives by now, and those that are granted after the listing.
        """
        if reference_id != self._call_of.subscription_id:
            return await super().revoke_reference(
                reference_id, reason=reason, key=key, correlation_id=correlation_id
            )
        found = await self._granted_for(reference_id)
        kept = (await self.subscription(reference_id)).grants
        revoked = [await self.revoke(one, reason=reason) for one in found if one not in kept]
        return http.RevokedResponse(
            revoked=revoked,
            count=len(revoked),
            correlation_id=self._call_of.correlation_id,
            replayed=False,
        )

    async def _granted_for(self, reference_id: str) -> list[str]:
        """Return the ids of grants with the reference that have not been revoked."""
        found: list[http.GrantItem] = []
        cursor = None
        while True:
            page = await self.entitlements(reference_id=reference_id, limit=1_000, cursor=cursor)
            found += page.entitlements
            if (cursor := page.next_cursor) is None:
                return [one.id for one in found if one.revoked_at is None]
