"""Routes for webhooks and their deliveries."""

from typing import Final

from msgspec import UNSET

from entitlements.app.access.keys import Role
from entitlements.app.webhooks.endpoints import Wanted
from entitlements.app.webhooks.store import Delivery, Endpoint
from entitlements.contracts.http.webhooks import (
    WebhookChangeRequest,
    WebhookDeleteQuery,
    WebhookDeliveriesQuery,
    WebhookDeliveriesResponse,
    WebhookDeliveryItem,
    WebhookDeliveryResponse,
    WebhookItem,
    WebhookRequest,
    WebhookResponse,
    WebhookRetryRequest,
    WebhookRotateRequest,
    WebhookSecretResponse,
    WebhooksResponse,
    WebhookTestResponse,
)
from entitlements.transports.http.request import HttpRequest, Reply
from entitlements.transports.http.routes import Content, Route, roles


async def create_webhook(request: HttpRequest, body: WebhookRequest) -> Reply:
    endpoint, secret = await request.service.webhooks.create(
        body.url, body.events, body.description, request.act(body.reason)
    )
    return Reply(_with_secret(request, endpoint, secret), 201)


async def list_webhooks(request: HttpRequest, _: None) -> Reply:
    found = [_item(request, one) for one in await request.service.webhooks.all()]
    return Reply(
        WebhooksResponse(webhooks=found, count=len(found), correlation_id=request.correlation_id)
    )


async def show_webhook(request: HttpRequest, _: None) -> Reply:
    return _shown(request, await request.service.webhooks.show(_id(request)))


async def change_webhook(request: HttpRequest, body: WebhookChangeRequest) -> Reply:
    wanted = Wanted(
        url=None if body.url is UNSET else body.url,
        events=None if body.events is UNSET else body.events,
        description=None if body.description is UNSET else body.description or "",
        active=None if body.active is UNSET else body.active,
    )
    act = request.act(body.reason)
    return _shown(request, await request.service.webhooks.change(_id(request), wanted, act))


async def rotate_webhook_secret(request: HttpRequest, body: WebhookRotateRequest) -> Reply:
    endpoint, secret = await request.service.webhooks.rotate(
        _id(request), body.overlap_seconds, request.act(body.reason)
    )
    return Reply(_with_secret(request, endpoint, secret))


async def delete_webhook(request: HttpRequest, _: None) -> Reply:
    webhooks, webhook_id = request.service.webhooks, _id(request)
    endpoint = await webhooks.show(webhook_id)
    reason = request.query(WebhookDeleteQuery).reason
    await webhooks.delete(webhook_id, request.act(reason))
    return _shown(request, endpoint)


async def ping_webhook(request: HttpRequest, _: None) -> Reply:
    pinged = await request.service.webhooks.test(_id(request), request.act())
    return Reply(
        WebhookTestResponse(
            delivered=pinged.error is None,
            status=pinged.status,
            error=pinged.error,
            event_id=pinged.event_id,
            correlation_id=request.correlation_id,
        )
    )


async def webhook_deliveries(request: HttpRequest, _: None) -> Reply:
    wanted = request.query(WebhookDeliveriesQuery)
    found = await request.service.webhooks.deliveries(
        _id(request), wanted.state, wanted.limit, wanted.cursor
    )
    return Reply(
        WebhookDeliveriesResponse(
            deliveries=[_delivery(one) for one in found.rows],
            count=len(found.rows),
            next_cursor=found.next,
            correlation_id=request.correlation_id,
        )
    )


async def retry_webhook_delivery(request: HttpRequest, body: WebhookRetryRequest) -> Reply:
    event_id = request.params["event_id"]
    act = request.act(body.reason)
    delivery = await request.service.webhooks.retry(_id(request), event_id, act)
    return Reply(
        WebhookDeliveryResponse(delivery=_delivery(delivery), correlation_id=request.correlation_id)
    )


def _id(request: HttpRequest) -> str:
    return request.params["webhook_id"]


def _with_secret(request: HttpRequest, endpoint: Endpoint, secret: str) -> WebhookSecretResponse:
    return WebhookSecretResponse(
        webhook=_item(request, endpoint), secret=secret, correlation_id=request.correlation_id
    )


def _shown(request: HttpRequest, endpoint: Endpoint) -> Reply:
    return Reply(
        WebhookResponse(webhook=_item(request, endpoint), correlation_id=request.correlation_id)
    )


def _item(request: HttpRequest, endpoint: Endpoint) -> WebhookItem:
    return WebhookItem(
        id=endpoint.id,
        url=endpoint.url,
        events=list(endpoint.events),
        description=endpoint.description,
        active=endpoint.active,
        disabled_because=endpoint.disabled_because,
        failing_since=endpoint.failing_since,
        rotating_until=request.service.webhooks.rotating_until(endpoint),
        created_at=endpoint.created_at,
        created_by=endpoint.created_by,
    )


def _delivery(delivery: Delivery) -> WebhookDeliveryItem:
    return WebhookDeliveryItem(
        event_id=delivery.event_id,
        event_type=delivery.event_type,
        state=delivery.state,
        attempts=delivery.attempts,
        next_at=delivery.next_at if delivery.state == "pending" else None,
        last_status=delivery.last_status,
        last_error=delivery.last_error,
        created_at=delivery.created_at,
        delivered_at=delivery.delivered_at,
    )


_ADMIN: Final = roles(Role.ADMIN)
_READERS: Final = roles(Role.READER, Role.OPERATOR)
_ONE: Final = "/v1/admin/webhooks/{webhook_id}"
_ITEM: Final = {
    "id": "0198c1f2-8a52-7c1e-9d5e-2f6a4c1b7e90",
    "url": "https://school.example/hooks/credits",
    "events": ["huleedu.entitlements.credit.*"],
    "description": "balances in the school's dashboard",
    "active": True,
    "disabled_because": None,
    "failing_since": None,
    "rotating_until": None,
    "created_at": "2026-09-01T08:00:00Z",
    "created_by": "0197f0c2-5d2e-7d5c-9a53-0c8f6f1c2b7a",
}
_ANSWER: Final = {"webhook": _ITEM, "correlation_id": "hooks-1"}
_WITH_SECRET: Final = {**_ANSWER, "secret": "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"}
_DELIVERY: Final = {
    "event_id": "0198c1f2-9b07-7d3a-8c55-0d0f6f0b1c2d",
    "event_type": "huleedu.entitlements.credit.balance.changed.v1",
    "state": "pending",
    "attempts": 2,
    "next_at": "2026-09-01T08:00:20Z",
    "last_status": 503,
    "last_error": "HTTP 503",
    "created_at": "2026-09-01T08:00:00Z",
    "delivered_at": None,
}
ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/admin/webhooks",
        handler=create_webhook,
        rule=_ADMIN,
        tag="webhooks",
        summary="Create a webhook for new events; the response shows its signing secret, once.",
        request=Content(
            WebhookRequest,
            {
                "url": "https://school.example/hooks/credits",
                "events": ["huleedu.entitlements.credit.*"],
                "description": "balances in the school's dashboard",
            },
        ),
        responses={201: Content(WebhookSecretResponse, _WITH_SECRET)},
        problems=(409,),
    ),
    Route(
        method="GET",
        path="/v1/admin/webhooks",
        handler=list_webhooks,
        rule=_READERS,
        tag="webhooks",
        summary="List all webhooks, without their secrets.",
        responses={
            200: Content(
                WebhooksResponse, {"webhooks": [_ITEM], "count": 1, "correlation_id": "hooks-1"}
            )
        },
    ),
    Route(
        method="GET",
        path=_ONE,
        handler=show_webhook,
        rule=_READERS,
        tag="webhooks",
        summary="Get a webhook, without its secret.",
        responses={200: Content(WebhookResponse, _ANSWER)},
        problems=(404,),
    ),
    Route(
        method="PATCH",
        path=_ONE,
        handler=change_webhook,
        rule=_ADMIN,
        tag="webhooks",
        summary="Change a webhook; pause it with `active` false.",
        request=Content(WebhookChangeRequest, {"active": False, "reason": "the receiver moves"}),
        responses={200: Content(WebhookResponse, _ANSWER)},
        problems=(404, 409),
    ),
    Route(
        method="DELETE",
        path=_ONE,
        handler=delete_webhook,
        rule=_ADMIN,
        tag="webhooks",
        summary="Delete a webhook; pending deliveries are dropped.",
        query=WebhookDeleteQuery,
        responses={200: Content(WebhookResponse, _ANSWER)},
        problems=(404,),
    ),
    Route(
        method="POST",
        path=f"{_ONE}/rotate-secret",
        handler=rotate_webhook_secret,
        rule=_ADMIN,
        tag="webhooks",
        summary="Rotate the secret; the new one is shown once, and earlier ones sign for a while.",
        request=Content(WebhookRotateRequest, {"overlap_seconds": 86_400}),
        responses={200: Content(WebhookSecretResponse, _WITH_SECRET)},
        problems=(404, 409),
    ),
    Route(
        method="POST",
        path=f"{_ONE}/test",
        handler=ping_webhook,
        rule=_ADMIN,
        tag="webhooks",
        summary="Send a test event now, once, and return the result.",
        responses={
            200: Content(
                WebhookTestResponse,
                {
                    "delivered": False,
                    "status": 500,
                    "error": "HTTP 500",
                    "event_id": "0198c1f2-9b07-7d3a-8c55-0d0f6f0b1c2d",
                    "correlation_id": "hooks-1",
                },
            )
        },
        problems=(404,),
    ),
    Route(
        method="GET",
        path=f"{_ONE}/deliveries",
        handler=webhook_deliveries,
        rule=_READERS,
        tag="webhooks",
        summary="List the deliveries of a webhook, newest first.",
        query=WebhookDeliveriesQuery,
        responses={
            200: Content(
                WebhookDeliveriesResponse,
                {
                    "deliveries": [_DELIVERY],
                    "count": 1,
                    "next_cursor": None,
                    "correlation_id": "hooks-1",
                },
            )
        },
        problems=(404,),
    ),
    Route(
        method="POST",
        path=f"{_ONE}/deliveries/{{event_id}}/retry",
        handler=retry_webhook_delivery,
        rule=roles(Role.OPERATOR),
        tag="webhooks",
        summary="Retry the delivery of an event, in any state.",
        request=Content(WebhookRetryRequest, {"reason": "the receiver had a bug"}),
        responses={
            200: Content(
                WebhookDeliveryResponse, {"delivery": _DELIVERY, "correlation_id": "hooks-1"}
            )
        },
        problems=(404,),
    ),
)
