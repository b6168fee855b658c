"""What one can ask, whoever answers: the engine in this process, or a service over HTTP.

Values are the contracts of the HTTP interface; refusals are `entitlements.contracts.errors`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

import msgspec
from msgspec import Struct

from entitlements.contracts import http, verbs
from entitlements.contracts.errors import Closed, Shortfall
from entitlements.contracts.fields import not_valid
from entitlements.contracts.http import (
    AccountItem,
    AdjustItem,
    ConsumeItem,
    SetItem,
    SubjectType,
)
from entitlements.contracts.verbs import Verb
from entitlements.ids import uuid7

T = TypeVar("T", bound=Struct)
B = TypeVar("B", bound=Struct)


class Call(Struct, Generic[T], frozen=True, kw_only=True):
    """One question or order. ``body`` is the verb's contract, of a GET its query; ``named`` are the
    parameters of its path.
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
    """One authority for what a subject may do, and what it has left.

    Every order takes a ``key``: the same order with the same key is done once, and answered alike
    (``replayed``). Without one each call is an order of its own. All raise `InvalidRequest`,
    and `Unavailable` if there is no answer; a denied check is an answer. So is a consumption that
    nobody can pay, with ``success`` false, unless it was opened with ``raise_on_shortfall``: then
    `Shortfall` is raised.
    """

    _raise_on_shortfall = False
    _loop: asyncio.AbstractEventLoop | None = None

    @abstractmethod
    async def ask(self, call: Call[T]) -> T:
        """The answer. Raises EntitlementsError."""

    def _require_own_loop(self) -> None:
        """Connections and waiting commands belong to the event loop that opened them. Raises
        Closed in another.
        """
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise Closed(
                "it belongs to another event loop: open one in each loop, or use the synchronous"
                " one, which loops and threads may share"
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
        """May this much of one metric be used, and who would pay? Reserves nothing."""
        body = _body(
            http.CheckRequest, user_id=user_id, org_id=org_id, metric=metric, amount=amount
        )
        return await self.ask(
            Call(verb=verbs.CHECK, body=body, explained=explain, correlation_id=correlation_id)
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
        """May all of this, units by metric, be used together? Reserves nothing."""
        body = _body(
            http.BulkCheckRequest, user_id=user_id, org_id=org_id, requirements=dict(requirements)
        )
        return await self.ask(
            Call(verb=verbs.CHECK_ALL, body=body, explained=explain, correlation_id=correlation_id)
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
        """Charge finished work, once. A job, ``service_name`` and ``processing_id`` in a batch or
        in none, is charged once. ``success`` false: nobody could pay, and it is owed. Raises
        Shortfall instead, if so opened.
        """
        body = _body(
            http.ConsumeRequest,
            user_id=user_id,
            org_id=org_id,
            metric=metric,
            amount=amount,
            batch_id=batch_id,
            service_name=service_name,
            processing_id=processing_id,
        )
        answer = await self.ask(
            Call(
                verb=verbs.CONSUME,
                body=body,
                key=key,
                correlation_id=correlation_id or uuid7(),
            )
        )
        if self._raise_on_shortfall and not answer.success:
            raise Shortfall([answer])
        return answer

    async def consume_all(
        self,
        items: Sequence[ConsumeItem],
        *,
        atomic: bool = False,
        key: str | None = None,
        correlation_id: str | None = None,
    ) -> http.BulkConsumeResponse:
        """Charge up to 1,000 pieces of finished work, each once; ``atomic``: all or none. Raises
        Shortfall if one is not paid, if so opened.
        """
        body = _body_of_items(http.BulkConsumeRequest, items, atomic=atomic)
        answer = await self.ask(
            Call(
                verb=verbs.CONSUME_ALL,
                body=body,
                key=key,
                correlation_id=correlation_id or uuid7(),
            )
        )
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
        """Give back what a consumption took, whole or in part. Raises NotFound, Conflict."""
        return await self.ask(
            Call(
                verb=verbs.REVERSE,
                body=_body(http.ReverseRequest, reason=reason, amount=amount),
                named={"operation_id": operation_id},
                key=key,
                correlation_id=correlation_id,
            )
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
        """Set aside what units by metric will cost, or ``credits`` of a type, for a while.

        Raises InsufficientCredits, PolicyDenied, RateLimited: ``data`` says what is missing.
        """
        body = _body(
            http.HoldRequest,
            user_id=user_id,
            org_id=org_id,
            requirements=dict(requirements) if requirements is not None else None,
            credits=credits,
            credit_type=credit_type,
            ttl_seconds=ttl_s,
        )
        return await self.ask(
            Call(verb=verbs.HOLD, body=body, key=key, correlation_id=correlation_id)
        )

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
        """Charge what was really used, and return the rest; with ``final`` false charge a part.

        Raises NotFound; Conflict for another settlement of a hold that is closed.
        """
        body = _body(
            http.SettleHoldRequest,
            requirements=dict(requirements) if requirements is not None else None,
            credits=credits,
            credit_type=credit_type,
            final=final,
        )
        return await self._of_hold(verbs.SETTLE_HOLD, hold_id, body, key, correlation_id)

    async def extend(
        self,
        hold_id: str,
        *,
        ttl_s: int,
        key: str | None = None,
        correlation_id: str | None = None,
    ) -> http.HoldChangeResponse:
        """Let an open hold lapse ``ttl_s`` seconds from now. Raises NotFound, Conflict."""
        body = _body(http.ExtendHoldRequest, ttl_seconds=ttl_s)
        return await self._of_hold(verbs.EXTEND_HOLD, hold_id, body, key, correlation_id)

    async def release(
        self,
        hold_id: str,
        *,
        reason: str | None = None,
        key: str | None = None,
        correlation_id: str | None = None,
    ) -> http.HoldChangeResponse:
        """Give all back that is held. Raises NotFound, Conflict."""
        body = _body(http.ReleaseHoldRequest, reason=reason)
        return await self._of_hold(verbs.RELEASE_HOLD, hold_id, body, key, correlation_id)

    async def _of_hold(
        self,
        verb: Verb[T],
        hold_id: str,
        body: Struct,
        key: str | None,
        correlation_id: str | None,
    ) -> T:
        named = {"hold_id": hold_id}
        return await self.ask(
            Call(verb=verb, body=body, named=named, key=key, correlation_id=correlation_id)
        )

    async def hold(self, hold_id: str) -> http.HoldItem:
        """A hold as it is now. Raises NotFound."""
        return await self.ask(Call(verb=verbs.SHOW_HOLD, named={"hold_id": hold_id}))

    async def holds(
        self,
        *,
        subject_type: SubjectType | None = None,
        subject_id: str | int | None = None,
        status: Literal["open", "settled", "released", "lapsed", "all"] = "open",
        limit: int = 100,
        cursor: str | None = None,
    ) -> http.HoldsResponse:
        """Holds, newest first; of what is left out all, but for ``status``."""
        body = _body(
            http.HoldsFilter,
            subject_type=subject_type,
            subject_id=_optional_text(subject_id),
            status=status,
            limit=limit,
            cursor=cursor,
        )
        return await self.ask(Call(verb=verbs.HOLDS, body=body))

    async def balance(
        self,
        user_id: str | int,
        *,
        org_id: str | int | None = None,
        correlation_id: str | None = None,
    ) -> http.BalanceResponse:
        """What a user has, and what the org has that is named, else the only one that they are a
        member of.
        """
        return await self.ask(
            Call(
                verb=verbs.BALANCE,
                body=_body(http.BalanceQuery, org_id=_optional_text(org_id)),
                named={"user_id": str(user_id)},
                correlation_id=correlation_id,
            )
        )

    async def open_account(
        self,
        *,
        subject_type: SubjectType,
        subject_id: str | int,
        key: str | None = None,
        correlation_id: str | None = None,
    ) -> http.AccountResponse:
        """Open an account; its signup bonus is given exactly once, ever."""
        body = _body(http.AccountRequest, subject_type=subject_type, subject_id=subject_id)
        return await self.ask(
            Call(verb=verbs.OPEN_ACCOUNT, body=body, key=key, correlation_id=correlation_id)
        )

    async def adjust(
        self,
        amount: int,
        *,
        subject_type: SubjectType,
        subject_id: str | int,
        reason: str,
        credit_type: str = "credits",
        expires_at: datetime | None = None,
        key: str | None = None,
        correlation_id: str | None = None,
    ) -> http.AdjustResponse:
        """Give credits, until ``expires_at`` if given, or with a negative amount burn them; never
        below zero.
        """
        body = _body(
            http.AdjustRequest,
            subject_type=subject_type,
            subject_id=subject_id,
            amount=amount,
            reason=reason,
            credit_type=credit_type,
            expires_at=expires_at,
        )
        return await self.ask(
            Call(verb=verbs.ADJUST, body=body, key=key, correlation_id=correlation_id)
        )

    async def set_balance(
        self,
        balance: int,
        *,
        subject_type: SubjectType,
        subject_id: str | int,
        reason: str | None = None,
        credit_type: str = "credits",
        key: str | None = None,
        correlation_id: str | None = None,
    ) -> http.SetResponse:
        """Bring a balance to a target, in one step."""
        body = _body(
            http.SetRequest,
            subject_type=subject_type,
            subject_id=subject_id,
            balance=balance,
            reason=reason,
            credit_type=credit_type,
        )
        return await self.ask(
            Call(verb=verbs.SET_BALANCE, body=body, key=key, correlation_id=correlation_id)
        )

    async def open_accounts(
        self,
        items: Sequence[AccountItem],
        *,
        atomic: bool = False,
        key: str | None = None,
        correlation_id: str | None = None,
    ) -> http.BulkAccountResponse:
        """Open up to 1,000 accounts, each once; ``atomic``: all or none."""
        body = _body_of_items(http.BulkAccountRequest, items, atomic=atomic)
        return await self.ask(
            Call(verb=verbs.OPEN_ACCOUNTS, body=body, key=key, correlation_id=correlation_id)
        )

    async def adjust_all(
        self,
        items: Sequence[AdjustItem],
        *,
        atomic: bool = False,
        key: str | None = None,
        correlation_id: str | None = None,
    ) -> http.BulkAdjustResponse:
        """Make up to 1,000 adjustments, each once; ``atomic``: all or none."""
        body = _body_of_items(http.BulkAdjustRequest, items, atomic=atomic)
        return await self.ask(
            Call(verb=verbs.ADJUST_ALL, body=body, key=key, correlation_id=correlation_id)
        )

    async def set_balances(
        self,
        items: Sequence[SetItem],
        *,
        atomic: bool = False,
        key: str | None = None,
        correlation_id: str | None = None,
    ) -> http.BulkSetResponse:
        """Bring up to 1,000 balances to their targets; ``atomic``: all or none."""
        body = _body_of_items(http.BulkSetRequest, items, atomic=atomic)
        return await self.ask(
            Call(verb=verbs.SET_BALANCES, body=body, key=key, correlation_id=correlation_id)
        )

    async def operations(
        self,
        *,
        subject_type: SubjectType | None = None,
        subject_id: str | int | None = None,
        correlation_id: str | None = None,
        key: str | None = None,
        hold_id: str | None = None,
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
        """The ledger, newest first; filters left out match all.

        Without a subject, correlation, hold or key, filters look back 31 days from ``until`` unless
        ``since`` is given. A page may be empty and yet have a ``next_cursor``.
        """
        body = _body(
            http.OperationsFilter,
            subject_type=subject_type,
            subject_id=_optional_text(subject_id),
            correlation_id=correlation_id,
            key=key,
            hold_id=hold_id,
            metric=metric,
            status=status,
            kind=kind,
            user_id=_optional_text(user_id),
            org_id=_optional_text(org_id),
            batch_id=batch_id,
            since=since,
            until=until,
            limit=limit,
            cursor=cursor,
        )
        return await self.ask(Call(verb=verbs.OPERATIONS, body=body))

    async def operation(self, operation_id: str) -> http.OperationItem:
        """One operation of the ledger. Raises NotFound."""
        return await self.ask(Call(verb=verbs.OPERATION, named={"operation_id": operation_id}))

    async def debts(
        self,
        *,
        status: Literal["open", "all"] = "open",
        limit: int = 100,
        cursor: str | None = None,
    ) -> http.DebtsResponse:
        """Work nobody could pay, oldest first."""
        body = _body(http.DebtsQuery, status=status, limit=limit, cursor=cursor)
        return await self.ask(Call(verb=verbs.DEBTS, body=body))

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
        ``operation_id`` is the failed operation.

        Raises InsufficientCredits, NotFound; Conflict for a debt that is closed or has no price.
        """
        body = _body(http.SettleDebtRequest, amount=amount, reason=reason)
        return await self._of_debt(verbs.SETTLE_DEBT, operation_id, body, key, correlation_id)

    async def write_off_debt(
        self,
        operation_id: str,
        *,
        reason: str | None = None,
        key: str | None = None,
        correlation_id: str | None = None,
    ) -> http.DebtResponse:
        """Forgive a debt. Raises NotFound, Conflict."""
        body = _body(http.DebtRequest, reason=reason)
        return await self._of_debt(verbs.WRITE_OFF_DEBT, operation_id, body, key, correlation_id)

    async def price_debt(
        self,
        operation_id: str,
        *,
        reason: str | None = None,
        key: str | None = None,
        correlation_id: str | None = None,
    ) -> http.DebtPricedResponse:
        """Charge work that was filed without a price by the active policy; what nobody covers is
        owed.

        Raises NotFound; Conflict for a debt that has a price or is closed, and while there is none.
        """
        body = _body(http.DebtRequest, reason=reason)
        return await self._of_debt(verbs.PRICE_DEBT, operation_id, body, key, correlation_id)

    async def _of_debt(
        self,
        verb: Verb[T],
        operation_id: str,
        body: http.DebtRequest,
        key: str | None,
        correlation_id: str | None,
    ) -> T:
        return await self.ask(
            Call(
                verb=verb,
                body=body,
                named={"operation_id": operation_id},
                key=key,
                correlation_id=correlation_id,
            )
        )

    async def rate_limits(self, subject_id: str | int) -> http.RateLimitsResponse:
        """What a user, or an org, has used of each limit of the policy in force."""
        return await self.ask(Call(verb=verbs.RATE_LIMITS, named={"subject_id": str(subject_id)}))

    async def reset_rate_limit(
        self,
        subject_id: str | int,
        *,
        metric: str,
        reason: str | None = None,
        correlation_id: str | None = None,
    ) -> http.ResetRateLimitResponse:
        """Forget what a subject has used of a metric's limits."""
        body = _body(
            http.ResetRateLimitRequest, subject_id=subject_id, metric=metric, reason=reason
        )
        return await self.ask(
            Call(verb=verbs.RESET_RATE_LIMIT, body=body, correlation_id=correlation_id)
        )

    async def policies(
        self, *, limit: int = 100, before: datetime | None = None
    ) -> http.PoliciesResponse:
        """Every version that was ever in force, newest first."""
        body = _body(http.PoliciesQuery, limit=limit, before=before)
        return await self.ask(Call(verb=verbs.POLICIES, body=body))

    async def policy(self, version: str = "active") -> http.PolicyResponse:
        """A version and its document, by its first digits. Raises NotFound."""
        return await self.ask(Call(verb=verbs.POLICY, named={"version": version}))

    async def diff_policies(
        self, *, since: str | None = None, until: str = "active"
    ) -> http.PolicyDiffResponse:
        """What changed, rule by rule, from ``since`` (else the version before) to ``until``."""
        body = _body(http.PolicyDiffQuery, **{"from": since, "to": until})
        return await self.ask(Call(verb=verbs.DIFF_POLICIES, body=body))

    async def check_policy(self, content: str) -> http.PolicyCheckResponse:
        """Is this document valid, and if not, why? Nothing changes."""
        body = _body(http.PolicyCheckRequest, content=content)
        return await self.ask(Call(verb=verbs.CHECK_POLICY, body=body))

    async def apply_policy(
        self, content: str, *, reason: str | None = None, correlation_id: str | None = None
    ) -> http.PolicyApplyResponse:
        """Put a document in force, everywhere; the same again changes nothing. Raises
        InvalidRequest; Conflict for one that was superseded.
        """
        body = _body(http.PolicyApplyRequest, content=content, reason=reason)
        return await self.ask(
            Call(verb=verbs.APPLY_POLICY, body=body, correlation_id=correlation_id)
        )


def _optional_text(given: str | int | None) -> str | None:
    return str(given) if given is not None else None


def _body(contract: type[B], **fields: Any) -> B:
    """The fields as the contract has them. Raises InvalidRequest."""
    try:
        return msgspec.convert(fields, contract)
    except msgspec.ValidationError as error:
        raise not_valid(error) from None


def _body_of_items(contract: type[B], items: Sequence[Struct], *, atomic: bool) -> B:
    return _body(contract, items=[msgspec.to_builtins(one) for one in items], atomic=atomic)
