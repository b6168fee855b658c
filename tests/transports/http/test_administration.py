"""Accounts, adjustments, the ledger and debts over HTTP."""

from base64 import urlsafe_b64encode
from datetime import UTC, datetime

import pytest

from entitlements.app.engine import _keep_up
from entitlements.core.commands import OpenAccount
from entitlements.core.model import Subject
from entitlements.ids import uuid7
from tests.audit import audited
from tests.concurrency.scene import grant, user
from tests.observe.test_metrics import samples
from tests.stores.clerk import origin
from tests.transports.http.api import Api
from tests.waiting import until

ADJUST = "/v1/admin/credits/adjust"
SET = "/v1/admin/credits/set"
OPERATIONS = "/v1/admin/credits/operations"
DEBTS = "/v1/admin/credits/debts"
ADA = {"subject_type": "user", "subject_id": "ada"}
NOBODY = "0198c1f2-8a52-7c1e-9d5e-2f6a4c1b7e90"


def cursor(text: str) -> str:
    """Return a forged cursor."""
    return f"cursor={urlsafe_b64encode(text.encode()).decode()}"


async def test_an_account_gets_its_bonus_only_once(api: Api) -> None:
    first = await api.post("/v1/admin/accounts", ADA)
    again = await api.post("/v1/admin/accounts", ADA)

    assert (first.status_code, first.json()["created"], first.json()["bonus"]) == (201, True, 50)
    assert (again.status_code, again.json()["created"], again.json()["new_balance"]) == (
        200,
        False,
        50,
    )
    assert await api.balance("ada") == (50, None)


async def test_an_adjustment_adds_or_burns_credits_but_never_below_zero(api: Api) -> None:
    given = await api.post(ADJUST, ADA | {"amount": 20, "reason": "x"}, x_correlation_id="c")
    burnt = await api.post(ADJUST, ADA | {"amount": -15, "reason": "x"})
    below = await api.post(ADJUST, ADA | {"amount": -6, "reason": "x"})
    nothing = await api.post(ADJUST, ADA | {"amount": 0, "reason": "x"})

    fixed = {"success", "new_balance", "subject_type", "subject_id", "correlation_id"}
    assert fixed <= given.json().keys()
    assert (given.json()["new_balance"], given.json()["correlation_id"]) == (20, "c")
    assert burnt.json()["new_balance"] == 5
    assert (below.status_code, below.json()["code"]) == (400, "below_zero")
    assert nothing.status_code == 400
    assert await api.balance("ada") == (5, None)


async def test_two_equal_adjustments_are_two_unless_keyed(api: Api) -> None:
    body = ADA | {"amount": 5, "reason": "x"}

    for _ in range(2):
        await api.post(ADJUST, body)
    keyed = [await api.post(ADJUST, body, idempotency_key="k") for _ in range(2)]

    assert [answer.json()["replayed"] for answer in keyed] == [False, True]
    assert await api.balance("ada") == (15, None)


async def test_setting_a_balance_reaches_the_target_and_writes_nothing_if_already_there(
    api: Api,
) -> None:
    up = await api.post(SET, ADA | {"balance": 30})
    same = await api.post(SET, ADA | {"balance": 30})
    down = await api.post(SET, ADA | {"balance": 0})

    assert (up.json()["balance"], up.json()["delta"]) == (30, 30)
    assert (same.json()["operation_id"], same.json()["delta"]) == (None, 0)
    assert down.json()["balance"] == 0
    assert len(await api.ledger()) == 2


async def test_the_ledger_is_paged_newest_first(api: Api) -> None:
    for amount in range(1, 8):
        await api.give("user:ada", amount)
    await api.give("user:bo", 99)

    amounts, cursor = [], ""
    for _ in range(4):
        page = await api.call(
            "GET", OPERATIONS, params={"subject_id": "ada", "limit": 3, "cursor": cursor}
        )
        amounts += [operation["delta"] for operation in page.json()["operations"]]
        cursor = page.json()["next_cursor"]
        if not cursor:
            break

    assert amounts == [7, 6, 5, 4, 3, 2, 1]


async def test_a_listing_reports_how_far_it_looks_back(api: Api) -> None:
    async def since(**query: str) -> str | None:
        answer = await api.call("GET", OPERATIONS, params=query)
        found: str | None = answer.json()["since"]
        return found

    until = "2026-03-01T00:00:00Z"

    for name in ("metric", "user_id", "org_id", "batch_id"):
        assert await since(**{name: "x"}, until=until) == "2026-01-29T00:00:00Z"
    for query in ({"status": "completed"}, {"kind": "consume"}, {"subject_type": "org"}):
        assert await since(**query, until=until) == "2026-01-29T00:00:00Z"
    for name in ("subject_id", "correlation_id", "hold_id", "key"):
        assert await since(**{name: "x"}, metric="x") is None
    assert await since() is None
    assert await since(status="failed", metric="x") is None
    assert await since(metric="x", since="2020-01-01T00:00:00Z") == "2020-01-01T00:00:00Z"
    assert await since(metric="x", until="0001-01-05T00:00:00Z") == "0001-01-01T00:00:00Z"
    assert await since(metric="x") is not None


async def test_operations_are_found_by_the_key_of_their_request(api: Api) -> None:
    body = {"amount": 5, "reason": "gift", **ADA}
    done = (await api.post(ADJUST, body, Idempotency_Key="gift-1")).json()
    await api.give("user:ada", 1)

    answer = await api.call("GET", OPERATIONS, params={"key": "gift-1"})

    assert [one["id"] for one in answer.json()["operations"]] == [done["operation_id"]]


async def test_an_operation_names_its_actor_and_reason(api: Api) -> None:
    await api.post(ADJUST, ADA | {"amount": 5, "reason": "autumn"}, x_correlation_id="c-9")

    (operation,) = await api.ledger()

    assert operation["kind"] == operation["metric"] == "manual_adjustment"
    assert (operation["seq"], operation["delta"], operation["balance_after"]) == (1, 5, 5)
    assert (operation["reason"], operation["correlation_id"]) == ("autumn", "c-9")
    assert (operation["client"], operation["operation_status"]) == ("admin-client", "completed")
    keys = {key.name: key.id for key in await api.system.engine.store.keys.all()}
    assert operation["actor"] == keys["admin-client"]


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=1001", "limit=x", "since=yesterday", "since=2026-01-01T00:00:00",
     "since=0001-01-01T00:00:00%2B14:00", "until=9999-12-31T23:59:59-14:00",
     cursor(f"2026-01-01T00:00:00+00:00 urn:uuid:{NOBODY}"),
     cursor(f"0001-01-01T00:00:00+14:00 {NOBODY}"), cursor(f"2026-01-01T00:00:00 {NOBODY}"),
     "status=odd", "subject_type=team", "cursor=!!!", "cursor=AAAA", "subject_id=%00",
     "metric=%0A", "kind=odd", "key=%00", "correlation_id=%ED%A0%80",
     "&".join(f"x{n}=1" for n in range(60))],
)  # fmt: skip
async def test_a_listing_is_strict_about_its_filters(api: Api, query: str) -> None:
    answer = await api.call("GET", f"{OPERATIONS}?{query}")

    assert (answer.status_code, answer.json()["code"]) == (400, "validation_failed")


async def test_filters_narrow_the_listing(api: Api) -> None:
    await api.give("user:ada", 5)
    await api.give("org:school", 5)
    moment = (await api.ledger())[0]["created_at"]

    async def found(**query: str) -> int:
        answer = await api.call("GET", OPERATIONS, params=query)
        count: int = answer.json()["count"]
        return count

    assert await found(subject_type="org") == 1
    assert await found(metric="manual_adjustment") == 2
    assert await found(metric="unheard") == 0
    assert await found(since=moment) == 1
    assert await found(until=moment) == 1
    assert await found(status="failed") == 0


async def test_a_debt_is_settled_or_written_off_once(api: Api) -> None:
    for name in ("one", "two"):
        await api.post(
            "/v1/entitlements/consume-credits",
            {"user_id": "ada", "metric": "cj_comparison", "amount": 8, "correlation_id": name},
        )
    one, two = (
        f"{DEBTS}/{debt['operation_id']}" for debt in (await api.call("GET", DEBTS)).json()["debts"]
    )

    poor = await api.post(f"{one}/settle", {})
    await api.give("user:ada", 10)
    part = await api.post(f"{one}/settle", {"reason": "paid", "amount": 3})
    left = [debt["owed"] for debt in (await api.call("GET", DEBTS)).json()["debts"]]
    settled = await api.post(f"{one}/settle", {"reason": "paid"})
    forgiven = await api.post(f"{two}/write-off", {"reason": "goodwill"})
    again = await api.post(f"{two}/write-off", {})
    missing = await api.post(f"{DEBTS}/none/settle", {})

    assert poor.status_code == 402
    assert (part.json()["credits"], part.json()["owed"], left) == (3, 5, [5, 8])
    assert (settled.json()["credits"], settled.json()["owed"]) == (5, 0)
    assert (settled.json()["how"], settled.json()["new_balance"]) == ("settled", 2)
    assert forgiven.json()["how"] == "written_off"
    assert (again.status_code, again.json()["code"]) == (409, "debt_closed")
    assert missing.status_code == 404
    assert (await api.call("GET", DEBTS)).json()["count"] == 0
    closed = (await api.call("GET", f"{DEBTS}?status=all")).json()["debts"]
    assert [debt["owed"] for debt in closed] == [0, 0]


async def test_unpriced_work_is_charged_once_it_has_a_price(api: Api) -> None:
    work = {"user_id": "ada", "metric": "typo", "amount": 4, "correlation_id": "c"}
    await api.give("user:ada", 10)
    filed = (await api.post("/v1/entitlements/consume-credits", work)).json()
    path = f"{DEBTS}/{filed['operation_id']}"

    (listed,) = (await api.call("GET", DEBTS)).json()["debts"]
    settled = await api.post(f"{path}/settle", {})
    early = await api.post(f"{path}/price", {})
    await api.post("/v1/admin/policies", {"content": "costs: {typo: 2}\nsignup_bonuses: {}\n"})
    priced = await api.post(f"{path}/price", {"reason": "mended"})
    again = await api.post(f"{path}/price", {})
    repeated = await api.post("/v1/entitlements/consume-credits", work)

    assert (filed["success"], filed["reason"], filed["owed"]) == (False, "policy_denied", 0)
    assert (listed["owed"], listed["metric"], listed["closed_by"]) == (None, "typo", None)
    assert (settled.status_code, settled.json()["code"]) == (409, "unpriced")
    assert (early.status_code, early.json()["code"]) == (409, "unpriced")
    body = priced.json()
    assert (body["success"], body["credits"], body["owed"]) == (True, 8, 0)
    assert (body["debt_id"], body["consumed_from"], body["new_balance"]) == (
        filed["operation_id"],
        "user",
        2,
    )
    assert (again.status_code, again.json()["code"]) == (409, "debt_closed")
    assert repeated.json()["operation_id"] == body["operation_id"]
    assert (repeated.json()["success"], repeated.json()["replayed"]) == (True, True)
    assert await api.balance("ada") == (2, None)
    (act,) = [e for e in await audited(api.system.engine.store, 9) if e.action == "debt.price"]
    assert act.reason == "mended"


async def test_an_activation_charges_unpriced_work(api: Api) -> None:
    engine = api.system.engine
    filed = []
    for n in range(3):
        work = {"user_id": "ada", "metric": "typo", "amount": 4, "correlation_id": f"c{n}"}
        filed.append((await api.post("/v1/entitlements/consume-credits", work)).json())
    await api.give("user:ada", 20)
    await _keep_up(engine)
    waiting = (await samples(api))["entitlements_work_unpriced"]

    await api.post("/v1/admin/policies", {"content": "costs: {typo: 2}\nsignup_bonuses: {}\n"})
    await until(lambda: is_priced(api))

    await _keep_up(engine)
    assert (waiting, (await samples(api))["entitlements_work_unpriced"]) == (3, 0)
    assert await api.balance("ada") == (4, None)
    (debt,) = (await api.call("GET", DEBTS)).json()["debts"]
    assert debt["owed"] == 8


async def is_priced(api: Api) -> bool:
    debts = (await api.call("GET", DEBTS)).json()["debts"]
    return all(debt["owed"] is not None for debt in debts)


async def test_debts_are_paged_oldest_first(api: Api) -> None:
    for name in "abcde":
        await api.post(
            "/v1/entitlements/consume-credits",
            {"user_id": name, "metric": "cj_comparison", "amount": 8, "correlation_id": name},
        )

    debtors: list[str] = []
    next_: str | None = ""
    pages = 0
    while next_ is not None:
        page = (await api.call("GET", DEBTS, params={"limit": 2, "cursor": next_})).json()
        debtors += [debt["subject_id"] for debt in page["debts"]]
        next_, pages = page["next_cursor"], pages + 1
    wrong = await api.call("GET", DEBTS, params={"cursor": "AAAA"})

    assert (debtors, pages) == (list("abcde"), 3)
    assert (wrong.status_code, wrong.json()["code"]) == (400, "validation_failed")


async def test_a_balance_names_the_org_by_query_else_header(api: Api) -> None:
    await api.give("user:å/b", 3)
    await api.give("org:Malmö", 4)
    path = "/v1/entitlements/balance/%C3%A5%2Fb"

    alone = await api.call("GET", path)
    by_query = await api.call("GET", path, params={"org_id": "Malmö"})
    by_header = await api.call("GET", path, headers={"X-Org-ID": "Malmö".encode()})
    encoded = await api.call(
        "GET", path, headers={"X-Org-ID": "Malm%C3%B6", "X-Identity-Encoding": "url"}
    )

    fixed = ("user_balance", "org_balance", "org_id")
    assert [alone.json()[name] for name in fixed] == [3, None, None]
    for answer in (by_query, by_header, encoded):
        assert [answer.json()[name] for name in fixed] == [3, 4, "Malmö"]
    assert by_query.json()["by_credit_type"]["credits"]["org"] == {
        "balance": 4,
        "held": 0,
        "available": 4,
        "unlimited": False,
        "soonest_expiry": None,
    }


async def test_a_balance_shows_the_org_of_a_user_who_is_a_member_of_only_one(
    api: Api,
) -> None:
    await api.give("org:school", 4)
    await joined(api, "ada", "school")
    path = "/v1/entitlements/balance/ada"

    sole = (await api.call("GET", path)).json()
    named = (await api.call("GET", path, params={"org_id": "other"})).json()
    await joined(api, "ada", "other")
    of_two = (await api.call("GET", path)).json()

    assert (sole["org_id"], sole["org_balance"]) == ("school", 4)
    assert (named["org_id"], named["org_balance"]) == ("other", 0)
    assert (of_two["org_id"], of_two["org_balance"]) == (None, None)


async def joined(api: Api, user_id: str, org_id: str) -> None:
    command = OpenAccount(
        id=uuid7(), origin=origin(), subject=Subject("user", user_id), org_id=org_id
    )
    await api.system.engine.committer.submit(command)


async def test_a_balance_shows_its_next_expiry(api: Api) -> None:
    await api.give("user:ada", 3)
    new_year = datetime(2100, 1, 1, tzinfo=UTC)
    engine = api.system.engine
    gift = grant(user("ada"), 5, expires_at=new_year)
    await engine.committer.submit(gift)

    answer = await api.call("GET", "/v1/entitlements/balance/ada")

    held = answer.json()["by_credit_type"]["credits"]["user"]
    assert (held["balance"], held["soonest_expiry"]) == (
        8,
        {"at": "2100-01-01T00:00:00Z", "credits": 5},
    )
