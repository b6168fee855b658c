"""Query strings: unknown, repeated and ambiguous parameters are refused."""

import pytest

from entitlements.contracts.fields import NOT_A_TIME
from entitlements.transports.http.app import ROUTES
from entitlements.transports.http.routes import Roles, Route
from tests.transports.http.api import Api

OPERATIONS = "/v1/admin/credits/operations"


def path_of(route: Route) -> str:
    return route.path.replace("{", "").replace("}", "")


async def test_unknown_parameters_are_refused_on_every_route(api: Api) -> None:
    for route in ROUTES:
        answer = await api.call(route.method, f"{path_of(route)}?subject=ada")

        assert answer.status_code == 400, route.path
        (error,) = answer.json()["errors"]
        assert error["field"] == "subject"


async def test_a_parameter_that_is_given_twice_is_refused(api: Api) -> None:
    for query in ("limit=1&limit=1", "subject_id=ada&subject_id=bo", "cursor=&cursor="):
        answer = await api.call("GET", f"{OPERATIONS}?{query}")

        assert answer.status_code == 400, query
        assert answer.json()["errors"][0]["message"] == "was given more than once"


async def test_callers_without_a_key_learn_nothing_about_parameters(api: Api) -> None:
    nobody = await api.with_headers({})
    for route in ROUTES:
        if isinstance(route.rule, Roles):
            answer = await nobody.request(route.method, f"{path_of(route)}?subject=ada")
            assert answer.status_code == 401, route.path


@pytest.mark.parametrize(
    "query",
    ["since=-1", "since=0", "since=1767225600", "until=-1", "since=null", "until=None",
     "status=null", "kind=null", "subject_type=null", "limit=1e2", "limit=5.0", "limit=%205",
     "limit=-1", "limit=true"],
)  # fmt: skip
async def test_a_filter_is_read_as_it_is_written(api: Api, query: str) -> None:
    assert (await api.call("GET", f"{OPERATIONS}?{query}")).status_code == 400


@pytest.mark.parametrize(
    "since",
    ["2026-01-01T00:00:00", "2026-01-01T00:00:00+01:00", "1767225600", "yesterday", "2026-13-01"],
)
async def test_an_invalid_time_filter_is_refused_with_an_example(api: Api, since: str) -> None:
    answer = await api.call("GET", f"{OPERATIONS}?since={since}")

    assert answer.status_code == 400
    (error,) = answer.json()["errors"]
    assert (error["field"], error["message"]) == ("since", NOT_A_TIME)


async def test_a_date_as_a_filter_is_its_midnight(api: Api) -> None:
    listed = await api.call("GET", f"{OPERATIONS}?since=2026-01-01")

    assert listed.json()["since"] == "2026-01-01T00:00:00Z"


async def test_an_id_of_digits_is_text(api: Api) -> None:
    await api.give("user:17", 5)

    answer = await api.call("GET", f"{OPERATIONS}?subject_id=17&limit=5")

    assert answer.json()["count"] == 1


@pytest.mark.parametrize("query", ["before=-1", "before=1767225600", "before=null"])
async def test_the_before_of_a_policy_listing_must_be_a_time(api: Api, query: str) -> None:
    assert (await api.call("GET", f"/v1/admin/policies?{query}")).status_code == 400


@pytest.mark.parametrize(("literal", "status"), [("true", 200), ("1", 200), ("False", 200),
                                                 ("yes", 400), ("2", 400)])  # fmt: skip
async def test_explain_is_true_or_false(api: Api, literal: str, status: int) -> None:
    body = {"user_id": "ada", "metric": "spellcheck"}

    answer = await api.post(f"/v1/entitlements/check-credits?explain={literal}", body)

    assert answer.status_code == status
