"""Every operation of the HTTP API is available in Python, on every interface."""

import inspect
from pathlib import Path

from entitlements import Entitlements, api
from entitlements.app.operations.table import USE_CASES
from entitlements.contracts import http
from entitlements.contracts.verbs import Verb
from entitlements.sync import SyncEntitlements
from entitlements.transports.http.app import ROUTES

OFFERED = (
    "/api/v1/entitlements",
    *(
        f"/v1/{part}"
        for part in (
            "entitlements", "admin/accounts", "admin/credits", "admin/entitlements", "admin/holds",
            "admin/lifecycle-calls", "admin/orgs", "admin/policies", "admin/rate-limits",
            "admin/subscriptions",
        )
    ),
)  # fmt: skip
"""The other routes, such as those for events, exist only in the service."""
VERBS = {verb for verb in vars(http).values() if isinstance(verb, Verb)}


def test_every_route_of_the_offered_api_is_a_verb() -> None:
    asked = {(route.method, route.path) for route in ROUTES if route.path.startswith(OFFERED)}

    assert asked == {(verb.method, verb.path) for verb in VERBS}


def test_every_verb_is_available_in_process() -> None:
    assert set(USE_CASES) == VERBS


def test_every_method_is_available_without_an_event_loop() -> None:
    questions = {
        name
        for name, method in inspect.getmembers(api.Entitlements, inspect.iscoroutinefunction)
        if not name.startswith("_") and name != "ask"
    }

    assert questions <= set(dir(SyncEntitlements))


async def test_without_limits_nothing_is_rate_limited(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/books.db"
    async with Entitlements.open(url, limited=False) as face:
        await face.consume(user_id="ada", metric="batch_create", amount=60)

        assert (await face.check(user_id="ada", metric="batch_create")).allowed

    async with Entitlements.open(url) as face:
        denied = await face.check(user_id="ada", metric="batch_create")
        assert denied.reason == "rate_limit_exceeded", "usage is recorded even without limits"
