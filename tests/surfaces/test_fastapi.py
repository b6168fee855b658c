"""Charged endpoints in a typical application."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any

import httpx2
import pytest
import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Header, Request
from fastapi.responses import StreamingResponse

from entitlements.contracts import errors
from entitlements.contracts.http import BulkCheckResponse
from entitlements.fastapi import (
    RESPONSES,
    Charge,
    Held,
    hold_credits,
    install,
    require_credits,
    require_feature,
    require_variable_credits,
)
from entitlements.holding import holds_ended
from entitlements.testing import Authority
from entitlements.transports.http.listening import bind
from tests.servers import free_port
from tests.surfaces.scene import Server

POLICY = """
costs:
  token: 1
  ai_tokens_are_here: {cost: 1, credit_type: ai_tokens}
rate_limits:
  token: 200/hour
  batch_create: 2/hour
"""


@dataclass
class User:
    id: str


def user(x_user: str = Header()) -> User:
    return User(x_user)


def org(x_org: str | None = Header(default=None)) -> str | None:
    return x_org


async def words(request: Request, who: User) -> int:
    return len((await request.body()).split()) if who.id != "free" else 0


router = APIRouter(responses=RESPONSES)
summary = require_credits("credits", 5, "a summary", user=user, org=org)
draft = require_credits("credits", 5, "a draft", user=user, refund_on_error=False)
by_length = require_variable_credits("ai_tokens", words, "a translation", user=user)
chat = hold_credits({"token": 100}, "a chat", user=user)
batches = require_feature("batch_create", "a new batch", user=user, org=org)
exports = require_feature("export", "an export", user=user)


@router.post("/summary")
async def make_summary(charge: Annotated[Charge, Depends(summary)], fail: bool = False) -> Charge:  # noqa: FBT001, FBT002
    if fail:
        raise ValueError("the model is away")
    return charge


@router.post("/draft")
async def make_draft(charge: Annotated[Charge, Depends(draft)]) -> Charge:
    raise ValueError("the model is away")


@router.post("/translation")
async def translate(charge: Annotated[Charge, Depends(by_length)]) -> Charge:
    return charge


@router.post("/batch")
async def make_batch(check: Annotated[BulkCheckResponse, Depends(batches)]) -> bool:
    return check.allowed


@router.post("/export")
async def export(check: Annotated[BulkCheckResponse, Depends(exports)]) -> bool:
    return check.allowed


@router.post("/chat")
async def converse(held: Annotated[Held, Depends(chat)], tokens: int = 30) -> StreamingResponse:
    async def stream() -> AsyncIterator[str]:
        for number in range(tokens):
            held.use("token")
            yield f"{number}\n"
        if tokens > 50:
            await asyncio.Event().wait()

    return StreamingResponse(stream())


@pytest.fixture
def entitlements_policy() -> str:
    return POLICY


@pytest.fixture
def app(entitlements: Authority) -> FastAPI:
    app = FastAPI()
    app.include_router(router)
    install(app, entitlements)
    return app


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(
        transport=transport, base_url="http://app", headers={"X-User": "ada"}
    ) as client:
        yield client


def available(entitlements: Authority, credit_type: str = "credits") -> tuple[int, int]:
    """Return ada's balance and held credits."""
    holding = entitlements.sync.balance("ada").by_credit_type[credit_type]["user"]
    return holding.balance, holding.held


async def test_a_handler_that_succeeds_is_charged(
    http: httpx2.AsyncClient, entitlements: Authority
) -> None:
    entitlements.give("user:ada", 12)

    charge = (await http.post("/summary")).json()

    assert charge.pop("transaction_id")
    assert charge == {"credits_consumed": 5, "remaining_balance": 7, "credit_type": "credits"}
    assert available(entitlements) == (7, 0)


async def test_the_org_pays_if_it_can(http: httpx2.AsyncClient, entitlements: Authority) -> None:
    entitlements.give("org:school", 6)

    paid = await http.post("/summary", headers={"X-Org": "school"})
    short = await http.post("/summary", headers={"X-Org": "school"})

    assert paid.json()["remaining_balance"] == 1
    assert short.status_code == 402


async def test_without_credits_the_handler_does_not_run(
    http: httpx2.AsyncClient, entitlements: Authority
) -> None:
    entitlements.give("user:ada", 4)

    refused = await http.post("/summary", params={"fail": True})

    assert refused.status_code == 402
    assert refused.headers["content-type"] == "application/problem+json"
    problem = refused.json()
    assert (problem["code"], problem["status"]) == ("insufficient_credits", 402)
    assert problem["detail"].startswith("a summary: ")
    assert (problem["data"]["required_credits"], problem["data"]["available_credits"]) == (5, 4)


async def test_a_handler_that_fails_is_refunded_unless_configured_otherwise(
    http: httpx2.AsyncClient, entitlements: Authority
) -> None:
    entitlements.give("user:ada", 10)

    assert (await http.post("/summary", params={"fail": True})).status_code == 500
    assert available(entitlements) == (10, 0)
    assert (await http.post("/draft")).status_code == 500
    assert available(entitlements) == (5, 0)


async def test_the_cost_can_depend_on_the_request(
    http: httpx2.AsyncClient, entitlements: Authority
) -> None:
    entitlements.give("user:ada", 10, credit_type="ai_tokens")

    paid = (await http.post("/translation", content="three little words")).json()
    free = (await http.post("/translation", headers={"X-User": "free"})).json()

    assert (paid["credits_consumed"], paid["remaining_balance"]) == (3, 7)
    assert (free["credits_consumed"], free["transaction_id"]) == (0, None)
    assert available(entitlements, "ai_tokens") == (7, 0)


async def test_a_stream_pays_for_what_it_delivered(
    http: httpx2.AsyncClient, entitlements: Authority
) -> None:
    entitlements.give("user:ada", 100)

    answer = await http.post("/chat", params={"tokens": 30})
    nothing = await http.post("/chat", params={"tokens": 0})

    assert (answer.text.count("\n"), nothing.status_code) == (30, 402)
    assert available(entitlements) == (70, 0)


async def test_a_stream_whose_reader_disconnects_pays_for_what_it_delivered(
    app: FastAPI, entitlements: Authority
) -> None:
    entitlements.give("user:ada", 100)
    port = free_port()
    sockets = bind("127.0.0.1", port)
    server = Server(uvicorn.Config(app, lifespan="off", log_config=None, timeout_keep_alive=75))
    serving = asyncio.create_task(server.serve(sockets))

    url = f"http://127.0.0.1:{port}/chat?tokens=60"
    async with (
        httpx2.AsyncClient(trust_env=False) as client,
        client.stream("POST", url, headers={"X-User": "ada"}) as answer,
    ):
        lines = answer.aiter_lines()
        while await anext(lines) != "59":
            pass
        assert available(entitlements) == (100, 100)
    server.should_exit = True
    await serving
    for one in sockets:
        one.close()

    await holds_ended()
    assert available(entitlements) == (40, 0)


async def test_limits_refuse_too(http: httpx2.AsyncClient, entitlements: Authority) -> None:
    entitlements.give("user:ada", 1000)
    for _ in range(2):
        assert (await http.post("/chat")).status_code == 200

    refused = await http.post("/chat")

    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limit_exceeded")
    assert int(refused.headers["retry-after"]) > 0


async def test_if_the_service_is_unavailable_the_handler_does_not_run(
    http: httpx2.AsyncClient, app: FastAPI, entitlements: Authority
) -> None:
    class Away(Authority):
        async def ask(self, call: Any) -> Any:  # noqa: ARG002 - any request
            raise errors.Unavailable("unreachable", "the service does not answer", retry_after_s=2)

    install(app, Away(entitlements.sync, entitlements.clock))

    refused = await http.post("/summary")

    assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")


async def test_refusals_are_in_the_openapi_document(http: httpx2.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()

    responses = document["paths"]["/summary"]["post"]["responses"]
    assert {"402", "429", "503"} <= responses.keys()
    assert "application/problem+json" in responses["402"]["content"]


async def test_an_application_without_a_user_gets_an_error() -> None:
    app = FastAPI()
    app.include_router(router)
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://app") as client:
        with pytest.raises(RuntimeError, match="install"):
            await client.post("/summary", headers={"X-User": "ada"})


async def test_a_feature_is_checked_before_the_handler_and_nothing_is_charged(
    http: httpx2.AsyncClient, entitlements: Authority
) -> None:
    entitlements.give("user:ada", 12)

    allowed = await http.post("/batch")
    unknown = await http.post("/export")
    for number in range(2):
        entitlements.sync.consume(
            user_id="ada", metric="batch_create", correlation_id=f"batch-{number}"
        )
    often = await http.post("/batch")

    assert (allowed.status_code, allowed.json()) == (200, True)
    assert (unknown.status_code, unknown.json()["code"]) == (402, "policy_denied")
    assert unknown.json()["detail"].startswith("an export: ")
    assert (often.status_code, often.json()["code"]) == (429, "rate_limit_exceeded")
    assert int(often.headers["Retry-After"]) > 0
    assert available(entitlements) == (12, 0)


async def test_users_can_be_mappings_and_a_charge_can_be_read_by_keys(
    entitlements: Authority,
) -> None:
    def session() -> dict[str, Any]:
        return {"id": "ada", "tier": "free"}

    async def by_tier(_: Request, who: dict[str, Any]) -> int:
        return {"pro": 2}.get(who["tier"], 5)

    app = FastAPI(responses=RESPONSES)
    install(app, entitlements)
    message = require_variable_credits("credits", by_tier, "AI Chat Message", user=session)

    @app.post("/messages")
    async def send_message(
        credit_info: Annotated[dict[str, Any], Depends(message)],
    ) -> dict[str, Any]:
        return {"used": credit_info["credits_consumed"], "all": {**credit_info}}

    await entitlements.adjust(subject_type="user", subject_id="ada", amount=20, reason="a gift")
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app), base_url="http://app"
    ) as http:
        answer = (await http.post("/messages")).json()

    assert answer["used"] == 5
    assert answer["all"].keys() == {
        "credits_consumed", "remaining_balance", "transaction_id", "credit_type",
    }  # fmt: skip
    assert answer["all"]["remaining_balance"] == 15
