"""The routes of the API documents: OpenAPI, and a page for people."""

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

from entitlements.transports.http.openapi import openapi_document
from entitlements.transports.http.page import HEADERS, HTML, page
from entitlements.transports.http.request import HttpRequest, Reply
from entitlements.transports.http.routes import Open, Route, Table

_RULE: Final = Open("the interface description is public")


def table(routes: Sequence[Route], *, root_path: str = "") -> Table:
    """Return the table of the routes and the document routes, which the documents include."""

    @cache
    def document() -> dict[str, Any]:
        return openapi_document(described, root_path=root_path)

    async def openapi(_request: HttpRequest, _: None) -> Reply:
        return Reply(document())

    async def docs(_request: HttpRequest, _: None) -> Reply:
        return Reply(page(document()).encode(), headers=HEADERS, content_type=HTML)

    described = (
        *routes,
        Route(
            method="GET",
            path="/openapi.json",
            handler=openapi,
            rule=_RULE,
            tag="documents",
            summary="This interface as OpenAPI 3.1.",
            responses={200: None},
        ),
        Route(
            method="GET",
            path="/docs",
            handler=docs,
            rule=_RULE,
            tag="documents",
            summary="This interface as a page.",
            responses={200: None},
        ),
    )
    return Table(described)
