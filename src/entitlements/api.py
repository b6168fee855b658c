"""The Python interface, implemented by the engine in this process and by the HTTP client.

Values are the contracts of the HTTP interface; refusals are `entitlements.contracts.errors`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

import msgspec
from msgspec import Struct

from entitlements.contracts import http
from entitlements.contracts.errors import Closed, Shortfall
from entitlements.contracts.fields import not_valid
from entitlements.contracts.verbs import Verb
from entitlements.core.reasons import ConsumptionType, EntitlementType, GrantReason
from entitlements.ids import uuid7

T = TypeVar("T", bound=Struct)


class Call(Struct, Generic[T], frozen=True, kw_only=True):
    """One call. ``body`` is an instance of the verb's contract; for a GET, of its query.

    ``named`` are the path parameters.
    """

    verb: Verb[T]
    body: Any = None
    named: Mapping[str, str] = {}
    explained: bool = False
    key: str | None = None
    correlation_id: str | None = None

    @property
    def path(self) -> str:
        return self.verb.path.format_map(self.named)


class Entitlements(ABC):
    """Checks, consumption, holds, balances, rate limits and policies.

    Methods that change something take an idempotency ``key``: a repeat with the same key is
    executed once and gets the first response (``replayed``). Without a key, each call is a separate
    request.

    All methods raise `InvalidRequest`, and `Unavailable` without a response. A denied check is a
    response. So is a consumption that no payer covers, with ``success`` false; with
    ``raise_on_shortfall`` it raises `Shortfall` instead.
    """

    _raise_on_shortfall = False
    _loop: asyncio.AbstractEventLoop | None = None

    @abstractmethod
    async def ask(self, call: Call[T]) -> T:
        """Execute the call and return its response. Raise EntitlementsError."""

    def _call(
        self,
        verb: Verb[T],
        fields: Mapping[str, Any] | None = None,
        key: str | None = None,
        correlation_id: str | None = None,
        *,
        explained: bool = False,
        **named: str,
    ) -> Coroutine[Any, Any, T]:
        """Execute a call with the fields of its body or query, as `ask` does.

        ``named`` are the path parameters.
        """
        return self.ask(
            Call(
                verb=verb,
                body=_asked(verb, fields or {}),
                named=named,
                explained=explained,
                key=key,
                correlation_id=correlation_id,
            )
        )

    def _require_own_loop(self) -> None:
        """Raise Closed in another event loop than that of the first call.

        Connections and pending commands are bound to the event loop that created them.
        """
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise Closed(
                "it belongs to another event loop: open one in each loop, or use the synchronous"
                " interface, which loops and threads can share"
            )

    async def check(
        self,
        *,
        user_id: str | int,
        metric: str,
        amount: int = 1,
        org_id: str | int | None = None,
        explain: bool = False,
        correlation_id: str | None = None,
    ) -> http.CheckResponse:
        """Check whether units of one metric are allowed, and who would pay. Reserves nothing."""
        fields = {"user_id": user_id, "org_id": org_id, "metric": metric, "amount": amount}
        return await self._call(
            http.CHECK, fields, explained=explain, correlation_id=correlation_id
        )

    async def check_all(
        self,
        requirements: Mapping[str, int],
        *,
        user_id: str | int,
        org_id: str | int | None = None,
        explain: bool = False,
        correlation_id: str | None = None,
    ) -> http.BulkCheckResponse:
        """Check whether units of several metrics are allowed together. Reserves nothing."""
        fields = {"user_id": user_id, "org_id": org_id, "requirements": dict(requirements)}
        return await self._call(
            http.CHECK_ALL, fields, explained=explain, correlation_id=correlation_id
        )

    async def consume(
        self,
        *,
        user_id: str | int,
        metric: str,
        amount: int = 1,
        org_id: str | int | None = None,
        batch_id: str | None = None,
        service_name: str | None = None,
        processing_id: str | None = None,
        key: str | None = None,
        correlation_id: str | None = None,
    ) -> http.ConsumeResponse:
        """Charge finished work, once.

        A job, identified by ``service_name``, ``processing_id`` and ``batch_id``, is charged once.
        If no payer covers the work, ``success`` is false and it becomes a debt; with
        ``raise_on_shortfall``, raise Shortfall.
        """
        fields = {
            "user_id": user_id,
            "org_id": org_id,
            "metric": metric,
            "amount": amount,
            "batch_id": batch_id,
            "service_name": service_name,
            "processing_id": processing_id,
        }
        answer = await self._call(http.CONSUME, fields, key, correlation_id or uuid7())
        if self._raise_on_shortfall and not answer.success:
            raise Shortfall([answer])
        return answer

    async def consume_all(
        self,
        items: Sequence[http.ConsumeItem],
        *,
        atomic: bool = False,
        key: str | None = None,
        correlation_id: str | None = None,
    ) -> http.BulkConsumeResponse:
        """Charge up to 1,000 pieces of finished work, each once; ``atomic``: all or none.

        With ``raise_on_shortfall``, raise Shortfall if an item is not paid.
        """
        fields = _together(items, atomic=atomic)
        answer = await self._call(http.CONSUME_ALL, fields, key, correlation_id or uuid7())
        if self._raise_on_shortfall and not answer.success:
            raise Shortfall(answer.results)
        return answer

    async def reverse(
        self,
        operation_id: str,
        *,
        reason: str,
        amount: int | None = None,
        key: str | None = None,
        correlation_id: str | None = None,
    ) -> http.ReverseResponse:
        """Reverse an operation, in full or in part. Raise NotFound or Conflict.

        Without an ``amount``, what allowances and other payers paid of the same work goes back too.
        """
        fields = {"reason": reason, "amount": amount}
        return await self._call(
            http.REVERSE, fields, key, correlation_id, operation_id=operation_id
        )

    async def take_hold(
        self,
        requirements: Mapping[str, int] | None = None,
        *,
        user_id: str | int,
        org_id: str | int | None = None,
        credits: int | None = None,
        credit_type: str | None = None,
        ttl_s: int = 300,
        key: str | None = None,
        correlation_id: str | None = None,
    ) -> http.HoldResponse:
        """Hold the cost of units by metric, or ``credits`` of a type, for ``ttl_s`` seconds.

        Raise InsufficientCredits, PolicyDenied or RateLimited; ``data`` shows the shortage.
        """
        fields = {
            "user_id": user_id,
            "org_id": org_id,
            "requirements": dict(requirements) if requirements is not None else None,
            "credits": credits,
            "credit_type": credit_type,
            "ttl_seconds": ttl_s,
        }
        return await self._call(http.HOLD, fields, key, correlation_id)

    async def settle(
        self,
        hold_id: str,
        requirements: Mapping[str, int] | None = None,
        *,
        credits: int | None = None,
        credit_type: str | None = None,
        final: bool = True,
        key: str | None = None,
        correlation_id: str | None = None,
    ) -> http.HoldChangeResponse:
        """Charge actual usage and release the rest; with ``final`` false, charge a part.

        Raise NotFound, or Conflict for a different settlement of a closed hold.
        """
        fields = {
            "requirements": dict(requirements) if requirements is not None else None,
            "credits": credits,
            "credit_type": credit_type,
            "final": final,
        }
        return await self._call(http.SETTLE_HOLD, fields, key, correlation_id, hold_id=hold_id)

    async def extend(
        self,
        hold_id: str,
        *,
        ttl_s: int,
        key: str | None = None,
        correlation_id: str | None = None,
    ) -> http.HoldChangeResponse:
        """Set an open hold to lapse ``ttl_s`` seconds from now. Raise NotFound or Conflict."""
        fields = {"ttl_seconds": ttl_s}
        return await self._call(http.EXTEND_HOLD, fields, key, correlation_id, hold_id=hold_id)

    async def release(
        self,
        hold_id: str,
        *,
        reason: str | None = None,
        key: str | None = None,
        correlation_id: str | None = None,
    ) -> http.HoldChangeResponse:
        """Release everything that is held. Raise NotFound or Conflict."""
        fields = {"reason": reason}
        return await self._call(http.RELEASE_HOLD, fields, key, correlation_id, hold_id=hold_id)

    async def hold(self, hold_id: str) -> http.HoldItem:
        """Return the current state of a hold. Raise NotFound."""
        return await self._call(http.SHOW_HOLD, hold_id=hold_id)

    async def holds(
        self,
        *,
        subject_type: http.SubjectType | None = None,
        subject_id: str | int | None = None,
        status: Literal["open", "settled", "released", "lapsed", "all"] = "open",
        limit: int = 100,
        cursor: str | None = None,
    ) -> http.HoldsResponse:
        """Return holds, newest first. Omitted filters match everything, except ``status``."""
        fields = {
            "subject_type": subject_type,
            "subject_id": _optional_text(subject_id),
            "status": status,
            "limit": limit,
            "cursor": cursor,
        }
        return await self._call(http.HOLDS, fields)

    async def balance(
        self,
        user_id: str | int,
        *,
        org_id: str | int | None = None,
        correlation_id: str | None = None,
    ) -> http.BalanceResponse:
        """Return the balances of a user and of an org.

        The org is ``org_id``, else the org of the user's only membership.
        """
        fields = {"org_id": _optional_text(org_id)}
        return await self._call(
            http.BALANCE, fields, correlation_id=correlation_id, user_id=str(user_id)
        )

    async def open_account(
        self,
        *,
        subject_type: http.SubjectType,
        subject_id: str | int,
        key: str | None = None,
        correlation_id: str | None = None,
    ) -> http.AccountResponse:
        """Open an account; its signup bonus is granted exactly once, ever."""
        fields = {"subject_type": subject_type, "subject_id": subject_id}
        return await self._call(http.OPEN_ACCOUNT, fields, key, correlation_id)

    async def adjust(
        self,
        amount: int,
        *,
        subject_type: http.SubjectType,
        subject_id: str | int,
        reason: str,
        credit_type: str = "credits",
        expires_at: datetime | None = None,
        key: str | None = None,
        correlation_id: str | None = None,
    ) -> http.AdjustResponse:
        """Grant credits, or burn them with a negative amount; never below zero.

        Granted credits expire at ``expires_at`` if given.
        """
        fields = {
            "subject_type": subject_type,
            "subject_id": subject_id,
            "amount": amount,
            "reason": reason,
            "credit_type": credit_type,
            "expires_at": expires_at,
        }
        return await self._call(http.ADJUST, fields, key, correlation_id)

    async def set_balance(
        self,
        balance: int,
        *,
        subject_type: http.SubjectType,
        subject_id: str | int,
        reason: str | None = None,
        credit_type: str = "credits",
        key: str | None = None,
        correlation_id: str | None = None,
    ) -> http.SetResponse:
        """Set a balance to a target, atomically."""
        fields = {
            "subject_type": subject_type,
            "subject_id": subject_id,
            "balance": balance,
            "reason": reason,
            "credit_type": credit_type,
        }
        return await self._call(http.SET_BALANCE, fields, key, correlation_id)

    async def open_accounts(
        self,
        items: Sequence[http.AccountItem],
        *,
        atomic: bool = False,
        key: str | None = None,
        correlation_id: str | None = None,
    ) -> http.BulkAccountResponse:
        """Open up to 1,000 accounts, each once; ``atomic``: all or none."""
        fields = _together(items, atomic=atomic)
        return await self._call(http.OPEN_ACCOUNTS, fields, key, correlation_id)

    async def adjust_all(
        self,
        items: Sequence[http.AdjustItem],
        *,
        atomic: bool = False,
        key: str | None = None,
        correlation_id: str | None = None,
    ) -> http.BulkAdjustResponse:
        """Make up to 1,000 adjustments, each once; ``atomic``: all or none."""
        fields = _together(items, atomic=atomic)
        return await self._call(http.ADJUST_ALL, fields, key, correlation_id)

    async def set_balances(
        self,
        items: Sequence[http.SetItem],
        *,
        atomic: bool = False,
        key: str | None = None,
        correlation_id: str | None = None,
    ) -> http.BulkSetResponse:
        """Set up to 1,000 balances to their targets; ``atomic``: all or none."""
        fields = _together(items, atomic=atomic)
        return await self._call(http.SET_BALANCES, fields, key, correlation_id)

    async def grant(
        self,
        *,
        entitlement_type: EntitlementType | http.EntitlementType,
        grant_reason: GrantReason | http.GrantReason,
        user_id: str | int | None = None,
        subject_type: http.SubjectType | None = None,
        subject_id: str | int | None = None,
        credit_type: str | None = None,
        metric: str | None = None,
        feature: str | None = None,
        product_id: str | int | None = None,
        tier_id: str | int | None = None,
        subscription_id: str | int | None = None,
        quantity: int | None = None,
        consumption_type: ConsumptionType | http.ConsumptionType | None = None,
        priority: int = 50,
        granted_at: datetime | None = None,
        expires_at: datetime | None = None,
        reference_id: str | None = None,
        cost_microcents: int | None = None,
        notes: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        key: str | None = None,
        correlation_id: str | None = None,
    ) -> http.GrantResponse:
        """Grant an entitlement to a user, or to a subject.

        Credits and allowances without a ``quantity`` are unlimited. A grant starts now, or at
        ``granted_at``, and ends at ``expires_at`` if given.
        """
        fields = {
            "user_id": user_id,
            "subject_type": subject_type,
            "subject_id": subject_id,
            "entitlement_type": entitlement_type,
            "grant_reason": grant_reason,
            "credit_type": credit_type,
            "metric": metric,
            "feature": feature,
            "product_id": product_id,
            "tier_id": tier_id,
            "subscription_id": subscription_id,
            "quantity_granted": quantity,
            "consumption_type": consumption_type,
            "priority": priority,
            "granted_at": granted_at,
            "expires_at": expires_at,
            "reference_id": reference_id,
            "cost_microcents": cost_microcents,
            "notes": notes,
            "metadata": metadata,
        }
        return await self._call(http.GRANT, fields, key, correlation_id)

    async def entitlement(self, entitlement_id: str) -> http.GrantItem:
        """Return one grant as of now. Raise NotFound."""
        return await self._call(http.ENTITLEMENT, entitlement_id=entitlement_id)

    async def entitlements(
        self,
        *,
        subject_type: http.SubjectType | None = None,
        subject_id: str | int | None = None,
        entitlement_type: EntitlementType | http.EntitlementType | None = None,
        status: http.StateFilter = "all",
        reference_id: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> http.EntitlementsResponse:
        """Return grants, newest first. Omitted filters match everything."""
        fields = {
            "subject_type": subject_type,
            "subject_id": _optional_text(subject_id),
            "entitlement_type": entitlement_type,
            "status": status,
            "reference_id": reference_id,
            "limit": limit,
            "cursor": cursor,
        }
        return await self._call(http.ENTITLEMENTS, fields)

    async def revoke(self, entitlement_id: str, *, reason: str | None = None) -> http.GrantItem:
        """Revoke a grant; one that has ended does not change. Raise NotFound."""
        return await self._call(http.REVOKE, {"reason": reason}, entitlement_id=str(entitlement_id))

    async def revoke_reference(
        self,
        reference_id: str,
        *,
        reason: str | None = None,
        key: str | None = None,
        correlation_id: str | None = None,
    ) -> http.RevokedResponse:
        """Revoke every grant with a reference, such as the id of a payment."""
        fields = {"reference_id": reference_id, "reason": reason}
        return await self._call(http.REVOKE_REFERENCE, fields, key, correlation_id)

    async def check_access(
        self,
        entitlement_type: EntitlementType | http.EntitlementType,
        *,
        user_id: str | int,
        org_id: str | int | None = None,
        credit_type: str | None = None,
        metric: str | None = None,
        feature: str | None = None,
        product_id: str | int | None = None,
        tier_id: str | int | None = None,
        subscription_id: str | int | None = None,
        required_quantity: int | None = None,
        correlation_id: str | None = None,
    ) -> http.AccessResponse:
        """Check whether a user has an entitlement, by themselves or by an org.

        Omitted fields match everything. Credits and allowances need ``required_quantity``, else 1.
        """
        fields = {
            "user_id": user_id,
            "org_id": org_id,
            "entitlement_type": entitlement_type,
            "credit_type": credit_type,
            "metric": metric,
            "feature": feature,
            "product_id": product_id,
            "tier_id": tier_id,
            "subscription_id": subscription_id,
            "required_quantity": required_quantity,
        }
        return await self._call(http.ACCESS, fields, correlation_id=correlation_id)

    async def check_access_all(
        self,
        checks: Sequence[http.AccessItem],
        *,
        user_id: str | int,
        org_id: str | int | None = None,
        correlation_id: str | None = None,
    ) -> http.BulkAccessResponse:
        """Check up to 100 entitlements of a user at once."""
        items = [msgspec.to_builtins(one) for one in checks]
        fields = {"user_id": user_id, "org_id": org_id, "checks": items}
        return await self._call(http.ACCESS_ALL, fields, correlation_id=correlation_id)

    async def check_feature(
        self,
        feature: str,
        *,
        user_id: str | int,
        org_id: str | int | None = None,
        correlation_id: str | None = None,
    ) -> http.AccessResponse:
        """Check whether a user has a feature, by themselves or by an org."""
        fields = {"user_id": str(user_id), "org_id": _optional_text(org_id)}
        return await self._call(
            http.FEATURE, fields, correlation_id=correlation_id, feature=feature
        )

    async def spend(
        self,
        quantity: int,
        entitlement_type: EntitlementType | http.ConsumableType = "credit_grant",
        *,
        user_id: str | int,
        org_id: str | int | None = None,
        credit_type: str | None = None,
        metric: str | None = None,
        usage_context: Mapping[str, Any] | None = None,
        key: str | None = None,
        correlation_id: str | None = None,
    ) -> http.SpendResponse:
        """Consume credits of a type, or allowances of a metric, without a price or a limit.

        Raise InsufficientCredits, with nothing taken, if no candidate has all of the quantity.
        """
        fields = {
            "user_id": user_id,
            "org_id": org_id,
            "entitlement_type": entitlement_type,
            "credit_type": credit_type,
            "metric": metric,
            "quantity_to_consume": quantity,
            "usage_context": usage_context,
        }
        return await self._call(http.SPEND, fields, key, correlation_id)

    async def summary(
        self, *, subject_type: http.SubjectType = "user", subject_id: str | int
    ) -> http.SummaryResponse:
        """Return a summary of a subject: entitlements, credits and their use."""
        return await self._call(http.SUMMARY, subject_type=subject_type, subject_id=str(subject_id))

    async def set_member(
        self, org_id: str | int, user_id: str | int, *, monthly_cap: int | None = None
    ) -> http.MemberItem:
        """Add a user to an org, or set the cap of a member: the most credits that the org pays for
        the user in a calendar month, UTC. None removes the cap.
        """
        fields = {"monthly_cap": monthly_cap}
        return await self._call(http.SET_MEMBER, fields, org_id=str(org_id), user_id=str(user_id))

    async def remove_member(self, org_id: str | int, user_id: str | int) -> http.MemberItem:
        """End a membership. Raise NotFound if the user was never a member."""
        return await self._call(http.REMOVE_MEMBER, org_id=str(org_id), user_id=str(user_id))

    async def member(self, org_id: str | int, user_id: str | int) -> http.MemberItem:
        """Return a membership, also one that has ended. Raise NotFound."""
        return await self._call(http.MEMBER, org_id=str(org_id), user_id=str(user_id))

    async def members(
        self, org_id: str | int, *, limit: int = 100, cursor: str | None = None
    ) -> http.MembersResponse:
        """Return the members of an org by user id."""
        fields = {"limit": limit, "cursor": cursor}
        return await self._call(http.MEMBERS, fields, org_id=str(org_id))

    async def activate_subscription(
        self,
        *,
        plan_id: str,
        subscription_id: str | int,
        user_id: str | int | None = None,
        subject_type: http.SubjectType | None = None,
        subject_id: str | int | None = None,
        current_period_end: datetime | None = None,
        key: str | None = None,
        correlation_id: str | None = None,
    ) -> http.SubscriptionResponse:
        """Begin a subscription of a user, or of a subject, or the next period of an open one.

        Without ``current_period_end`` the period has the length that the plan says. Raise Conflict
        if the subscription is another subject's or has another plan.
        """
        fields = {
            "user_id": user_id,
            "subject_type": subject_type,
            "subject_id": subject_id,
            "plan_id": plan_id,
            "subscription_id": subscription_id,
            "current_period_end": current_period_end,
        }
        return await self._call(http.ACTIVATE, fields, key, correlation_id)

    async def change_subscription(
        self,
        subscription_id: str | int,
        *,
        plan_id: str,
        reason: str | None = None,
        key: str | None = None,
        correlation_id: str | None = None,
    ) -> http.SubscriptionResponse:
        """Replace the plan; units used in the current period count as used. Raise NotFound."""
        fields = {"plan_id": plan_id, "reason": reason}
        return await self._call(
            http.CHANGE_PLAN, fields, key, correlation_id, subscription_id=str(subscription_id)
        )

    async def cancel_subscription(
        self,
        subscription_id: str | int,
        *,
        at: http.CancelAt = "now",
        lifecycle: str | None = None,
        reason: str | None = None,
        key: str | None = None,
        correlation_id: str | None = None,
    ) -> http.SubscriptionResponse:
        """Cancel the subscription, now or at the end of its period. Raise NotFound.

        ``lifecycle``, such as ``grace_period(days=14)``, replaces that of the plan.
        """
        fields = {"at": at, "lifecycle": lifecycle, "reason": reason}
        return await self._call(
            http.CANCEL_SUBSCRIPTION,
            fields,
            key,
            correlation_id,
            subscription_id=str(subscription_id),
        )

    async def mark_subscription_past_due(
        self,
        subscription_id: str | int,
        *,
        reason: str | None = None,
        key: str | None = None,
        correlation_id: str | None = None,
    ) -> http.SubscriptionResponse:
        """Record that a payment is late; the grants stay until the end. Raise NotFound."""
        fields = {"reason": reason}
        return await self._call(
            http.PAST_DUE, fields, key, correlation_id, subscription_id=str(subscription_id)
        )

    async def expire_subscription(
        self,
        subscription_id: str | int,
        *,
        lifecycle: str | None = None,
        reason: str | None = None,
        key: str | None = None,
        correlation_id: str | None = None,
    ) -> http.SubscriptionResponse:
        """End a subscription that was not paid, as `cancel_subscription`. Raise NotFound."""
        fields = {"lifecycle": lifecycle, "reason": reason}
        return await self._call(
            http.EXPIRE_SUBSCRIPTION,
            fields,
            key,
            correlation_id,
            subscription_id=str(subscription_id),
        )

    async def subscription(self, subscription_id: str | int) -> http.SubscriptionItem:
        """Return one subscription as of now. Raise NotFound."""
        return await self._call(http.SUBSCRIPTION, subscription_id=str(subscription_id))

    async def subscriptions(
        self,
        *,
        subject_type: http.SubjectType | None = None,
        subject_id: str | int | None = None,
        plan_id: str | None = None,
        status: http.SubscriptionFilter = "all",
        limit: int = 100,
        cursor: str | None = None,
    ) -> http.SubscriptionsResponse:
        """Return subscriptions, newest first. Omitted filters match everything."""
        fields = {
            "subject_type": subject_type,
            "subject_id": _optional_text(subject_id),
            "plan_id": plan_id,
            "status": status,
            "limit": limit,
            "cursor": cursor,
        }
        return await self._call(http.SUBSCRIPTIONS, fields)

    async def operations(
        self,
        *,
        subject_type: http.SubjectType | None = None,
        subject_id: str | int | None = None,
        correlation_id: str | None = None,
        key: str | None = None,
        hold_id: str | None = None,
        group_id: str | None = None,
        metric: str | None = None,
        status: Literal["completed", "failed", "pending"] | None = None,
        kind: http.OperationKind | None = None,
        user_id: str | int | None = None,
        org_id: str | int | None = None,
        batch_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> http.OperationsResponse:
        """Return operations of the ledger, newest first. Omitted filters match everything.

        Without a subject, correlation, hold or key, filters look back 31 days from ``until`` unless
        ``since`` is given. A page can be empty and still have a ``next_cursor``.
        """
        fields = {
            "subject_type": subject_type,
            "subject_id": _optional_text(subject_id),
            "correlation_id": correlation_id,
            "key": key,
            "hold_id": hold_id,
            "group_id": group_id,
            "metric": metric,
            "status": status,
            "kind": kind,
            "user_id": _optional_text(user_id),
            "org_id": _optional_text(org_id),
            "batch_id": batch_id,
            "since": since,
            "until": until,
            "limit": limit,
            "cursor": cursor,
        }
        return await self._call(http.OPERATIONS, fields)

    async def lifecycle_calls(self, *, limit: int = 100) -> http.LifecycleCallsResponse:
        """List calls of lifecycle handlers that are still to be made, the oldest first."""
        return await self._call(http.LIFECYCLE_CALLS, {"limit": limit})

    async def operation(self, operation_id: str) -> http.OperationItem:
        """Return one operation of the ledger. Raise NotFound."""
        return await self._call(http.OPERATION, operation_id=operation_id)

    async def imported_operations(
        self,
        *,
        subject_type: http.SubjectType | None = None,
        subject_id: str | int | None = None,
        correlation_id: str | None = None,
        metric: str | None = None,
        status: str | None = None,
        batch_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> http.ImportedOperationsResponse:
        """Return operations that were imported from an older service, newest first.

        They are not part of the ledger. Omitted filters match everything.
        """
        fields = {
            "subject_type": subject_type,
            "subject_id": _optional_text(subject_id),
            "correlation_id": correlation_id,
            "metric": metric,
            "status": status,
            "batch_id": batch_id,
            "since": since,
            "until": until,
            "limit": limit,
            "cursor": cursor,
        }
        return await self._call(http.IMPORTED_OPERATIONS, fields)

    async def debts(
        self,
        *,
        status: Literal["open", "all"] = "open",
        limit: int = 100,
        cursor: str | None = None,
    ) -> http.DebtsResponse:
        """Return debts of work that no payer covered, oldest first."""
        fields = {"status": status, "limit": limit, "cursor": cursor}
        return await self._call(http.DEBTS, fields)

    async def settle_debt(
        self,
        operation_id: str,
        *,
        amount: int | None = None,
        reason: str | None = None,
        key: str | None = None,
        correlation_id: str | None = None,
    ) -> http.DebtResponse:
        """Pay a debt from the debtor's wallet: ``amount`` of it, else as much as is available.

        ``operation_id`` is the failed operation. Raise InsufficientCredits, NotFound, or Conflict
        for a debt that is closed or has no price.
        """
        fields = {"amount": amount, "reason": reason}
        return await self._call(
            http.SETTLE_DEBT, fields, key, correlation_id, operation_id=operation_id
        )

    async def write_off_debt(
        self,
        operation_id: str,
        *,
        reason: str | None = None,
        key: str | None = None,
        correlation_id: str | None = None,
    ) -> http.DebtResponse:
        """Write off a debt. Raise NotFound or Conflict."""
        fields = {"reason": reason}
        return await self._call(
            http.WRITE_OFF_DEBT, fields, key, correlation_id, operation_id=operation_id
        )

    async def price_debt(
        self,
        operation_id: str,
        *,
        reason: str | None = None,
        key: str | None = None,
        correlation_id: str | None = None,
    ) -> http.DebtPricedResponse:
        """Charge work that was recorded without a price, by the active policy.

        If no payer covers it, the debt gets its amount. Raise NotFound, or Conflict for a debt that
        has a price or is closed, and while the policy has no price.
        """
        fields = {"reason": reason}
        return await self._call(
            http.PRICE_DEBT, fields, key, correlation_id, operation_id=operation_id
        )

    async def rate_limits(self, subject_id: str | int) -> http.RateLimitsResponse:
        """Return the usage of each limit of the active policy by a user or an org."""
        return await self._call(http.RATE_LIMITS, subject_id=str(subject_id))

    async def reset_rate_limit(
        self,
        subject_id: str | int,
        *,
        metric: str,
        reason: str | None = None,
        correlation_id: str | None = None,
    ) -> http.ResetRateLimitResponse:
        """Reset a subject's usage of a metric's limits."""
        fields = {"subject_id": subject_id, "metric": metric, "reason": reason}
        return await self._call(http.RESET_RATE_LIMIT, fields, correlation_id=correlation_id)

    async def policies(
        self, *, limit: int = 100, before: datetime | None = None
    ) -> http.PoliciesResponse:
        """Return every policy version that was ever active, newest first."""
        fields = {"limit": limit, "before": before}
        return await self._call(http.POLICIES, fields)

    async def policy(self, version: str = "active") -> http.PolicyResponse:
        """Return a version and its document. A prefix of the version suffices. Raise NotFound."""
        return await self._call(http.POLICY, version=version)

    async def diff_policies(
        self, *, since: str | None = None, until: str = "active"
    ) -> http.PolicyDiffResponse:
        """Return the changed rules between two versions; ``since`` defaults to the one before."""
        fields = {"from": since, "to": until}
        return await self._call(http.DIFF_POLICIES, fields)

    async def check_policy(self, content: str) -> http.PolicyCheckResponse:
        """Validate a policy document and return its problems. Changes nothing."""
        fields = {"content": content}
        return await self._call(http.CHECK_POLICY, fields)

    async def apply_policy(
        self, content: str, *, reason: str | None = None, correlation_id: str | None = None
    ) -> http.PolicyApplyResponse:
        """Activate a policy document for all processes; an already active one changes nothing.

        Raise InvalidRequest, or Conflict for a document that was superseded.
        """
        fields = {"content": content, "reason": reason}
        return await self._call(http.APPLY_POLICY, fields, correlation_id=correlation_id)


def _optional_text(given: str | int | None) -> str | None:
    return str(given) if given is not None else None


def _asked(verb: Verb[Any], fields: Mapping[str, Any]) -> Struct | None:
    """Convert the fields to the verb's contract. Raise InvalidRequest."""
    if verb.asks is None:
        return None
    try:
        return msgspec.convert(fields, verb.asks)
    except msgspec.ValidationError as error:
        raise not_valid(error) from None


def _together(items: Sequence[Struct], *, atomic: bool) -> Mapping[str, Any]:
    return {"items": [msgspec.to_builtins(one) for one in items], "atomic": atomic}
