"""Routes for health, liveness, readiness and metrics."""

from typing import Final

from prometheus_client import generate_latest

from entitlements.contracts.http import HealthResponse, ProbeResponse
from entitlements.observe.health import failing, health, summary
from entitlements.observe.metrics import CONTENT_TYPE
from entitlements.transports.http.request import HttpRequest, Reply
from entitlements.transports.http.routes import Content, Open, Route
from entitlements.version import VERSION


async def healthz(request: HttpRequest, _: None) -> Reply:
    service = request.service
    checks = await health(service.engine, service.deliverer)
    settings = service.settings
    response = summary(checks, service=settings.service_name, environment=settings.environment)
    return Reply(response, 503 if failing(checks) else 200)


async def livez(_request: HttpRequest, _: None) -> Reply:
    """Return 200: the event loop runs. No other check is made."""
    return Reply(ProbeResponse(status="alive"))


async def readyz(request: HttpRequest, _: None) -> Reply:
    service = request.service
    if service.stopping.is_set():
        return Reply(ProbeResponse(status="not_ready"), 503)
    checks = await health(service.engine, service.deliverer)
    if failing(checks) or not service.engine.committer.running:
        return Reply(ProbeResponse(status="not_ready"), 503)
    return Reply(ProbeResponse(status="ready"))


async def metrics(request: HttpRequest, _: None) -> Reply:
    service = request.service
    text = await service.metrics() if service.metrics else generate_latest(service.registry)
    return Reply(text, content_type=CONTENT_TYPE)


def _health(database: str) -> dict[str, object]:
    return {
        "service": "entitlements",
        "status": database,
        "message": "required parts are healthy" if database == "healthy" else "failing: database",
        "version": VERSION,
        "checks": {"database": {"status": database, "message": ""}},
        "environment": "production",
    }


_PROBE: Final = Open("probes carry no credentials, and the response names no subject")
METRICS: Final = Route(
    method="GET",
    path="/metrics",
    handler=metrics,
    rule=Open("labels name no subject; restrict access to it in the network"),
    any_host=True,
    tag="health",
    summary="Metrics in Prometheus' text format.",
    responses={200: None},
)
ROUTES: Final = (
    Route(
        method="GET",
        path="/healthz",
        handler=healthz,
        rule=_PROBE,
        any_host=True,
        tag="health",
        summary="Get the health of all parts.",
        responses={
            200: Content(HealthResponse, _health("healthy")),
            503: Content(HealthResponse, _health("unhealthy")),
        },
    ),
    Route(
        method="GET",
        path="/livez",
        handler=livez,
        rule=_PROBE,
        any_host=True,
        tag="health",
        summary="Check that the process is alive.",
        responses={200: Content(ProbeResponse, {"status": "alive"})},
    ),
    Route(
        method="GET",
        path="/readyz",
        handler=readyz,
        rule=_PROBE,
        any_host=True,
        tag="health",
        summary="Check that the process can take requests.",
        responses={
            200: Content(ProbeResponse, {"status": "ready"}),
            503: Content(ProbeResponse, {"status": "not_ready"}),
        },
    ),
    METRICS,
)
