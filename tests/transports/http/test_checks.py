"""Checks over HTTP: statuses and bodies exactly as specified."""

from datetime import timedelta

from entitlements.core.commands import CreateGrant
from entitlements.core.model import GrantDetails, WalletKey
from entitlements.core.outcomes import Granted
from entitlements.core.reasons import GrantReason
from entitlements.ids import uuid7
from tests.stores.clerk import origin
from tests.transports.http.api import Api

CHECK = "/v1/entitlements/check-credits"
BULK = "/v1/entitlements/check-credits/bulk"
HOLDS = "/v1/entitlements/holds"


async def test_a_check_is_200_whether_allowed_or_denied(api: Api) -> None:
    await api.give("user:ada", 3)

    allowed = await api.post(CHECK, {"user_id": "ada", "metric": "cj_comparison", "amount": 3})
    denied = await api.post(CHECK, {"user_id": "ada", "metric": "cj_comparison", "amount": 4})
    unknown = await api.post(CHECK, {"user_id": "ada", "metric": "unheard"})

    assert [answer.status_code for answer in (allowed, denied, unknown)] == [200, 200, 200]
    assert allowed.json() == {
        "allowed": True,
        "reason": None,
        "required_credits": 3,
        "available_credits": 3,
        "source": "user",
    }
    assert denied.json() == {
        "allowed": False,
        "reason": "insufficient_credits",
        "required_credits": 4,
        "available_credits": 3,
        "source": None,
    }
    assert unknown.json()["reason"] == "policy_denied"


async def test_the_amount_is_one_if_left_out(api: Api) -> None:
    answer = await api.post(CHECK, {"user_id": "ada", "metric": "ai_feedback_generation"})

    assert answer.json()["required_credits"] == 5


async def test_an_allowed_bulk_check_shows_the_payer_on_every_metric(api: Api) -> None:
    await api.give("org:school", 100)

    answer = await api.post(
        BULK,
        {
            "user_id": 7,
            "org_id": "school",
            "requirements": {"cj_comparison": 45, "ai_feedback_generation": 10, "spellcheck": 3},
            "correlation_id": "batch å 1",
        },
    )

    assert answer.status_code == 200
    paid = {"available": 100, "allowed": True, "source": "org", "reason": None}
    assert answer.json() == {
        "allowed": True,
        "required_credits": 95,
        "available_credits": 100,
        "per_metric": {
            "cj_comparison": {"required": 45, **paid},
            "ai_feedback_generation": {"required": 50, **paid},
            "spellcheck": {"required": 0, **paid},
        },
        "denial_reason": None,
        "correlation_id": "batch å 1",
        "by_credit_type": {"credits": {"required": 95, "org": 100, "user": 0}},
    }


async def test_insufficient_credits_are_402_with_the_missing_amount(api: Api) -> None:
    await api.give("org:school", 60)
    await api.give("user:ada", 50)

    answer = await api.post(
        BULK,
        {
            "user_id": "ada",
            "org_id": "school",
            "requirements": {"cj_comparison": 100, "spellcheck": 1},
        },
        x_correlation_id="from-header",
    )

    assert answer.status_code == 402
    body = answer.json()
    assert body["denial_reason"] == "insufficient_credits"
    assert (body["required_credits"], body["available_credits"]) == (100, 50)
    assert body["balances"] == {"org": 60, "user": 50}
    assert body["missing_credits"] == 40
    assert body["per_metric"]["cj_comparison"]["reason"] == "insufficient_credits"
    assert body["per_metric"]["spellcheck"] == {
        "required": 0,
        "available": 50,
        "allowed": True,
        "source": None,
        "reason": None,
    }
    assert body["correlation_id"] == "from-header"


async def test_without_an_org_its_balance_is_null(api: Api) -> None:
    answer = await api.post(BULK, {"user_id": "ada", "org_id": "", "requirements": {"cj_comparison": 1}})  # fmt: skip  # noqa: E501

    assert answer.json()["balances"] == {"org": None, "user": 0}


async def test_held_credits_and_the_time_when_lapsing_holds_suffice_are_shown(api: Api) -> None:
    await api.give("org:school", 100)
    who = {"user_id": "ada", "org_id": "school"}
    for credits, ttl_s in ((30, 900), (50, 300)):
        body = who | {"credits": credits, "ttl_seconds": ttl_s}
        assert (await api.post(HOLDS, body)).status_code == 201
    asked = who | {"correlation_id": "c"}

    short = await api.post(BULK, asked | {"requirements": {"cj_comparison": 50}})
    held = await api.post(HOLDS, who | {"credits": 90})
    never = await api.post(BULK, asked | {"requirements": {"cj_comparison": 101}})

    nothing = {"balance": 0, "held": 0, "available": 0}
    assert short.status_code == 402
    assert short.json()["candidates"] == {
        "org": {"balance": 100, "held": 80, "available": 20, "missing": 30},
        "user": nothing | {"missing": 50},
    }
    assert 280 < int(short.headers["Retry-After"]) <= 300
    assert short.json()["retry_after_seconds"] == int(short.headers["Retry-After"])
    assert held.json()["candidates"]["org"]["missing"] == 70
    assert 880 < int(held.headers["Retry-After"]) <= 900
    assert "Retry-After" not in never.headers
    assert "retry_after_seconds" not in never.json()


async def test_a_scheduled_grant_gives_no_retry_after(api: Api) -> None:
    await api.give("user:ada", 10)
    body = {"user_id": "ada", "credits": 10, "ttl_seconds": 300}
    await api.post(HOLDS, body)
    grant = CreateGrant(
        id=uuid7(),
        origin=origin(),
        wallet=WalletKey("user", "ada", "credits"),
        quantity=50,
        reason=GrantReason.PROMOTION,
        granted_at=api.system.clock() + timedelta(seconds=60),
        details=GrantDetails(granted_by="test"),
    )
    assert isinstance(await api.system.engine.committer.submit(grant), Granted)

    answer = await api.post(HOLDS, {"user_id": "ada", "credits": 20})

    assert answer.json()["candidates"]["org"] is None
    assert "Retry-After" not in answer.headers


async def test_an_unknown_metric_is_402_and_nothing_is_available(api: Api) -> None:
    await api.give("user:ada", 50)

    answer = await api.post(BULK, {"user_id": "ada", "requirements": {"unheard": 2, "cj_comparison": 4}})  # fmt: skip  # noqa: E501

    assert answer.status_code == 402
    body = answer.json()
    assert body["denial_reason"] == "policy_denied"
    assert (body["required_credits"], body["available_credits"]) == (4, 0)
    assert body["per_metric"]["unheard"]["detail"] == "unknown_metric"
    assert {line["available"] for line in body["per_metric"].values()} == {0}
    assert body["per_metric"]["cj_comparison"]["allowed"] is True


async def test_all_free_metrics_require_no_credits(api: Api) -> None:
    answer = await api.post(BULK, {"user_id": "ada", "requirements": {"spellcheck": 9}})

    body = answer.json()
    assert (answer.status_code, body["required_credits"], body["available_credits"]) == (200, 0, 0)
    assert body["per_metric"]["spellcheck"]["source"] is None


async def test_a_check_reserves_and_records_nothing(api: Api) -> None:
    await api.give("user:ada", 10)
    before = await api.ledger()

    for _ in range(3):
        await api.post(CHECK, {"user_id": "ada", "metric": "cj_comparison", "amount": 10})

    assert await api.ledger() == before


async def test_a_thousand_metrics_and_no_more(api: Api) -> None:
    def asking(count: int) -> dict[str, object]:
        return {"user_id": "ada", "requirements": {f"m{number}": 1 for number in range(count)}}

    assert (await api.post(BULK, asking(1_000))).status_code == 402
    assert (await api.post(BULK, asking(1_001))).status_code == 400


async def test_a_product_beyond_the_largest_amount_is_400(api: Api) -> None:
    answer = await api.post(CHECK, {"user_id": "ada", "metric": "ai_feedback_generation", "amount": 10**15})  # fmt: skip  # noqa: E501

    assert (answer.status_code, answer.json()["code"]) == (400, "amount_too_large")


async def test_a_subject_that_owes_more_than_the_debt_gate_does_not_pay(api: Api) -> None:
    content = "costs: {essay: 5}\nsignup_bonuses: {user: 0, org: 0}\ndebt_gate: 9\n"
    await api.post("/v1/admin/policies", {"content": content})
    work = {"user_id": "ada", "metric": "essay", "amount": 2, "correlation_id": "c"}
    owed = (await api.post("/v1/entitlements/consume-credits", work)).json()
    await api.give("user:ada", 50)
    asked = {"user_id": "ada", "requirements": {"essay": 1}}

    denied = await api.post(f"{BULK}?explain=true", asked)
    held = await api.post("/v1/entitlements/holds", {"user_id": "ada", "credits": 5})
    await api.post(f"/v1/admin/credits/debts/{owed['operation_id']}/settle", {"amount": 1})
    allowed = await api.post(BULK, asked)

    body = denied.json()
    assert (denied.status_code, body["denial_reason"]) == (402, "insufficient_credits")
    assert body["per_metric"]["essay"]["detail"] == "debt_gate"
    assert body["explain"]["binding"]["gate"] == "debt_gate"
    assert body["explain"]["binding"]["inputs"]["owed"] == {"credits": 10}
    assert held.status_code == 402
    assert (allowed.status_code, allowed.json()["allowed"]) == (200, True)
