"""The OpenAPI document and its page: valid, complete, and in agreement with the service."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, get_args

import pytest
from jsonschema import Draft202012Validator, FormatChecker
from openapi_spec_validator import OpenAPIV31SpecValidator

from entitlements.app.inbox.store import LetterState
from entitlements.contracts import http
from entitlements.core.reasons import (
    ConsumptionOutcome,
    DenialReason,
    HoldStatus,
    OperationKind,
    OperationStatus,
)
from entitlements.service.compose import build
from entitlements.settings import SettingsError, load
from entitlements.transports.http import documents
from entitlements.transports.http.app import ROUTES
from entitlements.transports.http.openapi import openapi_document
from entitlements.transports.http.page import page
from tests.tables import sqlite_url
from tests.transports.http.api import Api

Json = dict[str, Any]
TABLE = documents.table(ROUTES)


@pytest.fixture(scope="module")
def document() -> Json:
    whole: Json = json.loads(json.dumps(openapi_document(TABLE.routes)))
    return whole


def operations(document: Json) -> Iterator[tuple[str, Json]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def media(document: Json) -> Iterator[tuple[str, Json]]:
    """Yield each JSON body with its location."""
    for name, operation in operations(document):
        bodies = {"request": operation.get("requestBody", {}), **operation["responses"]}
        for where, body in bodies.items():
            for content in body.get("content", {}).values():
                yield f"{name} {where}", content


def test_the_document_is_valid(document: Json) -> None:
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []


def test_every_route_is_an_operation_with_a_unique_id(document: Json) -> None:
    found = dict(operations(document))

    assert found.keys() == {f"{route.method} {route.path}" for route in TABLE.routes}
    ids = Counter(operation["operationId"] for operation in found.values())
    assert ids.most_common(1)[0][1] == 1, ids.most_common(1)
    assert all(name.isidentifier() for name in ids)


def test_every_schema_is_used_and_every_reference_resolves(document: Json) -> None:
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))

    assert references == set(document["components"]["schemas"])


def test_every_property_parameter_and_header_is_described(document: Json) -> None:
    described = {
        f"{name}.{key}": value
        for name, schema in document["components"]["schemas"].items()
        for key, value in schema["properties"].items()
    }
    for name, operation in operations(document):
        for one in operation["parameters"]:
            described[f"{name} {one['name']}"] = one
        for status, response in operation["responses"].items():
            for header, value in response["headers"].items():
                described[f"{name} {status} {header}"] = value

    assert [name for name, one in described.items() if not one.get("description")] == []


def test_every_tag_is_described(document: Json) -> None:
    used = {tag for _, operation in operations(document) for tag in operation["tags"]}

    assert {tag["name"] for tag in document["tags"] if tag["description"]} == used


def test_every_body_has_an_example_that_its_schema_accepts(document: Json) -> None:
    for where, content in media(document):
        schema = content["schema"] | {"components": document["components"]}
        validator = Draft202012Validator(schema, format_checker=FormatChecker())

        assert [error.message for error in validator.iter_errors(content["example"])] == [], where


def test_examples_have_every_required_field(document: Json) -> None:
    for where, content in media(document):
        if "request" not in where:
            name = content["schema"]["$ref"].rpartition("/")[2]
            required = document["components"]["schemas"][name]["required"]
            assert set(required) <= content["example"].keys(), where


@pytest.mark.parametrize(
    ("schema", "field", "values"),
    [
        ("CheckResponse", "reason", list(DenialReason)),
        ("MetricDecision", "reason", list(DenialReason)),
        ("BulkCheckResponse", "denial_reason", list(DenialReason)),
        ("ConsumeResponse", "status", list(OperationStatus)),
        ("ConsumeResult", "status", [*OperationStatus, "refused"]),
        ("OperationItem", "kind", list(OperationKind)),
        ("OperationItem", "operation_status", list(OperationStatus)),
        ("HoldItem", "status", list(HoldStatus)),
        ("ConsumptionRecordItem", "outcome", list(ConsumptionOutcome)),
        ("DeadLetterItem", "state", list(LetterState)),
    ],
)
def test_closed_sets_are_enums(document: Json, schema: str, field: str, values: list[str]) -> None:
    described = document["components"]["schemas"][schema]["properties"][field]
    kinds = described.get("anyOf", [described])

    (named,) = (kind["enum"] for kind in kinds if "enum" in kind)
    assert sorted(named) == sorted(str(value) for value in values)


def test_operations_can_be_filtered_by_every_kind() -> None:
    assert set(get_args(http.OperationKind)) == set(OperationKind)


def test_it_documents_security_headers_and_statuses(document: Json) -> None:
    found = dict(operations(document))
    adjust = found["POST /v1/admin/credits/adjust"]
    balance = found["GET /v1/entitlements/balance/{user_id}"]

    def parameters(operation: Json) -> set[str]:
        return {parameter["name"] for parameter in operation["parameters"]}

    assert adjust["security"] == [{"bearer": []}, {"api_key": []}]
    assert found["GET /livez"]["security"] == []
    assert "Idempotency-Key" in parameters(adjust)
    assert "Idempotency-Key" not in parameters(found["POST /v1/entitlements/check-credits"])
    assert {"X-Org-ID", "X-Identity-Encoding", "X-Correlation-ID"} <= parameters(balance)
    assert {"200", "400", "401", "403", "413", "415", "422", "503"} <= adjust["responses"].keys()
    assert "Idempotency-Replayed" in adjust["responses"]["200"]["headers"]
    limited = {"RateLimit", "RateLimit-Policy", "Retry-After", "X-Correlation-ID"}
    assert limited <= adjust["responses"]["429"]["headers"].keys()


def test_links_of_the_page_resolve_below_any_root_path(document: Json) -> None:
    html = page(document)

    links = set(re.findall(r'href="([^"]*)"', html))
    anchors = re.findall(r'id="([^"]*)"', html)
    assert links == {"openapi.json", *(f"#{anchor}" for anchor in anchors)}
    assert len(anchors) == len(set(anchors))
    assert {operation["operationId"] for _, operation in operations(document)} < set(anchors)
    assert "<script" not in html


def test_the_page_shows_requests_responses_and_headers_under_their_names(document: Json) -> None:
    html = page(document)

    section = html.partition('<section id="consume">')[2].partition("</section>")[0]
    for shown in ("<h4>Request</h4>", "<h4>Response 200</h4>", "Idempotency-Key (header)"):
        assert shown in section
    assert "&quot;metric&quot;: &quot;cj_comparison&quot;" in section


async def test_documents_and_routes_work_below_a_root_path(tmp_path: Path) -> None:
    settings = load(database_url=sqlite_url(tmp_path), root_path="/credits")
    async with build(settings) as system, AsyncExitStack() as stack:
        api = Api(system, stack)

        document = (await api.call("GET", "/credits/openapi.json")).json()
        statuses = [
            (await api.call("GET", path)).status_code
            for path in ("/credits/docs", "/docs", "/credits/livez", "/livez", "/creditslivez")
        ]

    assert document["servers"][0]["url"] == "/credits"
    assert statuses == [200, 200, 200, 200, 404]


def test_an_invalid_root_path_is_refused() -> None:
    with pytest.raises(SettingsError, match="ROOT_PATH"):
        load(root_path="credits/")
