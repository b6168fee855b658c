"""`EntitlementService`: every documented use, and the engine and handlers that it works with."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, get_args

import httpx2
import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, Request
from msgspec import Struct

from entitlements import (
    ConsumptionType,
    CreditType,
    EntitlementCheckRequest,
    EntitlementConsumptionRequest,
    EntitlementGrantRequest,
    EntitlementLifecycleHandler,
    Entitlements,
    EntitlementService,
    EntitlementType,
    GrantReason,
    InsufficientCreditsError,
    UserEntitlementRead,
    api,
    configure,
    lifecycle_handler,
)
from entitlements.contracts import errors, http
from entitlements.fastapi import install, require_credits, require_variable_credits
from tests.surfaces.scene import Clock, serving
from tests.tables import sqlite_url

on_every_engine = pytest.mark.parametrize(
    "named", ["embedded", "embedded_on_postgres", "client"], indirect=True
)
in_process = pytest.mark.parametrize("named", ["embedded", "embedded_on_postgres"], indirect=True)
USER_ID = 123


class Session:
    """A database session of the caller, which the service does not use."""


@pytest.fixture(autouse=True)
def not_configured() -> Iterator[None]:
    configure(None)
    yield
    configure(None)


@pytest.fixture
def service(face: api.Entitlements) -> EntitlementService:
    configure(face)
    return EntitlementService()


@pytest.fixture
def db() -> Session:
    return Session()


async def give_tokens(service: EntitlementService, quantity: int, **fields: Any) -> str:
    given = await service.grant_entitlement(
        user_id=USER_ID,
        entitlement_type=EntitlementType.CREDIT_GRANT,
        credit_type=CreditType.AI_TOKENS,
        quantity_granted=quantity,
        grant_reason=GrantReason.PURCHASE,
        **fields,
    )
    return given.id


@on_every_engine
async def test_a_check_says_whether_a_user_has_a_feature(
    service: EntitlementService, db: Session
) -> None:
    wanted = EntitlementCheckRequest(
        user_id=USER_ID, entitlement_type=EntitlementType.FEATURE_UNLOCK
    )
    before = await service.check_entitlement(wanted, db)
    await service.grant_entitlement(
        EntitlementGrantRequest(
            user_id=USER_ID,
            entitlement_type=EntitlementType.FEATURE_UNLOCK,
            feature="export",
            grant_reason=GrantReason.ENTERPRISE_CONTRACT,
            entitlement_metadata={"rows_max": 500},
        ),
        db,
    )
    check = await service.check_entitlement(wanted, db)

    assert (before.has_access, check.has_access) == (False, True)
    assert (check.total_available_quantity, check.expires_at) == (None, None)
    assert check.limitations == {"rows_max": 500}


@on_every_engine
async def test_a_check_of_a_quantity_says_what_is_available(
    service: EntitlementService, db: Session
) -> None:
    async def use_tokens() -> None:
        check = await service.check_entitlement(
            EntitlementCheckRequest(
                user_id=USER_ID,
                entitlement_type=EntitlementType.CREDIT_GRANT,
                credit_type="ai_tokens",
                required_quantity=1000,
            ),
            db,
        )
        if not check.has_access:
            raise InsufficientCreditsError("This operation needs 1000 tokens")
        assert check.total_available_quantity == 1000

    await give_tokens(service, 999)
    with pytest.raises(InsufficientCreditsError, match="needs 1000") as refused:
        await use_tokens()
    await give_tokens(service, 1)
    await use_tokens()

    assert (refused.value.code, refused.value.status) == ("insufficient_credits", 402)
    assert (refused.value.required, refused.value.available) == (None, None)


@on_every_engine
async def test_credits_are_granted_with_a_reason_and_notes(
    service: EntitlementService, db: Session
) -> None:
    given = await service.grant_entitlement(
        EntitlementGrantRequest(
            user_id=USER_ID,
            entitlement_type=EntitlementType.CREDIT_GRANT,
            credit_type="ai_tokens",
            quantity_granted=5000,
            grant_reason=GrantReason.BONUS,
            notes="Invited a colleague",
        ),
        db,
    )

    assert isinstance(given, UserEntitlementRead)
    assert (given.user_id, given.credit_type, given.remaining) == ("123", "ai_tokens", 5000)
    assert (given.grant_reason, given.notes) == (GrantReason.BONUS, "Invited a colleague")
    assert (given.status, given.consumption_type) == ("active", ConsumptionType.DECREMENTAL)


@on_every_engine
async def test_a_trial_ends_by_itself(
    service: EntitlementService, db: Session, clock: Clock
) -> None:
    await service.grant_entitlement(
        EntitlementGrantRequest(
            user_id=USER_ID,
            entitlement_type=EntitlementType.TEMPORARY_ACCESS,
            grant_reason=GrantReason.TRIAL,
            expires_at=clock.now + timedelta(days=14),
            entitlement_metadata={"trial_type": "full_access"},
        ),
        db,
    )
    wanted = EntitlementCheckRequest(
        user_id=USER_ID, entitlement_type=EntitlementType.TEMPORARY_ACCESS
    )
    during = await service.check_entitlement(wanted, db)
    clock.advance(days=14)
    after = await service.check_entitlement(wanted, db)

    assert (during.has_access, after.has_access) == (True, False)
    assert during.expires_at == clock.now
    assert during.limitations == {"trial_type": "full_access"}


@on_every_engine
async def test_a_quota_starts_again_on_the_first_of_the_month(
    service: EntitlementService, db: Session, clock: Clock
) -> None:
    await service.grant_entitlement(
        EntitlementGrantRequest(
            user_id=USER_ID,
            entitlement_type=EntitlementType.USAGE_ALLOWANCE,
            grant_reason=GrantReason.SUBSCRIPTION,
            reference_id="sub_abc123",
            quantity_granted=10000,
            consumption_type=ConsumptionType.RENEWABLE,
            entitlement_metadata={"reset_day": 1},
        ),
        db,
    )
    wanted = EntitlementCheckRequest(
        user_id=USER_ID, entitlement_type=EntitlementType.USAGE_ALLOWANCE
    )
    await service.consume_entitlement(
        EntitlementConsumptionRequest(
            user_id=USER_ID,
            entitlement_type=EntitlementType.USAGE_ALLOWANCE,
            quantity_to_consume=9000,
        ),
        db,
    )
    in_march = await service.check_entitlement(wanted, db)
    clock.advance(days=31)
    in_april = await service.check_entitlement(wanted, db)

    assert in_march.total_available_quantity == 1000
    assert in_april.total_available_quantity == 10000


@on_every_engine
async def test_a_product_that_was_bought_stays(service: EntitlementService, db: Session) -> None:
    given = await service.grant_entitlement(
        EntitlementGrantRequest(
            user_id=USER_ID,
            entitlement_type=EntitlementType.PRODUCT_ACCESS,
            product_id=42,
            grant_reason=GrantReason.PURCHASE,
            reference_id="pi_xyz789",
            cost_microcents=4900000,
        ),
        db,
    )
    check = await service.check_entitlement(
        user_id=USER_ID, entitlement_type=EntitlementType.PRODUCT_ACCESS, product_id=42
    )

    assert (given.product_id, given.cost_microcents, given.expires_at) == ("42", 4900000, None)
    assert check.has_access


@on_every_engine
async def test_consumption_is_spread_over_grants_and_returns_usage_records(
    service: EntitlementService, face: api.Entitlements, db: Session, clock: Clock
) -> None:
    oldest = await give_tokens(service, 300)
    clock.advance(seconds=1)
    newest = await give_tokens(service, 400)
    request = EntitlementConsumptionRequest(
        user_id=USER_ID,
        entitlement_type=EntitlementType.CREDIT_GRANT,
        credit_type="ai_tokens",
        quantity_to_consume=500,
        usage_context={"model": "gpt-4", "conversation_id": 123},
    )
    usage_records = await service.consume_entitlement(request, db)
    with pytest.raises(InsufficientCreditsError) as refused:
        await service.consume_entitlement(request, db)
    (spent, *_) = (await face.operations(subject_type="user", subject_id=USER_ID)).operations

    assert usage_records == [
        http.UsageRecord(grant_id=oldest, quantity=300),
        http.UsageRecord(grant_id=newest, quantity=200),
    ]
    assert (refused.value.required, refused.value.available) == (500, 200)
    assert (spent.amount, spent.usage_context) == (500, request.usage_context)


@on_every_engine
async def test_a_hold_that_is_denied_raises_the_same_error(
    service: EntitlementService, face: api.Entitlements
) -> None:
    await give_tokens(service, 4)
    with pytest.raises(InsufficientCreditsError) as refused:
        await face.take_hold(user_id=USER_ID, credits=5, credit_type=CreditType.AI_TOKENS)

    assert (refused.value.required, refused.value.available) == (5, 4)


@on_every_engine
async def test_one_entitlement_is_revoked_by_its_id(
    service: EntitlementService, db: Session
) -> None:
    given = await give_tokens(service, 5)
    revoked = await service.revoke_entitlement(
        entitlement_id=given, db=db, reason="Subscription cancelled"
    )
    with pytest.raises(errors.NotFound):
        await service.revoke_entitlement(entitlement_id=123, db=db)

    assert (revoked.id, revoked.status) == (given, "revoked")
    assert revoked.revoke_reason == "Subscription cancelled"


@on_every_engine
async def test_all_entitlements_of_a_reference_are_revoked(
    service: EntitlementService, db: Session
) -> None:
    given = {await give_tokens(service, 5, reference_id="sub_abc123") for _ in range(2)}
    await give_tokens(service, 7, reference_id="sub_other")
    revoked = await service.revoke_entitlements_by_reference(
        reference_id="sub_abc123", db=db, reason="Refund processed"
    )
    summary = await service.get_user_summary(user_id=USER_ID, db=db)

    assert {one.id for one in revoked} == given
    assert {(one.status, one.revoke_reason) for one in revoked} == {("revoked", "Refund processed")}
    assert summary.total_credits_available == {"ai_tokens": 7}


@on_every_engine
async def test_a_summary_shows_what_a_user_has(service: EntitlementService, db: Session) -> None:
    await give_tokens(service, 7300)
    await service.grant_entitlement(
        user_id=USER_ID,
        entitlement_type="subscription",
        subscription_id="sub_abc123",
        grant_reason="subscription",
    )
    await service.consume_entitlement(
        user_id=USER_ID,
        entitlement_type="credit_grant",
        credit_type="ai_tokens",
        quantity_to_consume=2300,
    )
    summary = await service.get_user_summary(user_id=123, db=db)

    assert (summary.active_entitlements, summary.has_active_subscription) == (2, True)
    assert summary.total_credits_available == {"ai_tokens": 5000}
    assert summary.total_credits_used == {"ai_tokens": 2300}


def current_user(x_tier: str = Header(default="free")) -> dict[str, Any]:
    return {"id": USER_ID, "tier_name": x_tier}


def calculate_ai_message_cost(request: Request, user: dict[str, Any]) -> int:
    tier = user.get("tier_name", "free")
    return {"enterprise": 1, "pro": 2, "starter": 3, "free": 5}.get(tier, 5)


ConsumeDocumentCredits = require_credits(
    credit_type=CreditType.DOCUMENT_ANALYSIS, cost=10, description="Document Analysis"
)
ConsumeAICredits = require_variable_credits(
    credit_type=CreditType.AI_TOKENS,
    cost_calculator=calculate_ai_message_cost,
    description="AI Chat Message",
)
router = APIRouter()


@router.post("/analyze")
async def analyze_document(
    credit_info: dict[str, Any] = Depends(ConsumeDocumentCredits),  # noqa: FAST002
    fail: bool = False,  # noqa: FBT001, FBT002
) -> dict[str, Any]:
    if fail:
        raise ValueError("the document cannot be read")
    return {**credit_info}


@router.post("/{conversation_id}/messages")
async def send_message(
    conversation_id: int,
    credit_info: dict[str, Any] = Depends(ConsumeAICredits),  # noqa: FAST002
) -> dict[str, Any]:
    response: dict[str, Any] = {"conversation_id": conversation_id}
    response["credit_transaction"] = {
        "credits_used": credit_info["credits_consumed"],
        "remaining_balance": credit_info["remaining_balance"],
    }
    return response


@pytest.fixture
async def requests(face: api.Entitlements) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of an app that charges its users; it names the user once."""
    app = FastAPI()
    app.include_router(router)
    install(app, face, user=current_user)
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://app") as client:
        yield client


@in_process
async def test_a_fixed_cost_is_charged_unless_the_handler_fails(
    requests: httpx2.AsyncClient,
) -> None:
    await EntitlementService().grant_entitlement(
        user_id=USER_ID,
        entitlement_type=EntitlementType.CREDIT_GRANT,
        credit_type=CreditType.DOCUMENT_ANALYSIS,
        quantity_granted=19,
        grant_reason=GrantReason.PROMOTION,
    )
    failed = await requests.post("/analyze", params={"fail": True})
    credit_info = (await requests.post("/analyze")).json()
    refused = await requests.post("/analyze")

    assert failed.status_code == 500
    assert credit_info.pop("transaction_id")
    assert credit_info == {
        "credits_consumed": 10,
        "remaining_balance": 9,
        "credit_type": "document_analysis",
    }
    assert refused.status_code == 402
    assert refused.json()["detail"].startswith("Document Analysis: ")
    assert refused.json()["data"]["required_credits"] == 10


@in_process
async def test_a_cost_can_depend_on_the_tier_of_the_user(requests: httpx2.AsyncClient) -> None:
    await give_tokens(EntitlementService(), 20)
    answers = [
        (await requests.post("/7/messages", headers={"X-Tier": tier})).json()
        for tier in ("enterprise", "free")
    ]

    assert [one["credit_transaction"] for one in answers] == [
        {"credits_used": 1, "remaining_balance": 19},
        {"credits_used": 5, "remaining_balance": 14},
    ]


async def test_administrators_grant_show_and_revoke_over_http(tmp_path: Path) -> None:
    async with (
        serving(sqlite_url(tmp_path)) as (_, port, key),
        httpx2.AsyncClient(
            base_url=f"http://127.0.0.1:{port}/api/v1/entitlements",
            headers={"Authorization": f"Bearer {key}"},
            trust_env=False,
        ) as admin,
    ):
        granted = await admin.post(
            "/grant",
            json={
                "user_id": 123,
                "entitlement_type": "credit_grant",
                "credit_type": "ai_tokens",
                "quantity_granted": 10000,
                "grant_reason": "promotion",
                "notes": "Sorry for the outage of 2024-01-15",
            },
        )
        given = granted.json()
        listed = (await admin.get("/users/123")).json()
        summary = (await admin.get("/users/123/summary")).json()
        shown = (await admin.get(f"/{given['id']}")).json()
        revoked = (await admin.delete(f"/{given['id']}")).json()
        unknown = [await admin.get("/123"), await admin.delete("/123")]

    assert (granted.status_code, given["user_id"], given["remaining"]) == (201, "123", 10000)
    assert [one["id"] for one in listed["entitlements"]] == [given["id"]]
    assert summary["total_credits_available"] == {"ai_tokens": 10000}
    assert (shown["status"], shown["notes"]) == ("active", given["notes"])
    assert (revoked["status"], revoked["remaining"]) == ("revoked", 0)
    assert [one.status_code for one in unknown] == [404, 404]


class GracePeriodHandler(EntitlementLifecycleHandler):
    """Two weeks of access after a subscription."""

    def __init__(self, entitlement_service: EntitlementService) -> None:
        self.entitlement_service = entitlement_service
        self.ends_at = Clock().now + timedelta(days=14)

    async def handle_subscription_cancelled(  # type: ignore[override] # db is required here
        self, subscription_id: str, db: Any, **context: Any
    ) -> list[UserEntitlementRead]:
        revoked = await self.entitlement_service.revoke_entitlements_by_reference(
            subscription_id, db, reason="Subscription cancelled"
        )
        user_id = context.get("user_id")
        if user_id:
            await self.entitlement_service.grant_entitlement(
                EntitlementGrantRequest(
                    user_id=user_id,
                    entitlement_type=EntitlementType.TEMPORARY_ACCESS,
                    expires_at=self.ends_at,
                    grant_reason=GrantReason.SUBSCRIPTION_CANCELLED,
                ),
                db,
            )
        return revoked


lifecycle_handler("fortnight")(GracePeriodHandler)


@on_every_engine
async def test_a_handler_decides_what_a_cancelled_subscription_leaves(
    face: api.Entitlements, db: Session
) -> None:
    configure(face)
    service = EntitlementService(lifecycle_handler_name="fortnight")
    given = await give_tokens(service, 5, reference_id="sub_1")
    handler = service.lifecycle_handler
    revoked = await handler.handle_subscription_cancelled("sub_1", db, user_id=USER_ID)
    expired = await handler.handle_subscription_expired("sub_1", db, user_id="another")
    check = await service.check_entitlement(user_id=USER_ID, entitlement_type="temporary_access")

    assert isinstance(handler, GracePeriodHandler)
    assert ([one.id for one in revoked], expired) == ([given], [])
    assert check.expires_at == handler.ends_at
    assert [one.grant_reason for one in check.sources] == ["subscription_cancelled"]


async def test_without_a_handler_name_what_a_subscription_gave_is_revoked_at_its_end(
    entitlements: api.Entitlements,
) -> None:
    service = EntitlementService(entitlements)
    handler = service.lifecycle_handler
    given = [await give_tokens(service, 5, reference_id=name) for name in ("sub_1", "sub_2")]
    kept = [
        await handler.handle_subscription_activated("sub_1", user_id=USER_ID),
        await handler.handle_subscription_changed("sub_1", user_id=USER_ID),
        await handler.handle_subscription_past_due("sub_1", user_id=USER_ID),
    ]
    cancelled = await handler.handle_subscription_cancelled("sub_1", user_id=USER_ID)
    expired = await handler.handle_subscription_expired("sub_2", user_id=USER_ID)

    assert kept == [[], [], []]
    assert [one.id for one in (*cancelled, *expired)] == given


def test_an_unknown_handler_is_refused_with_the_known_ones() -> None:
    with pytest.raises(LookupError, match=r"no lifecycle handler 'unheard_of'; known:.*fortnight"):
        EntitlementService(lifecycle_handler_name="unheard_of")


def test_a_name_belongs_to_one_handler() -> None:
    class Other(EntitlementLifecycleHandler):
        pass

    lifecycle_handler("fortnight")(GracePeriodHandler)
    with pytest.raises(ValueError, match="GracePeriodHandler is already the handler 'fortnight'"):
        lifecycle_handler("fortnight")(Other)


def test_an_installed_package_can_have_handlers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "house.py").write_text(
        "from entitlements import EntitlementLifecycleHandler\n"
        "class House(EntitlementLifecycleHandler): pass\n"
    )
    installed = tmp_path / "house-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: house\nVersion: 1\n")
    (installed / "entry_points.txt").write_text(
        "[entitlements.lifecycle_handlers]\nhouse = house:House\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    service = EntitlementService(lifecycle_handler_name="house")

    assert type(service.lifecycle_handler).__name__ == "House"


async def test_a_service_without_an_engine_says_what_to_do_at_its_first_use(
    entitlements: api.Entitlements,
) -> None:
    service = EntitlementService()
    with pytest.raises(RuntimeError, match=r"entitlements\.configure\(e\)"):
        await service.get_user_summary("ada")
    configure(entitlements)

    assert (await service.get_user_summary("ada")).active_entitlements == 0


async def test_a_context_that_is_not_entered_is_no_engine(tmp_path: Path) -> None:
    configure(Entitlements.open(f"sqlite:///{tmp_path}/books.db"))  # type: ignore[arg-type]

    with pytest.raises(RuntimeError, match="no open engine"):
        await EntitlementService().get_user_summary("ada")


async def test_an_engine_as_db_is_used_instead_of_any_other(
    entitlements: api.Entitlements, tmp_path: Path
) -> None:
    async with Entitlements.open(f"sqlite:///{tmp_path}/other.db") as other:
        configure(other)
        service = EntitlementService(other)
        await service.grant_entitlement(
            EntitlementGrantRequest(
                user_id="ada", entitlement_type="api_access", grant_reason="manual"
            ),
            entitlements,
        )
        here = await service.get_user_summary("ada", db=entitlements)
        there = await service.get_user_summary("ada", db=Session())

    assert (here.active_entitlements, there.active_entitlements) == (1, 0)


async def test_a_repeat_with_the_same_key_changes_nothing_more(
    entitlements: api.Entitlements,
) -> None:
    service = EntitlementService(entitlements)
    given = [await give_tokens(service, 9, key="pi_1") for _ in range(2)]
    for _ in range(2):
        await service.consume_entitlement(
            user_id=USER_ID,
            entitlement_type="credit_grant",
            credit_type="ai_tokens",
            quantity_to_consume=2,
            key="job-1",
        )

    assert given[0] == given[1]
    summary = await service.get_user_summary(USER_ID)
    assert summary.total_credits_available == {"ai_tokens": 7}


async def test_a_bad_request_is_refused_and_names_its_field(
    entitlements: api.Entitlements,
) -> None:
    service = EntitlementService(entitlements)
    bad: dict[str, dict[str, Any]] = {
        "entitlement_type": {"entitlement_type": "magic"},
        "grant_reason": {"grant_reason": "whim"},
        "quantity_granted": {"quantity_granted": -1},
        "metadata.reset_day": {
            "consumption_type": ConsumptionType.RENEWABLE,
            "entitlement_metadata": {"reset_day": 32},
        },
    }
    named = []
    for fields in bad.values():
        usual: dict[str, Any] = {
            "user_id": USER_ID,
            "entitlement_type": EntitlementType.CREDIT_GRANT,
            "credit_type": "ai_tokens",
            "quantity_granted": 5,
            "grant_reason": GrantReason.BONUS,
        }
        with pytest.raises(errors.InvalidRequest) as refused:
            await service.grant_entitlement(**(usual | fields))
        named.append(refused.value.errors[0].field)
    with pytest.raises(TypeError, match="user"):
        await service.check_entitlement(user=USER_ID, entitlement_type="api_access")
    with pytest.raises(TypeError, match="not both"):
        await service.check_entitlement(
            EntitlementCheckRequest(user_id="ada", entitlement_type="api_access"), user_id="bo"
        )

    assert named == list(bad)
    assert (await service.get_user_summary(USER_ID)).active_entitlements == 0


@pytest.mark.parametrize(
    ("request_type", "contract", "left_out"),
    [
        (EntitlementCheckRequest, http.AccessRequest, set()),
        (EntitlementConsumptionRequest, http.SpendRequest, {"correlation_id"}),
        (EntitlementGrantRequest, http.GrantRequest, {"correlation_id", "metadata"}),
    ],
)
def test_requests_have_the_fields_of_their_contracts(
    request_type: type[Struct], contract: type[Struct], left_out: set[str]
) -> None:
    assert {*request_type.__struct_fields__} == {*contract.__struct_fields__} - left_out


@pytest.mark.parametrize(
    ("names", "literal"),
    [
        (EntitlementType, http.EntitlementType),
        (GrantReason, http.GrantReason),
        (ConsumptionType, http.ConsumptionType),
    ],
)
def test_names_are_those_of_the_contracts(names: type[StrEnum], literal: Any) -> None:
    assert [*names] == [*get_args(literal)]


def test_every_name_of_the_package_can_be_imported_and_loads_no_engine_before_its_use() -> None:
    program = (
        "import sys, entitlements\n"
        "bare = {name for name in sys.modules if name.startswith('entitlements')}\n"
        "assert bare == {'entitlements', 'entitlements.version'}, bare\n"
        "for name in entitlements.__all__:\n"
        "    if name != 'Entitlements':\n"
        "        getattr(entitlements, name)\n"
        "heavy = {'apsw', 'fastapi', 'httpx2', 'entitlements.app', 'entitlements.adapters'}\n"
        "assert not heavy & {*sys.modules}, heavy & {*sys.modules}\n"
        "assert entitlements.Entitlements.open\n"
    )
    subprocess.run([sys.executable, "-I", "-c", program], check=True)
