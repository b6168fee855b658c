"""Dependencies for FastAPI endpoints that cost credits or need an entitlement.

`install` configures the engine or client, and names the user. A refused request gets a problem with
status 402, 403, 429 or 503. A dependency cannot extend your OpenAPI document, so pass
``responses=RESPONSES`` to routes or routers. Needs the extra ``fastapi``.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, fields
from http import HTTPStatus
from typing import Any, Final

import msgspec
from fastapi import Depends, FastAPI, Request
from fastapi.responses import Response

from entitlements.api import Entitlements
from entitlements.configured import configure
from entitlements.contracts import http
from entitlements.contracts.errors import (
    Forbidden,
    InsufficientCredits,
    PolicyDenied,
    RateLimited,
    Refused,
    Unavailable,
    denied,
)
from entitlements.contracts.problem import Problem
from entitlements.core.reasons import EntitlementType
from entitlements.holding import Held, holding, holds_ended

__all__ = [
    "RESPONSES",
    "Charge",
    "Held",
    "hold_credits",
    "install",
    "require_credits",
    "require_entitlement",
    "require_feature",
    "require_metric",
    "require_variable_credits",
]

Dependency = Callable[..., Any]
Cost = Callable[[Request, Any], int | Awaitable[int]]
Requirements = Callable[[Request, Any], Mapping[str, int] | Awaitable[Mapping[str, int]]]
Reason = Refused | Unavailable

RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    status: {"description": description, "content": {"application/problem+json": {}}}
    for status, description in (
        (402, "Insufficient credits: `data` has the required and the available credits."),
        (403, "The user lacks an entitlement: `data` names it."),
        (429, "A rate limit is exceeded: `data` has the limit, and Retry-After the time to wait."),
        (503, "The service is unavailable; retry."),
    )
}
"""The ``responses=`` of routes with one of these dependencies."""


@dataclass(frozen=True, slots=True)
class Charge(Mapping[str, Any]):
    """The charge of the request; fields are attributes and mapping keys.

    ``transaction_id`` is the id of the hold, or None if the request is free. ``remaining_balance``
    is the payer's available credits.
    """

    credits_consumed: int
    remaining_balance: int
    transaction_id: str | None
    credit_type: str

    def __getitem__(self, name: str) -> Any:
        return asdict(self)[name]

    def __iter__(self) -> Iterator[str]:
        return (field.name for field in fields(self))

    def __len__(self) -> int:
        return len(fields(self))


class _Denied(Exception):
    """Raised when a dependency refuses the request, so that the handler does not run."""

    def __init__(self, reason: Reason, description: str | None) -> None:
        super().__init__(f"{description}: {reason}" if description else str(reason))
        self.reason = reason


def install(
    app: FastAPI,
    entitlements: Entitlements | AbstractAsyncContextManager[Entitlements],
    *,
    user: Dependency | None = None,
    org: Dependency | None = None,
) -> None:
    """Configure the app's dependencies to use ``entitlements``.

    A context, such as ``Entitlements.open(url)`` or a client, is opened when the app starts and
    closed when it stops. ``user`` and ``org`` are the defaults of these parameters of the other
    functions. The engine or client is also that of `entitlements.configure`.
    """
    app.add_exception_handler(_Denied, _problem)
    if user is not None:
        app.dependency_overrides[_no_user] = user
    if org is not None:
        app.dependency_overrides[_no_org] = org
    if not isinstance(entitlements, AbstractAsyncContextManager):
        _use(app, entitlements)
        return
    within = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(running: FastAPI) -> AsyncIterator[Any]:
        async with entitlements as opened:
            _use(app, opened)
            async with within(running) as state:
                yield state
            await holds_ended()

    app.router.lifespan_context = lifespan


def require_credits(
    credit_type: str,
    cost: int,
    description: str,
    *,
    user: Dependency | None = None,
    org: Dependency | None = None,
    refund_on_error: bool = True,
    ttl_s: int = 300,
    extend_for_s: int = 3600,
) -> Dependency:
    """Return a dependency that charges ``cost`` credits and passes a `Charge` to the handler.

    The credits are held before the handler runs and charged when it succeeds; with
    ``refund_on_error`` false also when it fails. ``user`` and ``org`` are dependencies that return
    an id, or an object or mapping with ``id``; without them, those of `install` apply. The hold is
    extended while the handler runs, as by `entitlements.holding.holding`.
    """
    return require_variable_credits(
        credit_type,
        lambda _request, _user: cost,
        description,
        user=user,
        org=org,
        refund_on_error=refund_on_error,
        ttl_s=ttl_s,
        extend_for_s=extend_for_s,
    )


def require_variable_credits(
    credit_type: str,
    cost_calculator: Cost,
    description: str,
    *,
    user: Dependency | None = None,
    org: Dependency | None = None,
    refund_on_error: bool = True,
    ttl_s: int = 300,
    extend_for_s: int = 3600,
) -> Dependency:
    """Return a dependency as `require_credits`, with a cost that is computed per request.

    ``cost_calculator(request, user)`` returns the cost; it can be async.
    """

    async def paid(
        request: Request,
        who: Any = Depends(user or _no_user),
        whose: Any = Depends(org or _no_org),
    ) -> AsyncIterator[Charge]:
        service = _service(request)
        cost = await _value(cost_calculator(request, who))
        user_id, org_id = _id(who), _optional_id(whose)
        async with AsyncExitStack() as stack:
            held = None
            if cost:
                hold = holding(
                    service,
                    user_id=user_id,
                    org_id=org_id,
                    credits=cost,
                    credit_type=credit_type,
                    ttl_s=ttl_s,
                    extend_for_s=extend_for_s,
                )
                held = await stack.enter_async_context(_paying(hold, description))
            balance = await service.balance(user_id, org_id=org_id)
            wallets = balance.by_credit_type.get(credit_type, {})
            wallet = wallets.get((held.taken.source if held else None) or "user")
            if held and not refund_on_error:
                held.use_credits(cost)
            yield Charge(
                credits_consumed=cost,
                remaining_balance=wallet.available if wallet else 0,
                transaction_id=held.taken.hold_id if held else None,
                credit_type=credit_type,
            )
            if held and refund_on_error:
                held.use_credits(cost)

    return paid


def require_feature(
    feature: str,
    description: str | None = None,
    *,
    user: Dependency | None = None,
    org: Dependency | None = None,
) -> Dependency:
    """Return a dependency that lets the handler run only for users who have the feature.

    It is `require_entitlement` of a ``feature_unlock``.
    """
    return require_entitlement(
        EntitlementType.FEATURE_UNLOCK, description, feature=feature, user=user, org=org
    )


def require_entitlement(
    entitlement_type: EntitlementType | http.EntitlementType,
    description: str | None = None,
    *,
    credit_type: str | None = None,
    metric: str | None = None,
    feature: str | None = None,
    product_id: str | int | None = None,
    tier_id: str | int | None = None,
    required_quantity: int | None = None,
    user: Dependency | None = None,
    org: Dependency | None = None,
) -> Dependency:
    """Return a dependency that lets the handler run only with the entitlement, the user's or org's.

    Omitted fields match everything. Without ``required_quantity`` (default: 1) of credits or an
    allowance the request is refused with 402, without another entitlement with 403. The handler
    gets the check's response. Nothing is held or charged. Raise ValueError for an unknown type.
    """
    kind = EntitlementType(entitlement_type)
    wanted: dict[str, Any] = {
        "credit_type": credit_type,
        "metric": metric,
        "feature": feature,
        "product_id": product_id,
        "tier_id": tier_id,
        "required_quantity": required_quantity,
    }

    async def entitled(
        request: Request,
        who: Any = Depends(user or _no_user),
        whose: Any = Depends(org or _no_org),
    ) -> http.AccessResponse:
        try:
            found = await _service(request).check_access(
                kind, user_id=_id(who), org_id=_optional_id(whose), **wanted
            )
        except Unavailable as reason:
            raise _Denied(reason, description) from reason
        if not found.has_access:
            raise _Denied(_missing(kind, wanted, found), description)
        return found

    return entitled


def require_metric(
    metric: str,
    description: str,
    *,
    user: Dependency | None = None,
    org: Dependency | None = None,
    units: int = 1,
) -> Dependency:
    """Return a dependency that lets the handler run only if ``units`` of a metric are allowed.

    The handler gets the check's response. Nothing is held or charged.
    """

    async def allowed(
        request: Request,
        who: Any = Depends(user or _no_user),
        whose: Any = Depends(org or _no_org),
    ) -> http.BulkCheckResponse:
        try:
            answer = await _service(request).check_all(
                {metric: units}, user_id=_id(who), org_id=_optional_id(whose)
            )
        except Unavailable as reason:
            raise _Denied(reason, description) from reason
        if not answer.allowed:
            raise _Denied(denied(answer), description)
        return answer

    return allowed


def hold_credits(
    requirements: Mapping[str, int] | Requirements,
    description: str,
    *,
    user: Dependency | None = None,
    org: Dependency | None = None,
    ttl_s: int = 300,
    extend_for_s: int = 3600,
) -> Dependency:
    """Return a dependency that holds credits for a stream and passes a `Held` to the handler.

    The cost of ``requirements`` (units by metric, or a function ``(request, user)`` that returns
    them) is held before the handler runs. The handler reports usage with ``Held.use``. When the
    response ends, successfully or not, that usage is charged and the rest released: a broken
    stream pays for the part that it delivered.
    """

    async def held_for(
        request: Request,
        who: Any = Depends(user or _no_user),
        whose: Any = Depends(org or _no_org),
    ) -> AsyncIterator[Held]:
        wanted = requirements(request, who) if callable(requirements) else requirements
        hold = holding(
            _service(request),
            await _value(wanted),
            user_id=_id(who),
            org_id=_optional_id(whose),
            ttl_s=ttl_s,
            extend_for_s=extend_for_s,
        )
        async with _paying(hold, description) as held:
            yield held

    return held_for


@asynccontextmanager
async def _paying(hold: AbstractAsyncContextManager[Held], description: str) -> AsyncIterator[Held]:
    """Enter the hold; a refusal becomes the response of the request."""
    async with AsyncExitStack() as stack:
        try:
            held = await stack.enter_async_context(hold)
        except (InsufficientCredits, PolicyDenied, RateLimited, Unavailable) as reason:
            raise _Denied(reason, description) from reason
        yield held


def _missing(
    kind: EntitlementType, wanted: Mapping[str, Any], found: http.AccessResponse
) -> Refused:
    """Return the refusal that names the missing entitlement, or the missing quantity."""
    named = {name: value for name, value in wanted.items() if value is not None}
    required = named.pop("required_quantity", 1)
    which = ", ".join(f"{name} {value!r}" for name, value in named.items())
    what = f"{kind} with {which}" if which else kind.value
    data = {"entitlement_type": kind.value, **named}
    if not kind.is_consumable:
        return Forbidden("not_entitled", f"no active {what}", data=data)
    available = found.total_available_quantity
    return InsufficientCredits(
        "insufficient_credits",
        f"{required} required, {available} available: {what}",
        data=data | {"required": required, "available": available},
    )


async def _problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, _Denied), error
    reason = error.reason
    status = reason.status if isinstance(reason, Refused) else HTTPStatus.SERVICE_UNAVAILABLE
    wait_s = reason.retry_after_s
    problem = Problem(
        type=f"urn:entitlements:problem:{reason.code}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=str(error),
        code=reason.code,
        correlation_id=reason.correlation_id or "",
        data=dict(reason.data),
    )
    return Response(
        msgspec.json.encode(problem),
        status,
        headers={"retry-after": str(wait_s)} if wait_s is not None else None,
        media_type="application/problem+json",
    )


def _use(app: FastAPI, entitlements: Entitlements) -> None:
    app.state.entitlements = entitlements
    configure(entitlements)


def _service(request: Request) -> Entitlements:
    service = getattr(request.app.state, "entitlements", None)
    if not isinstance(service, Entitlements):
        raise RuntimeError("call entitlements.fastapi.install(app, entitlements) first")  # noqa: TRY004
    return service


async def _value(given: Any) -> Any:
    return await given if inspect.isawaitable(given) else given


def _no_user() -> Any:
    """Raise RuntimeError; `install` replaces this dependency by its ``user``."""
    raise RuntimeError("name the user: install(app, entitlements, user=…), or user=… here")


def _no_org() -> None:
    """Return None: without an org the user pays. `install` replaces this by its ``org``."""


def _id(named: Any) -> str | int:
    """Return the id of a user or org: the value itself, its key ``id`` or its attribute ``id``."""
    if isinstance(named, str | int):
        return named
    name: str | int = named["id"] if isinstance(named, Mapping) else named.id
    return name


def _optional_id(named: Any) -> str | int | None:
    return None if named is None else _id(named)
