"""The OpenAPI document, generated from the route table, the contracts and their descriptions."""

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec

from entitlements.contracts.descriptions import described
from entitlements.contracts.errors import STATUS
from entitlements.contracts.problem import Problem
from entitlements.contracts.verbs import Keying
from entitlements.transports.http.problems import ProblemResponse, body
from entitlements.transports.http.routes import LIMIT_HEADERS, Content, Open, Roles, Route
from entitlements.version import VERSION

Json = dict[str, Any]

TAGS: Final = {
    "checks": "Check whether work is allowed, and who would pay. Nothing is reserved or recorded.",
    "consumption": "Charge finished work, and reverse operations.",
    "holds": "Hold credits before work of unknown cost, and settle them after it.",
    "entitlements": "Grant entitlements and plans, check access, consume by type.",
    "members": "Members of orgs, and their monthly caps.",
    "balances": "Balances of a user and their org.",
    "administration": "Accounts, adjustments, the ledger, debts, limits and events.",
    "policies": "Validate, activate, list and compare policies.",
    "webhooks": "Endpoints that signed events are posted to.",
    "health": "Probes and metrics.",
    "documents": "The description of this interface, for programs and for people.",
}
_REF: Final = "#/components/schemas/{name}"
_CORRELATION_ID: Final = "batch-4711"
_ID: Final = {"type": "string", "minLength": 1, "maxLength": 255}
_KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The idempotency key of the request: a repeat gets the first response.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    "example": "order-1017",
}
_CORRELATION: Final = {
    "name": "X-Correlation-ID",
    "in": "header",
    "description": "The id of the work that the request belongs to; generated if left out.",
    "schema": {"type": "string", "maxLength": 255},
    "example": _CORRELATION_ID,
}
_ORG: Final = {
    "name": "X-Org-ID",
    "in": "header",
    "description": "The org, if the query string has no `org_id`.",
    "schema": {"type": "string", "maxLength": 255},
    "example": "school-1",
}
_ENCODING: Final = {
    "name": "X-Identity-Encoding",
    "in": "header",
    "description": "`url`: the values of X-Correlation-ID and X-Org-ID are percent-encoded UTF-8.",
    "schema": {"type": "string", "enum": ["url"]},
}
_HEADERS: Final[Mapping[str, Json]] = {
    "X-Correlation-ID": {
        "description": "The request's id, percent-encoded outside letters, digits and `. _ : -`.",
        "schema": {"type": "string"},
        "example": _CORRELATION_ID,
    },
    "Idempotency-Replayed": {
        "description": "The response is the stored response of an earlier request.",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "RateLimit": {
        "description": "For each exceeded limit: units left, and seconds until the request passes.",
        "schema": {"type": "string"},
        "example": '"cj_comparison/org/86400";r=20;t=1260',
    },
    "RateLimit-Policy": {
        "description": "For each exceeded limit: units allowed, and the window in seconds.",
        "schema": {"type": "string"},
        "example": '"cj_comparison/org/86400";q=1000;w=86400',
    },
    "Retry-After": {
        "description": "Seconds after which the same request can succeed.",
        "schema": {"type": "integer", "minimum": 0},
        "example": 5,
    },
    "WWW-Authenticate": {
        "description": "The scheme of credentials.",
        "schema": {"type": "string"},
        "example": 'Bearer realm="entitlements"',
    },
}
_REPLAYED: Final = "Idempotency-Replayed"
_OF_STATUS: Final[Mapping[int, tuple[str, ...]]] = {
    401: ("WWW-Authenticate",),
    402: ("Retry-After",),
    429: LIMIT_HEADERS,
    503: ("Retry-After",),
}


def openapi_document(routes: Sequence[Route], *, root_path: str = "") -> Json:
    """Return the OpenAPI 3.1 document of the routes, which are served below ``root_path``."""
    paths: dict[str, Json] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = operation(route)
    names = [route.handler.__name__ for route in routes]
    assert len(names) == len(set(names)), "an operation id is used twice"
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Entitlements",
            "version": VERSION,
            "description": "Credits, holds and rate limits. Amounts are integers. "
            "Every GET route also supports HEAD, which returns no body.",
        },
        "servers": [{"url": root_path or "/", "description": "This service."}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": _schemas(routes),
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key, from `entitlements keys create`.",
                },
                "api_key": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "X-API-Key",
                    "description": "The same key in a separate header.",
                },
            },
        },
    }


def operation(route: Route) -> Json:
    """Return the route as an operation of the document."""
    if isinstance(route.rule, Open):
        security: list[Json] = []
        callers = f"Open: {route.rule.because}."
    else:
        security = [{"bearer": []}, {"api_key": []}]
        callers = f"Roles: {', '.join(sorted(route.rule.allowed))}."
    found: Json = {
        "operationId": route.handler.__name__,
        "summary": route.summary,
        "description": callers,
        "tags": [route.tag],
        "security": security,
        "parameters": _parameters(route),
        "responses": _responses(route),
    }
    if route.request is not None:
        found["requestBody"] = {"required": True, "content": _json(route.request)}
    return found


def statuses(route: Route) -> list[int]:
    """Return every status whose body is a problem."""
    found = {400, *route.problems}
    if isinstance(route.rule, Roles):
        found |= {401, 403, 503}
    if route.request is not None:
        found |= {413, 415}
    if route.keying is Keying.TAKEN:
        found |= {422}
    return sorted(found)


def _parameters(route: Route) -> list[Json]:
    parameters: list[Json] = [
        {
            "name": segment[1:-1],
            "in": "path",
            "required": True,
            "description": described("path parameters", segment[1:-1]),
            "schema": _ID,
        }
        for segment in route.path.split("/")
        if segment.startswith("{")
    ]
    if route.query is not None:
        parameters += [
            {
                "name": name,
                "in": "query",
                "required": False,
                "description": schema.pop("description"),
                "schema": _given(schema),
            }
            for name, schema in _described([route.query])[route.query.__name__][
                "properties"
            ].items()
        ]
    if isinstance(route.rule, Roles):
        parameters += [_CORRELATION, *([_ORG] if route.takes_org else []), _ENCODING]
    if route.keying is Keying.TAKEN:
        parameters.append(_KEY)
    return parameters


def _given(schema: Json) -> Json:
    """Return the schema without null: an omitted parameter is not null."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    return kinds[0] if len(kinds) == 1 else schema


def _responses(route: Route) -> Json:
    responses: Json = {}
    for status, content in route.responses.items():
        headers = (_REPLAYED,) if route.keying is Keying.TAKEN else ()
        if content is None:
            responses[str(status)] = _response(status, *headers)
        else:
            response = _response(status, *headers, *content.headers)
            responses[str(status)] = response | {"content": _json(content)}
    for status in statuses(route):
        if status not in route.responses:
            responses[str(status)] = _response(status) | {"content": _PROBLEMS[status]}
    return dict(sorted(responses.items()))


def _response(status: int, *headers: str) -> Json:
    shown = ("X-Correlation-ID", *headers, *_OF_STATUS.get(status, ()))
    return {
        "description": HTTPStatus(status).phrase,
        "headers": {name: _HEADERS[name] for name in dict.fromkeys(shown)},
    }


def _json(content: Content) -> Json:
    reference = {"$ref": _REF.format(name=content.contract.__name__)}
    return {"application/json": {"schema": reference, "example": content.example}}


def _problem(code: str, detail: str) -> Json:
    example = msgspec.to_builtins(body(ProblemResponse(code, detail), _CORRELATION_ID))
    reference = {"$ref": _REF.format(name=Problem.__name__)}
    return {"application/problem+json": {"schema": reference, "example": example}}


_PROBLEMS: Final = {
    STATUS[code]: _problem(code, detail)
    for code, detail in (
        ("validation_failed", "amount: Expected `int` >= 1"),
        ("unauthenticated", "send a key as a bearer token"),
        ("insufficient_credits", "60 credits are required, 20 are available"),
        ("forbidden", "the key's role does not permit POST /v1/admin/credits/adjust"),
        ("not_found", "no operation has that id"),
        ("debt_closed", "the debt is already settled or written off"),
        ("body_too_large", "a body must have at most 1048576 bytes"),
        ("unsupported_media_type", "send application/json in UTF-8"),
        ("idempotency_key_reused", "this idempotency key was used for another request"),
        ("rate_limit_exceeded", "the rate limit is exceeded"),
        ("unavailable", "the database is unavailable"),
    )
}


def _schemas(routes: Iterable[Route]) -> Json:
    contents = [
        content
        for route in routes
        for content in (route.request, *route.responses.values())
        if content is not None
    ]
    return _described([Problem, *dict.fromkeys(content.contract for content in contents)])


def _described(contracts: Iterable[type]) -> Json:
    """Return the schemas of the contracts and their components.

    Every property gets a description, and every enum a type.
    """
    _, schemas = msgspec.json.schema_components(contracts, ref_template=_REF)
    for name, schema in schemas.items():
        if "description" in schema:
            schema["description"] = _plain(schema["description"])
        for key, value in schema.get("properties", {}).items():
            described_too = [described(name, key), value.get("description")]
            value["description"] = " ".join(text for text in described_too if text)
            if value.get("default", value) is None:
                del value["default"]  # generators would treat the property as always present
    _type_enums(schemas)
    return schemas


def _type_enums(schema: Any) -> None:
    if isinstance(schema, list):
        for part in schema:
            _type_enums(part)
    elif isinstance(schema, dict):
        if isinstance(schema.get("enum"), list):
            schema.setdefault("type", "string")
        for part in schema.values():
            _type_enums(part)


def _plain(docstring: str) -> str:
    """Convert a docstring to one line of Markdown."""
    return " ".join(docstring.split()).replace("``", "`")
