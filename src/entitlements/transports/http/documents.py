"""The OpenAPI document and a page that lists it, both made from the route table."""

from collections.abc import Iterable, Sequence
from html import escape
from http import HTTPStatus
from typing import Any, Final

import msgspec

from entitlements.contracts.problem import Problem
from entitlements.transports.http.request import Reply, Request
from entitlements.transports.http.routes import Open, Roles, Route, Table
from entitlements.version import VERSION

_REF: Final = "#/components/schemas/{name}"
_PROBLEM: Final = {"application/problem+json": {"schema": {"$ref": _REF.format(name="Problem")}}}
_CORRELATION: Final = {
    "name": "X-Correlation-ID",
    "in": "header",
    "description": "Names the work this belongs to; echoed, percent-encoded where necessary.",
    "schema": {"type": "string", "maxLength": 255},
}
_KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The caller's name for the request: a repeat gets the first answer.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}


def document_routes(routes: Sequence[Route]) -> tuple[Route, ...]:
    """The routes of the documents, which describe ``routes`` and themselves."""
    rule = Open("the interface is no secret")
    answers: dict[str, bytes] = {}

    async def openapi(_request: Request, _: None) -> Reply:
        return Reply(answers["openapi"])

    async def docs(_request: Request, _: None) -> Reply:
        return Reply(answers["docs"], headers=_PAGE_HEADERS, content_type=_HTML)

    own = (
        Route(
            method="GET",
            path="/openapi.json",
            handler=openapi,
            rule=rule,
            tag="documents",
            summary="This interface as OpenAPI 3.1.",
            responses={200: None},
        ),
        Route(
            method="GET",
            path="/docs",
            handler=docs,
            rule=rule,
            tag="documents",
            summary="This interface as a page.",
            responses={200: None},
        ),
    )
    answers["openapi"] = msgspec.json.encode(openapi_document((*routes, *own)))
    answers["docs"] = page((*routes, *own)).encode()
    return own


def openapi_document(routes: Sequence[Route]) -> dict[str, Any]:
    """OpenAPI 3.1 of the routes."""
    _, schemas = msgspec.json.schema_components(_contracts(routes), ref_template=_REF)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Entitlements",
            "version": VERSION,
            "description": "What a subject may do and what it has left. Amounts are whole numbers.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def _contracts(routes: Iterable[Route]) -> list[type]:
    found: dict[type, None] = {Problem: None}
    for route in routes:
        found.update((kind, None) for kind in (route.request, *route.responses.values()) if kind)
    return list(found)


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.handler.__name__,
        "summary": route.summary,
        "tags": [route.tag],
        "parameters": _parameters(route),
        "responses": _responses(route),
    }
    match route.rule:
        case Roles(allowed=allowed):
            operation["security"] = [{"bearer": []}, {"api_key": []}]
            operation["description"] = f"Roles: {', '.join(sorted(allowed))}."
        case Open(because=because):
            operation["security"] = []
            operation["description"] = f"Open: {because}."
    if route.request is not None:
        content: dict[str, Any] = {"schema": {"$ref": _REF.format(name=route.request.__name__)}}
        if route.example is not None:
            content["example"] = route.example
        operation["requestBody"] = {"required": True, "content": {"application/json": content}}
    return operation


def _parameters(route: Route) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = [
        {
            "name": segment[1:-1],
            "in": "path",
            "required": True,
            "schema": {"type": "string", "minLength": 1, "maxLength": 255},
        }
        for segment in route.path.split("/")
        if segment.startswith("{")
    ]
    if route.query is not None:
        _, schemas = msgspec.json.schema_components([route.query])
        properties = schemas[route.query.__name__]["properties"]
        parameters += [
            {"name": name, "in": "query", "required": False, "schema": _given(schema)}
            for name, schema in properties.items()
        ]
    if isinstance(route.rule, Roles):
        parameters.append(_CORRELATION)
    if route.is_keyed:
        parameters.append(_KEY)
    return parameters


def _given(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter that is left out is not null."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    return kinds[0] if len(kinds) == 1 else schema


def _responses(route: Route) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, kind in route.responses.items():
        response: dict[str, Any] = {"description": HTTPStatus(status).phrase}
        if kind is not None:
            content: dict[str, Any] = {"schema": {"$ref": _REF.format(name=kind.__name__)}}
            if route.answer is not None and status == HTTPStatus.OK:
                content["example"] = route.answer
            response["content"] = {"application/json": content}
        responses[str(status)] = response
    for status in statuses(route):
        problem = {"description": HTTPStatus(status).phrase, "content": _PROBLEM}
        responses.setdefault(str(status), problem)
    return responses


def statuses(route: Route) -> list[int]:
    """Every status that is answered with a problem."""
    found = {400, *route.problems}
    if isinstance(route.rule, Roles):
        found |= {401, 403, 503}
    if route.request is not None:
        found |= {413, 415}
    return sorted(found)


_HTML: Final = b"text/html; charset=utf-8"
_PAGE_HEADERS: Final = (
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
    ),
)
_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "h2{margin-top:2.5rem}section{border-top:1px solid #ccc;padding:.5rem 0}"
    "code,pre{font-family:ui-monospace,monospace}pre{background:#f4f4f4;padding:.75rem;overflow:auto}"
    "b{display:inline-block;min-width:3.5rem}"
)


def page(routes: Sequence[Route]) -> str:
    """One static page without scripts."""
    by_tag: dict[str, list[Route]] = {}
    for route in routes:
        by_tag.setdefault(route.tag, []).append(route)
    parts = "".join(
        f"<h2>{escape(tag.capitalize())}</h2>{''.join(map(_section, members))}"
        for tag, members in by_tag.items()
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Entitlements</title>'
        f"<style>{_STYLE}</style></head><body><h1>Entitlements {VERSION}</h1>"
        '<p>For programs: <a href="/openapi.json">OpenAPI 3.1</a>. Errors are problem+json; '
        "requests that change something take an <code>Idempotency-Key</code>.</p>"
        f"{parts}</body></html>"
    )


def _section(route: Route) -> str:
    operation = _operation(route)
    statuses_shown = ", ".join(sorted(operation["responses"]))
    return (
        f"<section><p><b>{route.method}</b> <code>{escape(route.path)}</code><br>"
        f"{escape(route.summary)}<br><small>{escape(operation['description'])} "
        f"Answers {statuses_shown}.</small></p>"
        f"{_shown(route.example)}{_shown(route.answer)}</section>"
    )


def _shown(example: object) -> str:
    if example is None:
        return ""
    text = msgspec.json.format(msgspec.json.encode(example)).decode()
    return f"<pre>{escape(text)}</pre>"


def table(routes: Sequence[Route]) -> Table:
    """The table of the routes and the documents about them."""
    return Table((*routes, *document_routes(routes)))
