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

from entitlements import EntitlementType
from entitlements.contracts import errors
from entitlements.contracts.http import AccessResponse, BulkCheckResponse
from entitlements.fastapi import (
    RESPONSES,
    Charge,
    Held,
    hold_credits,
    install,
    require_credits,
    require_entitlement,
    require_feature,
    require_metric,
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
batches = require_metric("batch_create", "a new batch", user=user, org=org)
unknown = require_metric("a-typo", "a batch without a price", user=user)
exports = require_feature("export", "an export", user=user, org=org)
pro = require_entitlement("tier_access", tier_id="pro", user=user)
tokens = require_entitlement(
    EntitlementType.CREDIT_GRANT, credit_type="ai_tokens", required_quantity=9, user=user
)


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


@router.post("/unknown")
async def make_unknown(check: Annotated[BulkCheckResponse, Depends(unknown)]) -> bool:
    return check.allowed


@router.post("/export")
async def export(access: Annotated[AccessResponse, Depends(exports)]) -> dict[str, Any]:
    return access.limitations


@router.post("/pro", dependencies=[Depends(pro)])
async def only_for_pro() -> bool:
    return True


@router.post("/tokens")
async def has_tokens(access: Annotated[AccessResponse, Depends(tokens)]) -> int | None:
    return access.total_available_quantity


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

    refused = [await http.post(path) for path in ("/summary", "/batch", "/export")]

    assert {(one.status_code, one.headers["retry-after"]) for one in refused} == {(503, "2")}


async def test_refusals_are_in_the_openapi_document(http: httpx2.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()

    responses = document["paths"]["/summary"]["post"]["responses"]
    assert {"402", "403", "429", "503"} <= responses.keys()
    assert "application/problem+json" in responses["402"]["content"]


async def test_an_application_without_an_engine_gets_an_error() -> None:
    app = FastAPI()
    app.include_router(router)
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://app") as client:
        with pytest.raises(RuntimeError, match="install"):
            await client.post("/summary", headers={"X-User": "ada"})


async def test_a_metric_is_checked_before_the_handler_and_nothing_is_charged(
    http: httpx2.AsyncClient, entitlements: Authority
) -> None:
    entitlements.give("user:ada", 12)

    allowed = await http.post("/batch")
    unpriced = await http.post("/unknown")
    for number in range(2):
        entitlements.sync.consume(
            user_id="ada", metric="batch_create", correlation_id=f"batch-{number}"
        )
    often = await http.post("/batch")

    assert (allowed.status_code, allowed.json()) == (200, True)
    assert (unpriced.status_code, unpriced.json()["code"]) == (402, "policy_denied")
    assert unpriced.json()["detail"].startswith("a batch without a price: ")
    assert (often.status_code, often.json()["code"]) == (429, "rate_limit_exceeded")
    assert int(often.headers["Retry-After"]) > 0
    assert available(entitlements) == (12, 0)


async def test_a_feature_is_required_of_the_user_or_the_org(
    http: httpx2.AsyncClient, entitlements: Authority
) -> None:
    entitlements.sync.grant(
        subject_type="org",
        subject_id="school",
        entitlement_type="feature_unlock",
        feature="export",
        grant_reason="enterprise_contract",
        metadata={"rows_max": 500},
    )

    refused = await http.post("/export")
    allowed = await http.post("/export", headers={"X-Org": "school"})

    assert (refused.status_code, refused.headers["content-type"]) == (
        403,
        "application/problem+json",
    )
    problem = refused.json()
    assert (problem["code"], problem["status"]) == ("not_entitled", 403)
    assert problem["detail"] == "an export: no active feature_unlock with feature 'export'"
    assert problem["data"] == {"entitlement_type": "feature_unlock", "feature": "export"}
    assert (allowed.status_code, allowed.json()) == (200, {"rows_max": 500})


async def test_an_entitlement_is_required_until_it_is_revoked(
    http: httpx2.AsyncClient, entitlements: Authority
) -> None:
    given = entitlements.sync.grant(
        user_id="ada", entitlement_type="tier_access", tier_id="pro", grant_reason="manual"
    )

    during = await http.post("/pro")
    entitlements.sync.revoke(given.id)
    after = await http.post("/pro")

    assert (during.status_code, after.status_code) == (200, 403)
    assert after.json()["detail"] == "no active tier_access with tier_id 'pro'"


async def test_a_missing_quantity_is_a_402_and_nothing_is_charged(
    http: httpx2.AsyncClient, entitlements: Authority
) -> None:
    entitlements.give("user:ada", 8, credit_type="ai_tokens")

    short = await http.post("/tokens")
    entitlements.give("user:ada", 1, credit_type="ai_tokens")
    enough = await http.post("/tokens")

    assert (short.status_code, short.json()["code"]) == (402, "insufficient_credits")
    assert short.json()["data"] == {
        "entitlement_type": "credit_grant",
        "credit_type": "ai_tokens",
        "required": 9,
        "available": 8,
    }
    assert (enough.status_code, enough.json()) == (200, 9)
    assert available(entitlements, "ai_tokens") == (9, 0)


def test_an_unknown_type_is_refused_before_any_request() -> None:
    with pytest.raises(ValueError, match="magic"):
        require_entitlement("magic")  # type: ignore[arg-type]


async def test_a_user_and_an_org_are_named_once_for_the_app(entitlements: Authority) -> None:
    app = FastAPI()
    install(app, entitlements, user=user, org=org)
    entitlements.give("org:school", 5)

    @app.post("/summary")
    async def charged(
        charge: Annotated[Charge, Depends(require_credits("credits", 3, "a summary"))],
    ) -> int:
        return charge.remaining_balance

    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app), base_url="http://app", headers={"X-User": "ada"}
    ) as http:
        alone = await http.post("/summary")
        within = await http.post("/summary", headers={"X-Org": "school"})

    assert (alone.status_code, within.json()) == (402, 2)


async def test_an_app_that_names_no_user_gets_an_error(entitlements: Authority) -> None:
    app = FastAPI()
    install(app, entitlements)

    @app.post("/export", dependencies=[Depends(require_feature("export"))])
    async def guarded() -> None: ...

    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app), base_url="http://app"
    ) as http:
        with pytest.raises(RuntimeError, match="name the user"):
            await http.post("/export")


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
