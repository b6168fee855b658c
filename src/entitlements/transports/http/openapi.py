"""The OpenAPI document, made from the route table, the contracts and their descriptions."""

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec

from entitlements.contracts.descriptions import described
from entitlements.contracts.errors import STATUS
from entitlements.contracts.problem import Problem
from entitlements.contracts.verbs import Keying
from entitlements.transports.http.problems import Rejected, body
from entitlements.transports.http.routes import LIMIT_HEADERS, Content, Open, Roles, Route
from entitlements.version import VERSION

Json = dict[str, Any]

TAGS: Final = {
    "checks": "Whether work may run, and who would pay. Nothing is reserved or recorded.",
    "consumption": "Finished work is charged, and charges are reversed.",
    "holds": "Credits are set aside before work of unknown cost, and settled after it.",
    "balances": "What a user and their org have.",
    "administration": "Accounts, adjustments, the ledger, debts, limits and events.",
    "policies": "The rules: checked, activated, listed and compared.",
    "webhooks": "Endpoints that signed events are posted to.",
    "health": "Probes and metrics.",
    "documents": "This interface, for programs and for people.",
}
_REF: Final = "#/components/schemas/{name}"
_CORRELATION_ID: Final = "batch-4711"
_ID: Final = {"type": "string", "minLength": 1, "maxLength": 255}
_KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The caller's name for the request: a repeat gets the first response.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    "example": "order-1017",
}
_CORRELATION: Final = {
    "name": "X-Correlation-ID",
    "in": "header",
    "description": "Names the work that the request belongs to; made by the service if left out.",
    "schema": {"type": "string", "maxLength": 255},
    "example": _CORRELATION_ID,
}
_ORG: Final = {
    "name": "X-Org-ID",
    "in": "header",
    "description": "The org, where the query string names none.",
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
        "description": "The request's, percent-encoded outside letters, digits and `. _ : -`.",
        "schema": {"type": "string"},
        "example": _CORRELATION_ID,
    },
    "Idempotency-Replayed": {
        "description": "The response is the stored one of an earlier request.",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "RateLimit": {
        "description": "Of each limit that was exceeded: units left, and seconds until more pass.",
        "schema": {"type": "string"},
        "example": '"cj_comparison/org/86400";r=20;t=1260',
    },
    "RateLimit-Policy": {
        "description": "Of each limit that was exceeded: units allowed, and seconds of its window.",
        "schema": {"type": "string"},
        "example": '"cj_comparison/org/86400";q=1000;w=86400',
    },
    "Retry-After": {
        "description": "Seconds after which the same request may pass.",
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
    """Return OpenAPI 3.1 of the routes, which are served below ``root_path``."""
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
            "description": "What a subject may do and what it has left. Amounts are whole numbers. "
            "HEAD is answered wherever GET is, without the body.",
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
                    "description": "The same key in a header for itself.",
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
    """Return every status that has a problem for a body."""
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
    """A parameter that is left out is not null."""
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
    example = msgspec.to_builtins(body(Rejected(code, detail), _CORRELATION_ID))
    reference = {"$ref": _REF.format(name=Problem.__name__)}
    return {"application/problem+json": {"schema": reference, "example": example}}


_PROBLEMS: Final = {
    STATUS[code]: _problem(code, detail)
    for code, detail in (
        ("validation_failed", "amount: Expected `int` >= 1"),
        ("unauthenticated", "send a key as a bearer token"),
        ("insufficient_credits", "60 credits are required, 20 are available"),
        ("forbidden", "the key's role may not do this"),
        ("not_found", "no operation has that id"),
        ("debt_closed", "the debt is closed"),
        ("body_too_large", "a body may have up to 1048576 bytes"),
        ("unsupported_media_type", "send application/json in UTF-8"),
        ("idempotency_key_reused", "the key named another request before"),
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
    """The schemas of the contracts, and of what they are made of; every property has its
    description, and every set of texts its type.
    """
    _, schemas = msgspec.json.schema_components(contracts, ref_template=_REF)
    for name, schema in schemas.items():
        if "description" in schema:
            schema["description"] = _plain(schema["description"])
        for key, value in schema.get("properties", {}).items():
            described_too = [described(name, key), value.get("description")]
            value["description"] = " ".join(text for text in described_too if text)
            if value.get("default", value) is None:
                del value["default"]  # what generators take for a value that is always there
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
    """A docstring as one line of Markdown."""
    return " ".join(docstring.split()).replace("``", "`")
