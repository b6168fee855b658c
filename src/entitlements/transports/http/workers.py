"""The HTTP app of background workers: probes and metrics."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from starlette.types import ASGIApp, Receive, Scope, Send

from entitlements.app.outbox.relay import Relay
from entitlements.app.ports import Backlog
from entitlements.app.webhooks.deliverer import Deliverer
from entitlements.contracts.http import HealthCheck, ProbeResponse
from entitlements.observe.gauges import OutboxMetrics, WebhookMetrics
from entitlements.observe.health import failing, summary
from entitlements.observe.metrics import CONTENT_TYPE
from entitlements.transports.http.request import JSON

NOT_FOUND: Final = (404, JSON, b"{}")
NOT_ALLOWED: Final = (405, JSON, b"{}")
Answer = tuple[int, bytes, bytes]


@dataclass(frozen=True, kw_only=True)
class Worker:
    """The collaborators of the app. Other parts add metrics to ``registry``.

    ``health`` returns one entry per part.
    """

    name: str
    environment: str
    backlog: Callable[[], Backlog | None]
    relay: Relay | None
    clock: Callable[[], datetime]
    health: Callable[[], Awaitable[Mapping[str, HealthCheck]]]
    deliverer: Deliverer | None = None
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)


def create_app(worker: Worker) -> ASGIApp:
    """Return the app with ``/livez``, ``/readyz``, ``/healthz`` and ``/metrics``, GET and HEAD."""
    worker.registry.register(OutboxMetrics(worker.backlog, worker.relay, worker.clock))
    if worker.deliverer is not None:
        worker.registry.register(WebhookMetrics(worker.deliverer))

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        method = scope["method"]
        known = method in ("GET", "HEAD")
        status, content_type, body = await _answer(worker, scope["path"]) if known else NOT_ALLOWED
        headers = [
            (b"content-type", content_type),
            (b"content-length", str(len(body)).encode()),
            *([] if known else [(b"allow", b"GET, HEAD")]),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})

    return app


async def _answer(worker: Worker, path: str) -> Answer:
    match path:
        case "/livez":
            return 200, JSON, msgspec.json.encode(ProbeResponse(status="alive"))
        case "/readyz":
            is_failing = bool(failing(await worker.health()))
            probe = ProbeResponse(status="not_ready" if is_failing else "ready")
            return 503 if is_failing else 200, JSON, msgspec.json.encode(probe)
        case "/healthz":
            return await _health(worker)
        case "/metrics":
            return 200, CONTENT_TYPE, generate_latest(worker.registry)
        case _:
            return NOT_FOUND


async def _health(worker: Worker) -> Answer:
    checks = await worker.health()
    response = summary(checks, service=worker.name, environment=worker.environment)
    return 503 if failing(checks) else 200, JSON, msgspec.json.encode(response)
