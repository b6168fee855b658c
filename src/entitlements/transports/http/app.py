"""The ASGI application: from the request's bytes to a route, and back.

It is one flat chain of functions instead of a stack of middleware, because every request passes it.
"""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from time import perf_counter
from typing import Final

import msgspec
import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from entitlements.app.access.keys import OpenAccess
from entitlements.app.operations.refusals import LimitRefused
from entitlements.contracts import strict_json
from entitlements.contracts.errors import invalid
from entitlements.contracts.kinds import parameters
from entitlements.contracts.verbs import Keying
from entitlements.observe import gauges, policy_metrics
from entitlements.observe.event_metrics import Events
from entitlements.observe.logs import AccessLine, access_log
from entitlements.observe.metrics import Metrics
from entitlements.transports.http import (
    accounts,
    audit,
    balances,
    checks,
    consumption,
    credits_admin,
    debts,
    documents,
    entitlements,
    events,
    health,
    holds,
    members,
    outbox,
    policies,
    problems,
    rate_limits,
    subscriptions,
    webhooks,
)
from entitlements.transports.http.problems import ProblemResponse
from entitlements.transports.http.request import HttpRequest, Reply
from entitlements.transports.http.routes import Roles, Route, Table
from entitlements.transports.http.service import Service

ROUTES: Final = (
    *checks.ROUTES,
    *consumption.ROUTES,
    *holds.ROUTES,
    *balances.ROUTES,
    *accounts.ROUTES,
    *credits_admin.ROUTES,
    *entitlements.ROUTES,
    *members.ROUTES,
    *subscriptions.ROUTES,
    *debts.ROUTES,
    *audit.ROUTES,
    *rate_limits.ROUTES,
    *outbox.ROUTES,
    *policies.ROUTES,
    *webhooks.ROUTES,
    *events.ROUTES,
    *health.ROUTES,
)
PROBLEM_JSON: Final = b"application/problem+json"
SECURITY_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
)
NO_CONTENT_POLICY: Final = (
    b"content-security-policy",
    b"default-src 'none'; frame-ancestors 'none'",
)
SINGLE: Final = frozenset(
    (b"host", b"authorization", b"x-api-key", b"content-type", b"idempotency-key", b"x-org-id",
     b"x-correlation-id", b"x-identity-encoding")
)  # fmt: skip
"""Headers that must not be repeated: a proxy could read one value and the service the other."""
UNMATCHED: Final = "unmatched"
_BLANKS: Final = b" \t"
"""White space around a header's value, not part of it (RFC 9110, section 5.5)."""
_UTF8: Final = frozenset((b"utf-8", b"utf8"))

log = structlog.get_logger()
_encode = msgspec.json.Encoder().encode


class _Gone(Exception):
    """Raised when the client closes the connection before the request is complete."""


def create_app(service: Service) -> ASGIApp:
    """Return the ASGI app."""
    if isinstance(service.access, OpenAccess):
        log.warning("access.off", detail="ENTITLEMENTS_AUTH=none: every caller has all roles")
    return Application(service)


class Application:
    def __init__(self, service: Service) -> None:
        self._service = service
        settings = service.settings
        is_separate = settings.metrics_port != settings.http_port
        routes = [route for route in ROUTES if not (is_separate and route is health.METRICS)]
        self._table = documents.table(routes, root_path=settings.root_path)
        self._root_path = settings.root_path.encode()
        self._table_of_port = (
            {settings.metrics_port: Table([health.METRICS])} if is_separate else {}
        )
        engine, registry = service.engine, service.registry
        self._metrics = Metrics(registry, engine.policies, engine.intake.tallies.consumptions)
        gauges.watch(registry, engine, service.verifier, service.deliverer)
        registry.register(Events(engine.intake, engine.conflicts, engine.watch))
        policy_metrics.watch(registry, engine.policies)
        self._hosts = frozenset(host.encode().lower() for host in settings.allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = perf_counter()
        path: bytes = scope.get("raw_path") or scope["path"].encode()
        path = path.removeprefix(self._root_path)
        request = HttpRequest(
            self._service,
            self._metrics,
            method=scope["method"],
            path=path.decode("latin-1"),
            headers={name: value.strip(_BLANKS) for name, value in scope["headers"]},
        )
        request.query_string = scope["query_string"]
        route: Route | None = None
        code: str | None = None
        try:
            if len(request.headers) < len(scope["headers"]):
                _require_single(scope["headers"])
            request.read_trace()
            request.read_correlation()
            table = self._table_at(scope) if self._table_of_port else self._table
            route, request.params = table.find(request.method, path)
            if not route.any_host:
                self._require_known_host(request)
            reply = await self._answer(route, request, receive)
        except _Gone:
            return
        except Exception as error:  # noqa: BLE001 - outermost handler: all errors get a response
            rejected = self._rejected(error, request)
            code = rejected.code
            problem = problems.body(rejected, request.correlation_id)
            reply = Reply(problem, problem.status, rejected.headers, PROBLEM_JSON)

        await _send(send, reply, request)
        self._note(request, route, reply.status, code, perf_counter() - started)

    def _table_at(self, scope: Scope) -> Table:
        """Return the routes of the port that received the request; the Host header is ignored."""
        return self._table_of_port.get(scope["server"][1], self._table)

    async def _answer(self, route: Route, request: HttpRequest, receive: Receive) -> Reply:
        if isinstance(route.rule, Roles):
            caller = await self._service.access.caller(_secret(request))
            if route.rule.allowed.isdisjoint(caller.roles):
                raise ProblemResponse(
                    "forbidden", f"the key's role does not permit {route.method} {route.path}"
                )
            request.caller = caller
        if request.query_string:
            request.read_query(route.query)
        if route.keying is not Keying.IGNORED:
            request.read_key()
            if request.key is not None and route.keying is Keying.REFUSED:
                raise ProblemResponse(
                    "idempotency_key_not_supported", "send the request without Idempotency-Key"
                )
        body = None
        if route.decoder is not None:
            _require_json(request)
            body = strict_json.decode(await _body(request, receive, route.body_max), route.decoder)
        if request.params:
            request.params = parameters(request.params, invalid)
        return await route.handler(request, None if body is None else request.read(body))

    def _require_known_host(self, request: HttpRequest) -> None:
        """Raise Rejected for a Host that is not allowed.

        It prevents a web page from reaching a loopback service under its own host name.
        """
        host = request.headers.get(b"host", b"").lower()
        if host in self._hosts or b"*" in self._hosts:
            return
        name, colon, port = host.rpartition(b":")
        if not (colon and port.isdigit() and name in self._hosts):
            raise ProblemResponse(
                "unknown_host", "the Host header names a host that is not allowed"
            )

    def _rejected(self, error: Exception, request: HttpRequest) -> ProblemResponse:
        if isinstance(error, LimitRefused):
            self._metrics.denied(error.exceeded)
        rejected = problems.problem_for(error)
        if rejected.code == "internal_error":
            log.error("http.failed", correlation_id=request.correlation_id, exc_info=error)
        return rejected

    def _note(
        self,
        request: HttpRequest,
        route: Route | None,
        status: int,
        code: str | None,
        seconds: float,
    ) -> None:
        path = route.path if route is not None else UNMATCHED
        method = request.method if route is not None else UNMATCHED
        self._metrics.request(method, path, status, seconds)
        user, org = request.ids
        access_log.note(
            AccessLine(
                at=datetime.now(UTC),  # noqa: TID251 - a log's own clock
                level="info",
                event="http.request",
                method=request.method,
                route=path,
                status=status,
                ms=round(seconds * 1000, 2),
                correlation_id=request.correlation_id,
                code=code,
                client=request.caller.client if request.caller is not None else None,
                user=user,
                org=org,
                trace=request.traceparent[3:35] if request.traceparent is not None else None,
            )
        )


async def _send(send: Send, reply: Reply, request: HttpRequest) -> None:
    body = reply.body if isinstance(reply.body, bytes) else _encode(reply.body)
    headers = [
        (b"content-type", reply.content_type),
        (b"content-length", str(len(body)).encode()),
        (b"x-correlation-id", request.echo),
        *SECURITY_HEADERS,
        *reply.headers,
    ]
    if not any(name == b"content-security-policy" for name, _ in reply.headers):
        headers.append(NO_CONTENT_POLICY)
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if request.method == "HEAD" else body})


def _require_single(headers: Iterable[tuple[bytes, bytes]]) -> None:
    for name, count in Counter(name for name, _ in headers).items():
        if count > 1 and name in SINGLE:
            raise invalid(name.decode("latin-1").title(), "was given more than once")


def _secret(request: HttpRequest) -> str | None:
    """Return the credential: the bearer token, else the value of X-API-Key."""
    authorization = request.headers.get(b"authorization")
    if authorization is not None and authorization[:7].lower() == b"bearer ":
        return authorization[7:].strip().decode("latin-1")
    key = request.headers.get(b"x-api-key")
    return key.decode("latin-1") if key is not None else None


def _require_json(request: HttpRequest) -> None:
    encoding = request.headers.get(b"content-encoding")
    if encoding is not None and encoding.lower() != b"identity":
        raise ProblemResponse(
            "unsupported_media_type",
            "send the body without Content-Encoding",
            headers=((b"accept-encoding", b"identity"),),
        )
    content_type = request.headers.get(b"content-type", b"")
    if content_type == b"application/json":
        return
    kind, *parameters = content_type.lower().replace(b" ", b"").replace(b'"', b"").split(b";")
    charsets = [
        value
        for name, _, value in (one.partition(b"=") for one in parameters)
        if name == b"charset"
    ]
    if kind != b"application/json" or not _UTF8.issuperset(charsets):
        raise ProblemResponse("unsupported_media_type", "send application/json in UTF-8")


async def _body(request: HttpRequest, receive: Receive, at_most: int) -> bytes:
    """Return the body. Raise Rejected for one that is too large, without reading it completely."""
    announced = request.headers.get(b"content-length", b"0")
    if announced.isdigit() and int(announced[:20]) > at_most:
        raise _too_large(at_most)

    message = await receive()
    body: bytes = message.get("body", b"")
    if message["type"] == "http.request" and not message.get("more_body", False):
        if len(body) > at_most:
            raise _too_large(at_most)
        return body

    chunks = [body]
    size = len(body)
    while message["type"] != "http.request" or message.get("more_body", False):
        if message["type"] == "http.disconnect":
            raise _Gone
        message = await receive()
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > at_most:
            raise _too_large(at_most)
    return b"".join(chunks)


def _too_large(at_most: int) -> ProblemResponse:
    return ProblemResponse(
        "body_too_large",
        f"a body must have at most {at_most} bytes",
        headers=((b"connection", b"close"),),
    )
