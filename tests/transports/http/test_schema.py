"""Requests made from the OpenAPI document, valid and broken ones: none may fail the service."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.specs.openapi.schemas import OpenApiSchema

from entitlements.adapters.postgres.migrate import migrate_at
from entitlements.app.access import Act, Role, create_key
from entitlements.main import build, http_app
from entitlements.settings import load
from entitlements.transports.http.app import ROUTES
from entitlements.transports.http.routes import Route
from tests.books import assert_books_balance
from tests.servers import Postgres, free_port

EXAMPLES = 100  # of each mode, per operation and role
EXAMPLES_ON_POSTGRES = 20
CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]


@dataclass(frozen=True)
class Served:
    url: str
    secrets: dict[Role, str]


@contextmanager
def serving(url: str) -> Iterator[Served]:
    """The service behind a real socket, in a thread of its own, with a key for each role."""
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
                _, secrets[role] = await create_key(store, name=role, role=role, act=act)
            config = uvicorn.Config(
                http_app(system), port=port, lifespan="off", log_config=None, http="httptools"
            )
            server = uvicorn.Server(config)
            servers.append(server)
            served = asyncio.create_task(server.serve())
            while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
                await asyncio.sleep(0.01)
            started.set()
            await served

    thread.start()
    assert started.wait(10)
    yield Served(f"http://127.0.0.1:{port}", secrets)
    servers[0].should_exit = True
    thread.join(10)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(f"sqlite:///{tmp_path_factory.mktemp('schema')}/entitlements.db") as served:
        yield served


@pytest.fixture(scope="module")
def served_by_postgres(postgres_server: Postgres) -> Iterator[Served]:
    url = postgres_server.create_database()
    asyncio.run(migrate_at(url, None))
    with serving(url) as served:
        yield served
    asyncio.run(assert_books_balance(url))
    postgres_server.drop_database(urlsplit(url).path.removeprefix("/"))


@pytest.fixture(scope="module")
def schema(served: Served) -> OpenApiSchema:
    return schemathesis.openapi.from_url(f"{served.url}/openapi.json")


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_no_request_fails_the_service(
    served: Served, schema: OpenApiSchema, route: Route, role: Role, mode: GenerationMode
) -> None:
    ask_anything(served, schema, route, role=role, mode=mode, examples=EXAMPLES)


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_no_request_fails_the_service_on_postgres(
    served_by_postgres: Served, schema: OpenApiSchema, route: Route, mode: GenerationMode
) -> None:
    ask_anything(
        served_by_postgres,
        schema,
        route,
        role=Role.ADMIN,
        mode=mode,
        examples=EXAMPLES_ON_POSTGRES,
    )


def ask_anything(
    served: Served,
    schema: OpenApiSchema,
    route: Route,
    *,
    role: Role,
    mode: GenerationMode,
    examples: int,
) -> None:
    """Requests as the document has them, or, in the other mode, broken ones."""
    operation = schema[route.path][route.method]
    credential = {"Authorization": f"Bearer {served.secrets[role]}"}

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case[Any]) -> None:
        response = case.call(base_url=served.url, headers=credential)

        assert response.status_code < 500, response.text
        case.validate_response(response, checks=CHECKS)

    try:
        ask()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE, "every operation has valid requests"
