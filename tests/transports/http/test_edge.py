"""Common to all responses: headers, problems, probes, metrics and documents."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from entitlements.app.operations import refusals
from entitlements.app.ports import Locked, StoreUnavailable
from entitlements.contracts import errors
from entitlements.contracts.problem import Problem
from entitlements.core.reasons import RefusalCode
from entitlements.observe import health
from entitlements.service.compose import build
from entitlements.settings import load
from tests.transports.http.api import Api


@pytest.mark.parametrize(
    ("given", "echoed"),
    [("a-B_c.1:2", "a-B_c.1:2"), ("a b~å/%", "a%20b%7E%C3%A5%2F%25")],
)
async def test_a_correlation_id_is_echoed_percent_encoded(
    api: Api, given: str, echoed: str
) -> None:
    answer = await api.call("GET", "/v1/admin/credits/debts", headers={b"X-Correlation-ID": given.encode()})  # fmt: skip  # noqa: E501

    assert answer.headers["x-correlation-id"] == echoed
    assert answer.json()["correlation_id"] == given


async def test_an_answer_without_a_correlation_id_gets_one(api: Api) -> None:
    one, two = [(await api.call("GET", "/livez")).headers["x-correlation-id"] for _ in range(2)]

    assert one != two


async def test_every_answer_carries_the_security_headers(api: Api) -> None:
    for path in ("/livez", "/docs", "/nowhere", "/v1/admin/credits/debts"):
        headers = (await api.call("GET", path)).headers

        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert headers.get_list("content-security-policy") == [headers["content-security-policy"]]


async def test_an_unknown_path_and_method_are_problems(api: Api) -> None:
    missing = await api.call("GET", "/v1/nowhere")
    wrong = await api.call("DELETE", "/v1/admin/accounts")

    assert (missing.status_code, wrong.status_code) == (404, 405)
    assert wrong.headers["allow"] == "POST"
    for answer in (missing, wrong):
        problem = msgspec.json.decode(answer.content, type=Problem)
        assert problem.status == answer.status_code
        assert problem.correlation_id == answer.headers["x-correlation-id"]


@pytest.mark.parametrize(
    ("path", "status"),
    [("/healthz", 200), ("/openapi.json", 200), ("/v1/admin/credits/debts?limit=x", 400)],
)
async def test_head_is_get_without_the_body(api: Api, path: str, status: int) -> None:
    get = await api.call("GET", path, headers={"X-Correlation-ID": "c"})

    head = await api.call("HEAD", path, headers={"X-Correlation-ID": "c"})

    assert (head.status_code, head.content) == (status, b"")
    assert head.headers == get.headers


async def test_options_is_refused_with_the_allowed_methods(api: Api) -> None:
    answer = await api.call("OPTIONS", "/healthz")

    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


async def test_probes_and_scrapes_accept_any_host(api: Api) -> None:
    named = {"Host": "10.0.0.7:8083"}

    for path in ("/livez", "/readyz", "/healthz", "/metrics"):
        assert (await api.call("GET", path, headers=named)).status_code == 200
    for path in ("/docs", "/v1/admin/credits/debts"):
        answer = await api.call("GET", path, headers=named)
        assert answer.json()["code"] == "unknown_host"


def test_every_refusal_has_a_status() -> None:
    assert set(RefusalCode) <= errors.STATUS.keys()
    assert set(refusals.CODES.values()) <= errors.STATUS.keys()
    assert all(
        (errors.error_class(code) is errors.Refused) == (status >= 500)
        for code, status in errors.STATUS.items()
    )


async def test_an_unavailable_database_is_503_and_never_allows(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.give("user:ada", 10)

    async def lost(*_: object, **__: object) -> Any:
        raise StoreUnavailable("password=hunter2 at 10.0.0.1")

    store = api.system.engine.store
    for port, name in ((store.reads, "books"), (store.ledger, "commit"), (store, "ping")):
        monkeypatch.setattr(port, name, lost)
    monkeypatch.setattr(api.system.engine.committer, "_deadline_s", 0.2)
    free = {"user_id": "ada", "requirements": {"spellcheck": 1}}
    work = {"user_id": "ada", "metric": "spellcheck", "amount": 1, "correlation_id": "c"}
    checked = await api.post("/v1/entitlements/check-credits/bulk", free)
    consumed = await api.post("/v1/entitlements/consume-credits", work)

    for answer in (checked, consumed):
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["data"] == {"applied": "no"}
        assert "hunter2" not in answer.text
    assert (await api.call("GET", "/healthz")).status_code == 503
    assert (await api.call("GET", "/readyz")).json() == {"status": "not_ready"}
    assert (await api.call("GET", "/livez")).status_code == 200


async def test_an_internal_error_is_500_without_a_trace(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> Any:
        raise RuntimeError("SELECT secret FROM wallets")

    monkeypatch.setattr(api.system.engine.store.reads, "operation", broken)
    answer = await api.post("/v1/entitlements/operations/x/reverse", {"reason": "x"})

    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "SELECT" not in answer.text
    assert "Traceback" not in answer.text


async def test_a_locked_file_is_503_and_can_be_retried(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def locked(*_: object) -> Any:
        raise Locked("another process keeps the database file locked")

    monkeypatch.setattr(api.system.engine.store.reads, "operation", locked)
    answer = await api.post("/v1/entitlements/operations/x/reverse", {"reason": "x"})

    assert (answer.status_code, answer.json()["code"]) == (503, "contended")
    assert int(answer.headers["retry-after"]) >= 1


async def test_a_hanging_database_is_unhealthy_after_a_timeout(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stuck() -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(api.system.engine.store, "ping", stuck)
    monkeypatch.setattr(health, "PING_S", 0.01)
    answer = await api.call("GET", "/healthz")

    assert answer.status_code == 503
    assert answer.json()["checks"]["database"]["status"] == "unhealthy"


async def test_health_names_the_service_and_its_parts(api: Api) -> None:
    answer = await api.call("GET", "/healthz")

    body = answer.json()
    assert answer.status_code == 200
    assert body.keys() == {"service", "status", "message", "version", "checks", "environment"}
    assert (body["service"], body["status"]) == ("entitlements_service", "healthy")
    assert body["checks"]["database"]["status"] == "healthy"
    assert (await api.call("GET", "/readyz")).json() == {"status": "ready"}


ADJUST = "/v1/admin/credits/adjust"


async def test_metrics_change_and_contain_no_subject(api: Api) -> None:
    await api.give("user:subject-ada", 10)
    check = {"user_id": "subject-ada", "metric": "cj_comparison", "amount": 1}
    await api.post("/v1/entitlements/check-credits", check)
    work = check | {"correlation_id": "c"}
    for body in (work, work, work | {"metric": "made-up"}):
        await api.post("/v1/entitlements/consume-credits", body)
    await api.call("GET", "/made-up-path")

    text = (await api.call("GET", "/metrics")).text

    for line in (
        'entitlements_credit_checks_total{result="allowed",source="user"} 1.0',
        'entitlements_credit_consumption_total{metric="cj_comparison",source="user"} 1.0',
        'entitlements_credit_consumption_total{metric="other",source="none"} 1.0',
        'entitlements_credit_adjustments_total{adjustment_type="addition",subject_type="user"} 1.0',
        "entitlements_credit_check_duration_seconds_count 1.0",
        "entitlements_credit_consumption_duration_seconds_count 2.0",
        "entitlements_commands_waiting 0.0",
        'http_requests_total{endpoint="unmatched",method="unmatched",status_code="404"} 1.0',
        f'http_request_duration_seconds_count{{endpoint="{ADJUST}",method="POST"}} 1.0',
    ):
        assert line in text.splitlines()
    assert "subject-ada" not in text
    assert "made-up" not in text


async def test_the_reference_lists_every_metric_and_code(api: Api) -> None:
    text = (await api.call("GET", "/metrics")).text
    names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    pages = Path(__file__).parents[3] / "docs" / "reference"

    documented = (pages / "metrics.md").read_text("utf-8")
    assert {
        name for name in names if f"`{name}`" not in documented and "_created" not in name
    } == set()
    codes = (pages / "http.md").read_text("utf-8")
    assert {code for code in errors.STATUS if f"`{code}`" not in codes} == set()


async def test_without_authentication_every_caller_is_anonymous(tmp_path: Path) -> None:
    settings = load(database_url=f"sqlite:///{tmp_path}/open.db", auth="none")
    async with AsyncExitStack() as stack:
        api = Api(await stack.enter_async_context(build(settings)), stack)
        stranger = await api.with_headers({"Authorization": "Bearer whatever"})

        adjusted = await stranger.post(
            "/v1/admin/credits/adjust",
            json={"subject_type": "user", "subject_id": "ada", "amount": 1, "reason": "x"},
        )
        operations = await stranger.get("/v1/admin/credits/operations")

    assert adjusted.status_code == 200
    (operation,) = operations.json()["operations"]
    assert (operation["actor"], operation["client"]) == ("anonymous", "anonymous")
