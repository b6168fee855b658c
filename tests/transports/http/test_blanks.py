"""White space: text that is nothing else, and ids that begin or end with it."""

from typing import Any

import pytest

from entitlements.core.commands import Adjust
from entitlements.core.model import WalletKey
from entitlements.core.outcomes import Adjusted
from entitlements.ids import uuid7
from tests.stores.clerk import origin
from tests.transports.http.api import Api

CONSUME = "/v1/entitlements/consume-credits"
ADJUST = "/v1/admin/credits/adjust"
SET = "/v1/admin/credits/set"
ACCOUNTS = "/v1/admin/accounts"
OPERATIONS = "/v1/admin/credits/operations"
BLANKS = ("", " ", "\u00a0", "\u3000\u2009", "\u200b", "\ufeff \u2060")
PADDED = " ada"
SOME = {"amount": 5, "reason": "gift"}


def work(**fields: Any) -> dict[str, Any]:
    asked = {"user_id": "ada", "metric": "cj_comparison", "amount": 2, "correlation_id": "c"}
    return asked | fields


async def give_padded(api: Api) -> str:
    """Give 5 credits to a padded id, which earlier versions stored; return the operation's id."""
    command = Adjust(
        id=uuid7(),
        origin=origin(),
        wallet=WalletKey("user", PADDED, "credits"),
        amount=5,
        reason="gift",
    )
    outcome = await api.system.engine.committer.submit(command)
    assert isinstance(outcome, Adjusted)
    assert outcome.operation_id is not None
    return outcome.operation_id


async def test_blank_optional_text_counts_as_absent(api: Api) -> None:
    await api.give("user:ada", 100)
    for number, blank in enumerate(BLANKS):
        named = {"service_name": blank, "processing_id": blank, "batch_id": blank, "org_id": blank}
        answer = await api.post(CONSUME, work(**named, correlation_id=f"c{number}"))
        assert (answer.status_code, answer.json()["replayed"]) == (200, False)

    operations = [one for one in await api.ledger() if one["kind"] == "consume"]
    assert len(operations) == len(BLANKS), "blank ids do not name a job"
    assert {(one["batch_id"], one["org_id"]) for one in operations} == {(None, None)}


async def test_a_key_identifies_the_body_as_sent(api: Api) -> None:
    """Receipts of earlier versions have fingerprints of bodies with their blank text."""
    await api.give("user:ada", 100)
    blank = await api.post(CONSUME, work(batch_id=" "), idempotency_key="k")

    again = await api.post(CONSUME, work(batch_id=" "), idempotency_key="k")
    absent = await api.post(CONSUME, work(), idempotency_key="k")

    assert (blank.json()["replayed"], again.json()["replayed"]) == (False, True)
    assert absent.json()["code"] == "idempotency_key_reused"


async def test_a_blank_correlation_id_counts_as_absent(api: Api) -> None:
    body = work(correlation_id="\u00a0")

    answer = await api.post(CONSUME, body, x_correlation_id="header")

    assert answer.json()["correlation_id"] == "header"
    assert (await api.post(CONSUME, body)).status_code == 400


@pytest.mark.parametrize("blank", BLANKS)
async def test_blank_required_text_is_refused(api: Api, blank: str) -> None:
    asked = (
        (CONSUME, work(user_id=blank)),
        (CONSUME, work(metric=blank)),
        (ADJUST, {"subject_type": "user", "subject_id": blank, **SOME}),
        (ADJUST, {"subject_type": "user", "subject_id": "ada", "amount": 5, "reason": blank}),
        (ACCOUNTS, {"subject_type": "user", "subject_id": blank}),
    )
    for path, body in asked:
        assert (await api.post(path, body)).status_code == 400, body
    assert await api.ledger() == []


@pytest.mark.parametrize("blank", BLANKS)
async def test_a_blank_filter_is_refused_instead_of_ignored(api: Api, blank: str) -> None:
    filters = {
        OPERATIONS: ("subject_type", "subject_id", "correlation_id", "key", "hold_id", "metric",
                     "status", "kind", "user_id", "org_id", "batch_id", "since", "until"),
        "/v1/admin/holds": ("subject_type", "subject_id", "status"),
        "/v1/admin/consumption-records": ("user_id", "org_id", "resource_type", "outcome", "since"),
        "/v1/admin/dead-letters": ("topic", "reason", "state"),
        "/v1/admin/credits/debts": ("status",),
    }  # fmt: skip
    for path, names in filters.items():
        for name in names:
            answer = await api.call("GET", path, params={name: blank})
            assert answer.status_code == 400, (path, name)
            assert answer.json()["errors"][0]["field"] == name


async def test_a_blank_parameter_that_is_not_a_filter_counts_as_absent(api: Api) -> None:
    answer = await api.call("GET", OPERATIONS, params={"cursor": "", "limit": ""})
    balance = await api.call(
        "GET", "/v1/entitlements/balance/ada?org_id=%20", headers={"X-Org-ID": "school"}
    )

    assert answer.status_code == 200
    assert balance.json()["org_id"] == "school"


@pytest.mark.parametrize("padded", [PADDED, "ada\u00a0", "\u200bada", "ada\u2009"])
async def test_ids_and_names_with_white_space_at_an_end_are_refused(api: Api, padded: str) -> None:
    named = {"service_name": "s", "processing_id": "p", "batch_id": "b"}
    asked = [
        (CONSUME, work(**(named | {name: padded})))
        for name in ("user_id", "org_id", "metric", "batch_id", "service_name", "processing_id")
    ]
    subject = {"subject_type": "user", "subject_id": padded}
    asked += [
        (ADJUST, subject | SOME),
        (ADJUST, {"subject_type": "user", "subject_id": "ada", "credit_type": padded, **SOME}),
        (SET, subject | {"balance": 5}),
        (ACCOUNTS, subject),
        ("/v1/entitlements/check-credits", {"user_id": padded, "metric": "cj_comparison"}),
        (
            "/v1/entitlements/check-credits/bulk",
            {"user_id": "ada", "requirements": {padded: 1}, "correlation_id": "c"},
        ),
        ("/v1/entitlements/holds", {"user_id": "ada", "requirements": {padded: 1}}),
        ("/v1/entitlements/holds", {"user_id": "ada", "credits": 1, "credit_type": padded}),
    ]
    for path, body in asked:
        answer = await api.post(path, body)
        assert answer.status_code == 400, (path, body, answer.text)
        assert "white space" in answer.text or "printable" in answer.text
    assert (await api.call("GET", f"/v1/entitlements/balance/{padded}")).status_code == 400
    assert await api.ledger() == []


async def test_subjects_stored_with_white_space_can_be_listed_adjusted_and_reversed(
    api: Api,
) -> None:
    operation_id = await give_padded(api)

    listed = (await api.call("GET", OPERATIONS, params={"subject_id": PADDED})).json()
    body = {"subject_type": "user", "subject_id": PADDED, "reason": "mistake"}
    taken = await api.post(ADJUST, body | {"amount": -2})
    balance = await api.call("GET", f"/v1/entitlements/balance/{PADDED}")
    put = await api.post(SET, body | {"balance": 0})
    reverse = f"/v1/entitlements/operations/{taken.json()['operation_id']}/reverse"
    reversed_ = await api.post(reverse, {"reason": "mistake"})

    assert [one["id"] for one in listed["operations"]] == [operation_id]
    assert (taken.status_code, taken.json()["new_balance"]) == (200, 3)
    assert balance.json()["user_balance"] == 3
    assert (put.status_code, put.json()["balance"]) == (200, 0)
    assert reversed_.status_code != 400
