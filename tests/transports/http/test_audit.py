"""The audit log over HTTP."""

from tests.transports.http.api import Api

AUDIT = "/v1/admin/audit"


async def test_an_administrative_act_is_listed_with_its_actor_and_reason(api: Api) -> None:
    body = {"content": "costs:\n  essay: 2\n", "reason": "prices of the spring term"}
    applied = (await api.post("/v1/admin/policies", body, X_Correlation_ID="review-7")).json()

    listed = await api.call("GET", f"{AUDIT}?action=policy.activate&correlation_id=review-7")

    assert listed.status_code == 200
    (entry,) = listed.json()["entries"]
    assert (entry["reason"], entry["client"]) == ("prices of the spring term", "admin-client")
    assert entry["detail"]["version"] == applied["version"]
    (by_actor,) = (await api.call("GET", f"{AUDIT}?actor={entry['actor']}")).json()["entries"]
    assert by_actor == entry


async def test_pages_are_linked_by_cursors(api: Api) -> None:
    for user in ("ada", "bo", "cy"):
        account = {"subject_type": "user", "subject_id": user}
        assert (await api.post("/v1/admin/accounts", account)).status_code == 201

    found, path = [], f"{AUDIT}?action=account.open&limit=2"
    page = (await api.call("GET", path)).json()
    while page["next_cursor"] is not None:
        found += page["entries"]
        page = (await api.call("GET", f"{path}&cursor={page['next_cursor']}")).json()

    assert [one["subject_id"] for one in [*found, *page["entries"]]] == ["cy", "bo", "ada"]


async def test_invalid_filters_are_refused(api: Api) -> None:
    for query in ("actr=ada", "actor=", "cursor=x", "subject_type=dog", "since=yesterday"):
        assert (await api.call("GET", f"{AUDIT}?{query}")).status_code == 400, query
