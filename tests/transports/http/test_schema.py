"""Requests generated from the OpenAPI document, valid and invalid: none must make the service fail.

A short run calls each route with one permitted role, because other roles are refused before their
request is read. A long run (`tests.profiles`) uses every role and more examples.
"""

import asyncio
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.core import NOT_SET
from schemathesis.core.transport import Response
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.specs.openapi.schemas import OpenApiSchema

from entitlements.app.access.keys import Act, Role, create_key
from entitlements.service.compose import build, http_app
from entitlements.settings import load
from entitlements.transports.http.app import ROUTES
from entitlements.transports.http.routes import Open, Route
from tests.books import assert_books_balance
from tests.profiles import examples, is_long
from tests.servers import Postgres, free_port
from tests.waiting import PATIENCE_S

EXAMPLES = examples(20, long=1000)  # per operation and role; each is sent to both engines
JSON = "application/json"
DEPENDS_ON_ROLE = {"/v1/entitlements/holds/{hold_id}/release"}
pytestmark = pytest.mark.hypothesis  # a long run selects it
CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@dataclass(frozen=True)
class Served:
    url: str
    secrets: dict[Role, str]
    session: requests.Session = field(default_factory=requests.Session)

    def answer(self, case: schemathesis.Case[Any], role: Role) -> Response:
        credential = {"Authorization": f"Bearer {self.secrets[role]}"}
        return case.call(base_url=self.url, session=self.session, headers=credential)


@contextmanager
def serving(url: str) -> Iterator[Served]:
    """Run the service on a real socket in its own thread, with a key for each role."""
    port = free_port()
    secrets: dict[Role, str] = {}
    started = threading.Event()
    servers: list[uvicorn.Server] = []

    thread = threading.Thread(target=lambda: asyncio.run(run()))

    async def run() -> None:
        async with build(load(database_url=url)) as system:
            for role in Role:
                act = Act(
                    actor="test",
                    client="test",
                    at=system.clock(),
                    new_id=system.engine.new_id,
                    correlation_id="test",
                )
                store = system.engine.store
                _, secrets[role] = await create_key(store.keys, name=role, role=role, act=act)
            config = uvicorn.Config(
                http_app(system),
                port=port,
                lifespan="off",
                log_config=None,
                http="httptools",
                timeout_keep_alive=75,
            )
            server = uvicorn.Server(config)
            servers.append(server)
            served = asyncio.create_task(server.serve())
            while not server.started:  # noqa: ASYNC110 - uvicorn has no event to wait for
                await asyncio.sleep(0.01)
            started.set()
            await served

    thread.start()
    assert started.wait(PATIENCE_S)
    yield Served(f"http://127.0.0.1:{port}", secrets)
    servers[0].should_exit = True
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(f"sqlite:///{tmp_path_factory.mktemp('schema')}/entitlements.db") as served:
        yield served


@pytest.fixture(scope="module")
def served_by_postgres(postgres_server: Postgres, postgres_template: str) -> Iterator[Served]:
    with postgres_server.database(postgres_template) as url:
        with serving(url) as served:
            yield served
        asyncio.run(assert_books_balance(url))


@pytest.fixture(scope="module")
def schema(served: Served) -> OpenApiSchema:
    return schemathesis.openapi.from_url(f"{served.url}/openapi.json")


def permitted(route: Route) -> list[Role]:
    """Return the roles that may call the route, the admin last; an open route needs no role."""
    if isinstance(route.rule, Open):
        return [Role.ADMIN]
    return sorted(route.rule.allowed, key=lambda role: (role == Role.ADMIN, role))


def asked_as(route: Route) -> list[Role]:
    """Return the roles to test: in a short run the least one permitted, or all permitted ones where
    the response depends on the role.
    """
    if is_long():
        return list(Role)
    return permitted(route) if route.path in DEPENDS_ON_ROLE else permitted(route)[:1]


def name(route: Route) -> str:
    return f"{route.method} {route.path}"


by_role = pytest.mark.parametrize(
    ("route", "role"),
    [
        pytest.param(route, role, id=f"{name(route)}-{role}")
        for route in ROUTES
        for role in asked_as(route)
    ],
)


def test_a_route_whose_response_depends_on_the_role_is_called_with_every_permitted_role() -> None:
    asked = {route.path: asked_as(route) for route in ROUTES if route.path in DEPENDS_ON_ROLE}

    assert asked.keys() == DEPENDS_ON_ROLE
    assert all(len(roles) >= 3 for roles in asked.values())


@pytest.mark.parametrize("route", ROUTES, ids=name)
def test_a_forbidden_role_gets_the_documented_refusal(
    served: Served, schema: OpenApiSchema, route: Route
) -> None:
    if isinstance(route.rule, Open):
        return
    operation = schema[route.path][route.method]
    path = dict.fromkeys(re.findall(r"{(\w+)}", route.path), "x")
    body: Any = {} if route.method in ("POST", "PATCH") else NOT_SET
    for role in set(Role) - route.rule.allowed:
        case = operation.Case(path_parameters=path, body=body, media_type=JSON)
        response = served.answer(case, role)

        assert response.status_code == 403, (role, response.text)
        case.validate_response(response, checks=CHECKS)


@by_role
def test_no_request_makes_the_service_fail(
    served: Served,
    served_by_postgres: Served,
    schema: OpenApiSchema,
    route: Route,
    role: Role,
) -> None:
    operation = schema[route.path][route.method]
    valid, broken = (operation.as_strategy(generation_mode=mode) for mode in GenerationMode)

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=valid | broken)
    def ask(case: schemathesis.Case[Any]) -> None:
        for service in (served, served_by_postgres):
            response = service.answer(case, role)

            assert response.status_code < 500, response.text
            case.validate_response(response, checks=CHECKS)

    ask()
