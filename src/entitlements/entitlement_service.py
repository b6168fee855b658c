"""Entitlements of users by request objects: `EntitlementService`, and handlers of a lifecycle.

The operations are those of `entitlements.api.Entitlements`, which also serves orgs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import asdict

from entitlements.api import Entitlements
from entitlements.configured import configured
from entitlements.contracts import http
from entitlements.core.reasons import ConsumptionType, EntitlementType, GrantReason
from entitlements.lifecycle import BUILT_IN, handler_class

R = TypeVar("R", bound=Struct)
Id = str | int
UserEntitlementRead = http.GrantItem


class CreditType(StrEnum):
    """Common credit types; any other text is a credit type too."""

    AI_TOKENS = "ai_tokens"
    API_CALLS = "api_calls"
    DOCUMENT_ANALYSIS = "document_analysis"


class EntitlementGrantRequest(Struct, frozen=True, kw_only=True):
    """A grant to ``user_id``, or to ``subject_type`` and ``subject_id``.

    The fields are those of `contracts.http.GrantRequest`.
    """

    user_id: Id | None = None
    subject_type: http.SubjectType | None = None
    subject_id: Id | None = None
    entitlement_type: EntitlementType | http.EntitlementType
    grant_reason: GrantReason | http.GrantReason
    credit_type: str | None = None
    metric: str | None = None
    feature: str | None = None
    product_id: Id | None = None
    tier_id: Id | None = None
    subscription_id: Id | None = None
    quantity_granted: int | None = None
    consumption_type: ConsumptionType | http.ConsumptionType | None = None
    priority: int = 50
    granted_at: datetime | None = None
    expires_at: datetime | None = None
    reference_id: str | None = None
    cost_microcents: int | None = None
    notes: str | None = None
    entitlement_metadata: Mapping[str, Any] | None = None


class EntitlementCheckRequest(Struct, frozen=True, kw_only=True):
    """A check of a user, and of an org if given; omitted fields match everything.

    The fields are those of `contracts.http.AccessRequest`.
    """

    user_id: Id
    org_id: Id | None = None
    entitlement_type: EntitlementType | http.EntitlementType
    credit_type: str | None = None
    metric: str | None = None
    feature: str | None = None
    product_id: Id | None = None
    tier_id: Id | None = None
    subscription_id: Id | None = None
    required_quantity: int | None = None


class EntitlementConsumptionRequest(Struct, frozen=True, kw_only=True):
    """A consumption of credits of a type, or of allowances of a metric.

    The fields are those of `contracts.http.SpendRequest`.
    """

    user_id: Id
    org_id: Id | None = None
    entitlement_type: EntitlementType | http.ConsumableType
    credit_type: str | None = None
    metric: str | None = None
    quantity_to_consume: int
    usage_context: Mapping[str, Any] | None = None


class EntitlementService:
    """Checks, grants, consumption and revocation of entitlements on an engine or client.

    Requests are objects, or their fields as keyword arguments. ``db`` can be another engine or
    client for one call; any other value, such as a database session, is not used: each change is
    committed before its call returns. Without an engine or client it uses the one of
    `entitlements.configure`; without that, calls raise RuntimeError.

    ``lifecycle_handler_name`` names the class of ``lifecycle_handler``, by default
    `EntitlementLifecycleHandler`. Raise LookupError for an unknown name.
    """

    def __init__(
        self,
        entitlements: Entitlements | None = None,
        *,
        lifecycle_handler_name: str | None = None,
    ) -> None:
        self._entitlements = entitlements
        handler: Callable[..., EntitlementLifecycleHandler] = EntitlementLifecycleHandler
        if lifecycle_handler_name is not None:
            handler = _handler(lifecycle_handler_name)
        self.lifecycle_handler: EntitlementLifecycleHandler = handler(self)

    async def check_entitlement(
        self, request: EntitlementCheckRequest | None = None, db: object = None, **fields: Any
    ) -> http.AccessResponse:
        """Check whether a user has an entitlement, by themselves or by an org."""
        asked = _request(EntitlementCheckRequest, request, fields)
        return await self.entitlements(db).check_access(**asdict(asked))

    async def grant_entitlement(
        self,
        request: EntitlementGrantRequest | None = None,
        db: object = None,
        *,
        key: str | None = None,
        **fields: Any,
    ) -> UserEntitlementRead:
        """Grant an entitlement; a repeat with the same idempotency ``key`` grants nothing more."""
        asked = asdict(_request(EntitlementGrantRequest, request, fields))
        return await self.entitlements(db).grant(
            quantity=asked.pop("quantity_granted"),
            metadata=asked.pop("entitlement_metadata"),
            key=key,
            **asked,
        )

    async def consume_entitlement(
        self,
        request: EntitlementConsumptionRequest | None = None,
        db: object = None,
        *,
        key: str | None = None,
        **fields: Any,
    ) -> list[http.UsageRecord]:
        """Consume a quantity in burn order and return what each grant paid.

        A repeat with the same idempotency ``key`` consumes nothing more. Raise
        InsufficientCreditsError, with nothing taken, if no candidate has all of the quantity.
        """
        asked = asdict(_request(EntitlementConsumptionRequest, request, fields))
        spent = await self.entitlements(db).spend(
            asked.pop("quantity_to_consume"), key=key, **asked
        )
        return spent.usage_records

    async def revoke_entitlement(
        self, entitlement_id: Id, db: object = None, reason: str | None = None
    ) -> UserEntitlementRead:
        """Revoke a grant; one that has ended does not change. Raise NotFound."""
        return await self.entitlements(db).revoke(str(entitlement_id), reason=reason)

    async def revoke_entitlements_by_reference(
        self, reference_id: str, db: object = None, reason: str | None = None
    ) -> list[UserEntitlementRead]:
        """Revoke every grant with a reference; return those that had not ended before."""
        answer = await self.entitlements(db).revoke_reference(reference_id, reason=reason)
        return answer.revoked

    async def get_user_summary(self, user_id: Id, db: object = None) -> http.SummaryResponse:
        """Return a summary of a user: entitlements, credits and their use."""
        return await self.entitlements(db).summary(subject_id=user_id)

    def entitlements(self, db: object) -> Entitlements:
        """Return ``db`` if it is an engine or client, else that of the service or the process."""
        if isinstance(db, Entitlements):
            return db
        return self._entitlements or configured()


class EntitlementLifecycleHandler:
    """The changes of entitlements that follow those of a subscription.

    This class revokes a subscription's grants, whose reference is its id, when it is cancelled or
    expires. Override a method to do something else; each returns the grants that it changed. ``db``
    is as for `EntitlementService`; ``context`` has further facts, such as the ``user_id``.
    """

    def __init__(self, entitlement_service: EntitlementService) -> None:
        self.entitlement_service = entitlement_service

    async def handle_subscription_activated(
        self, subscription_id: str, db: object = None, **context: Any
    ) -> list[UserEntitlementRead]:
        """Change nothing."""
        return []

    async def handle_subscription_changed(
        self, subscription_id: str, db: object = None, **context: Any
    ) -> list[UserEntitlementRead]:
        """Change nothing."""
        return []

    async def handle_subscription_past_due(
        self, subscription_id: str, db: object = None, **context: Any
    ) -> list[UserEntitlementRead]:
        """Change nothing: the grants stay until the subscription expires."""
        return []

    async def handle_subscription_cancelled(
        self, subscription_id: str, db: object = None, **context: Any
    ) -> list[UserEntitlementRead]:
        """Revoke the subscription's grants."""
        return await self.entitlement_service.revoke_entitlements_by_reference(
            subscription_id, db, reason="subscription cancelled"
        )

    async def handle_subscription_expired(
        self, subscription_id: str, db: object = None, **context: Any
    ) -> list[UserEntitlementRead]:
        """As `handle_subscription_cancelled`."""
        return await self.handle_subscription_cancelled(subscription_id, db=db, **context)


class RuleHandler(EntitlementLifecycleHandler):
    """Ends a subscription by a rule of the ledger instead of its plan's."""

    def __init__(self, entitlement_service: EntitlementService, rule: str) -> None:
        super().__init__(entitlement_service)
        self.rule = rule

    async def handle_subscription_cancelled(
        self, subscription_id: str, db: object = None, **context: Any
    ) -> list[UserEntitlementRead]:
        """Cancel the subscription, and return what that revoked. Raise NotFound."""
        on = self.entitlement_service.entitlements(db)
        ended = await on.cancel_subscription(subscription_id, lifecycle=self.rule)
        return [await on.entitlement(one) for one in ended.revoked]

    async def handle_subscription_expired(
        self, subscription_id: str, db: object = None, **context: Any
    ) -> list[UserEntitlementRead]:
        """Expire the subscription, and return what that revoked. Raise NotFound."""
        on = self.entitlement_service.entitlements(db)
        ended = await on.expire_subscription(subscription_id, lifecycle=self.rule)
        return [await on.entitlement(one) for one in ended.revoked]


def _handler(name: str) -> Callable[..., EntitlementLifecycleHandler]:
    """Return what creates the handler. Raise LookupError for an unknown name."""
    if name.partition("(")[0] in BUILT_IN:
        return partial(RuleHandler, rule=name)
    return handler_class(name)


def _request(kind: type[R], given: R | None, fields: Mapping[str, Any]) -> R:
    """Return the request, or one with the fields. Raise TypeError if both are given."""
    if given is None:
        return kind(**fields)
    if fields:
        raise TypeError(f"pass a {kind.__name__} or its fields, not both")
    return given
