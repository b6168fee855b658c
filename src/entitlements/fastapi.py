"""Credits for FastAPI's endpoints: dependencies that set credits aside before the handler runs.

`install` says who is asked. What is refused is a problem with the status 402, 429 or 503; a
dependency cannot add to your OpenAPI document, so give routes or routers ``responses=RESPONSES``.
Needs the extra ``fastapi``.
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
from entitlements.contracts.errors import (
    InsufficientCredits,
    PolicyDenied,
    RateLimited,
    Refused,
    Unavailable,
    denied,
)
from entitlements.contracts.http import BulkCheckResponse
from entitlements.contracts.problem import Problem
from entitlements.holding import Held, holding, holds_ended

__all__ = [
    "RESPONSES",
    "Charge",
    "Held",
    "hold_credits",
    "install",
    "require_credits",
    "require_feature",
    "require_variable_credits",
]

Dependency = Callable[..., Any]
Cost = Callable[[Request, Any], int | Awaitable[int]]
Requirements = Callable[[Request, Any], Mapping[str, int] | Awaitable[Mapping[str, int]]]
Reason = Refused | Unavailable

RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    status: {"description": description, "content": {"application/problem+json": {}}}
    for status, description in (
        (402, "Credits are missing: `data` says what is required and what is available."),
        (429, "A rate limit is exceeded: `data` says which, and Retry-After when it passes."),
        (503, "Nobody can tell now; the same again may pass."),
    )
}
"""For ``responses=`` of the routes that have one of these dependencies."""


@dataclass(frozen=True, slots=True)
class Charge(Mapping[str, Any]):
    """What the request pays, by attributes or by keys. ``transaction_id`` is the id of the hold,
    None where it is free; ``remaining_balance`` is what the payer can still spend.
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


class _NotPaid(Exception):
    """Why the handler does not run."""

    def __init__(self, reason: Reason, description: str) -> None:
        super().__init__(f"{description}: {reason}")
        self.reason = reason
        self.description = description


def install(
    app: FastAPI, entitlements: Entitlements | AbstractAsyncContextManager[Entitlements]
) -> None:
    """Let the app's dependencies ask ``entitlements``; what has to be opened, such as
    ``Entitlements.open(url)`` or a client, is open as long as the app runs.
    """
    app.add_exception_handler(_NotPaid, _problem)
    if not isinstance(entitlements, AbstractAsyncContextManager):
        app.state.entitlements = entitlements
        return
    within = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(running: FastAPI) -> AsyncIterator[Any]:
        async with entitlements as opened:
            app.state.entitlements = opened
            async with within(running) as state:
                yield state
            await holds_ended()

    app.router.lifespan_context = lifespan


def require_credits(
    credit_type: str,
    cost: int,
    description: str,
    *,
    user: Dependency,
    org: Dependency | None = None,
    refund_on_error: bool = True,
    ttl_s: int = 300,
    extend_for_s: int = 3600,
) -> Dependency:
    """Gives the handler a `Charge`: ``cost`` credits are set aside before it runs, and taken once
    it has succeeded; with ``refund_on_error`` false whatever becomes of it.

    ``user`` and ``org`` are dependencies that give an id, or something that has an ``id``. The
    hold is extended while the handler runs, as by `entitlements.holding.holding`.
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
    user: Dependency,
    org: Dependency | None = None,
    refund_on_error: bool = True,
    ttl_s: int = 300,
    extend_for_s: int = 3600,
) -> Dependency:
    """As `require_credits`, at the cost that ``cost_calculator(request, user)`` returns, or that
    it returns an awaitable of.
    """

    async def paid(
        request: Request,
        who: Any = Depends(user),
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
    description: str,
    *,
    user: Dependency,
    org: Dependency | None = None,
    units: int = 1,
) -> Dependency:
    """Gives the handler the check's answer, and lets it run only if that allows ``units`` of the
    ``feature``, a metric of the policy. Nothing is held or charged.
    """

    async def allowed(
        request: Request,
        who: Any = Depends(user),
        whose: Any = Depends(org or _no_org),
    ) -> BulkCheckResponse:
        try:
            answer = await _service(request).check_all(
                {feature: units}, user_id=_id(who), org_id=_optional_id(whose)
            )
        except Unavailable as reason:
            raise _NotPaid(reason, description) from reason
        if not answer.allowed:
            raise _NotPaid(denied(answer), description)
        return answer

    return allowed


def hold_credits(
    requirements: Mapping[str, int] | Requirements,
    description: str,
    *,
    user: Dependency,
    org: Dependency | None = None,
    ttl_s: int = 300,
    extend_for_s: int = 3600,
) -> Dependency:
    """Gives the handler a `Held`, for work that tells as it goes what it uses: a stream.

    Units by metric, or what ``requirements(request, user)`` gives of them, are set aside before
    the handler runs. When the response is over, however it ended, what was told by ``use`` is
    paid and the rest given back: a stream that broke off pays for what it delivered.
    """

    async def held_for(
        request: Request,
        who: Any = Depends(user),
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
    """The hold; what refuses it becomes the request's answer."""
    async with AsyncExitStack() as stack:
        try:
            held = await stack.enter_async_context(hold)
        except (InsufficientCredits, PolicyDenied, RateLimited, Unavailable) as reason:
            raise _NotPaid(reason, description) from reason
        yield held


async def _problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, _NotPaid), error
    reason = error.reason
    refusal = reason if isinstance(reason, Refused) else None
    status = refusal.status if refusal else HTTPStatus.SERVICE_UNAVAILABLE
    wait_s = reason.retry_after_s
    problem = Problem(
        type=f"urn:entitlements:problem:{reason.code}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=f"{error.description}: {reason.detail}",
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


def _service(request: Request) -> Entitlements:
    service = getattr(request.app.state, "entitlements", None)
    if not isinstance(service, Entitlements):
        raise RuntimeError("call entitlements.fastapi.install(app, entitlements) first")  # noqa: TRY004
    return service


async def _value(given: Any) -> Any:
    return await given if inspect.isawaitable(given) else given


def _no_org() -> None:
    """Nobody else pays."""


def _id(named: Any) -> str | int:
    """The id of a user or org that is one, has it under ``id``, or as an attribute."""
    if isinstance(named, str | int):
        return named
    name: str | int = named["id"] if isinstance(named, Mapping) else named.id
    return name


def _optional_id(named: Any) -> str | int | None:
    return None if named is None else _id(named)
