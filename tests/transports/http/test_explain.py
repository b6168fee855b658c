"""Explanations over HTTP, on the clock and grants of a real store."""

from datetime import datetime, timedelta

from tests.concurrency.scene import grant, org
from tests.transports.http.api import Api

CHECK = "/v1/entitlements/check-credits"
BULK = "/v1/entitlements/check-credits/bulk"


async def test_an_explanation_does_not_change_the_response(api: Api) -> None:
    await api.give("org:school", 20)
    await api.give("org:school", 30)
    body = {"user_id": "ada", "org_id": "school", "requirements": {"cj_comparison": 45}}

    plain = await api.post(BULK, body | {"correlation_id": "c"})
    told = await api.post(f"{BULK}?explain=true", body | {"correlation_id": "c"})

    explain = told.json()["explain"]
    assert told.json() == plain.json() | {"explain": explain}
    assert [(gate["gate"], gate["verdict"]) for gate in explain["gates"]] == [
        ("policy", "pass"),
        ("limit", "pass"),
        ("payer", "pass"),
        ("payer", "skipped"),
    ]
    assert [draw["quantity"] for draw in explain["draws"]] == [20, 25]
    assert explain["wallets"][1] == {
        "subject": "org:school",
        "credit_type": "credits",
        "balance": 50,
        "held": 0,
        "available": 50,
    }
    assert explain["binding"] is None
    assert explain["policy_version"] == api.system.engine.policies.active.version


async def test_the_explained_draws_are_those_of_the_consumption(api: Api) -> None:
    for amount in (3, 4, 5, 6, 7, 8, 9, 10, 11):
        await api.give("user:ada", amount)
    told = await api.post(f"{CHECK}?explain=1", {"user_id": "ada", "metric": "x"})
    assert told.status_code == 200

    told = await api.post(
        f"{CHECK}?explain=1", {"user_id": "ada", "metric": "cj_comparison", "amount": 61}
    )
    await api.post(
        "/v1/entitlements/consume-credits",
        {"user_id": "ada", "metric": "cj_comparison", "amount": 61, "correlation_id": "c"},
    )

    drawn = (await api.ledger())[0]["draws"]
    told_draws = told.json()["explain"]["draws"]
    assert [(one["grant_id"], one["quantity"]) for one in told_draws] == [
        (one["grant_id"], one["quantity"]) for one in drawn
    ]


async def test_a_denial_shows_when_a_scheduled_grant_will_cover_it(api: Api) -> None:
    at = api.system.clock().replace(microsecond=0) + timedelta(days=3)
    await api.system.engine.committer.submit(grant(org("school"), 50, granted_at=at))

    told = await api.post(
        f"{BULK}?explain=true",
        {"user_id": "ada", "org_id": "school", "requirements": {"cj_comparison": 50}},
    )

    explain = told.json()["explain"]
    assert told.status_code == 402
    assert explain["binding"]["gate"] == "payer"
    assert explain["binding"]["inputs"]["available"] == {"credits": 0}
    assert datetime.fromisoformat(explain["passes_at"]) == at


async def test_explain_takes_true_or_false(api: Api) -> None:
    body = {"user_id": "ada", "metric": "cj_comparison"}

    assert "explain" not in (await api.post(f"{CHECK}?explain=false", body)).json()
    assert (await api.post(f"{CHECK}?explain=perhaps", body)).status_code == 400
