"""The Python examples in the docs run unchanged."""

import asyncio
import re
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

# Before pytester, which forgets the modules that its test imports first.
from entitlements import Entitlements, fastapi
from entitlements.app.policy import document as policy_document
from entitlements.app.webhooks.deliverer import signed_headers
from entitlements.testing import authority
from entitlements.webhooks import new_secret

DOCS = Path(__file__).parent.parent / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[str]:
    return BLOCK.findall((DOCS / page).read_text("utf-8"))


def test_the_python_page_runs_from_top_to_bottom(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    pytester: pytest.Pytester,
) -> None:
    monkeypatch.chdir(tmp_path)
    *programs, test = blocks("python.md")
    for program in programs:
        exec(compile(program, "python.md", "exec"), {"__name__": "page"})  # noqa: S102

    assert len(programs) == 6
    assert capsys.readouterr().out == "['consume -10', 'grant 20']\nbo 5\nowed: 5\n"
    monkeypatch.chdir(pytester.path)
    pytester.makepyfile(test)
    pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_the_entitlements_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for program in blocks("entitlements.md"):
        exec(compile(program, "entitlements.md", "exec"), {"__name__": "page"})  # noqa: S102

    assert capsys.readouterr().out.splitlines() == [
        "4500 tokens left",
        "['revoked'] 500 used",
        "750 comparisons until the first of the month",
    ]


def test_the_transactions_page_runs(
    tmp_path: Path,
    postgres_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    for program in blocks("transactions.md"):
        exec(compile(program, "transactions.md", "exec"), {"__name__": "page"})  # noqa: S102

    assert capsys.readouterr().out.splitlines() == [
        "nothing of order-2 is left",
        "70 credits are left",
        "70 credits are left",
    ]


def test_the_entitlement_service_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for program in blocks("entitlement-service.md"):
        exec(compile(program, "entitlement-service.md", "exec"), {"__name__": "page"})  # noqa: S102

    assert capsys.readouterr().out.splitlines() == [
        "500 required, 100 available",
        "access 100",
        "{'ai_tokens': 0} {'ai_tokens': 500}",
        "feature: False access: 1",
    ]


@pytest.mark.parametrize("page", sorted(path.name for path in (DOCS / "how-to").glob("[a-z]*.md")))
def test_a_how_to_page_passes_its_own_tests(page: str) -> None:
    names: dict[str, Any] = {"__name__": "page"}
    for program in blocks(f"how-to/{page}"):
        exec(compile(program, page, "exec"), names)  # noqa: S102
    tests = [value for name, value in names.items() if name.startswith("test_")]

    assert tests
    for test in tests:
        with authority() as entitlements:
            asyncio.run(test(entitlements))


def test_the_subscriptions_page_runs_with_its_plans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plans.yaml").write_text(plans_of_the_subscriptions_page())
    (program,) = blocks("subscriptions.md")
    exec(compile(program, "subscriptions.md", "exec"), {"__name__": "page"})  # noqa: S102

    assert capsys.readouterr().out.splitlines() == [
        "{'ai_tokens': 1700} {'ai_tokens': 200}",
        "canceled True False",
    ]


def plans_of_the_subscriptions_page() -> str:
    page = (DOCS / "subscriptions.md").read_text("utf-8")
    (text,) = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    return str(text)


def test_the_fastapi_page_is_an_application(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    [program] = blocks("fastapi.md")
    page_text = (DOCS / "fastapi.md").read_text("utf-8")
    shown = re.findall(
        r"^\$ curl -s -X POST localhost:8000(/\w+) .*\n(.*)$", page_text, re.MULTILINE
    )
    page: dict[str, FastAPI] = {"__name__": "page"}  # type: ignore[dict-item]
    exec(compile(program, "fastapi.md", "exec"), page)  # noqa: S102

    async def visit() -> None:
        app = page["app"]
        async with app.router.lifespan_context(app):
            async with httpx2.AsyncClient(
                transport=httpx2.ASGITransport(app), base_url="http://app"
            ) as http:
                for (path, printed), status in zip(shown, (200, 200, 200, 403), strict=True):
                    answer = await http.post(path, headers={"X-User": "ada"})
                    assert (answer.status_code, answer.text) == (status, printed)
                refused = await http.post("/summary", headers={"X-User": "eve"})
                assert refused.status_code in fastapi.RESPONSES
            e = app.state.entitlements
            assert isinstance(e, Entitlements)
            assert (await e.balance("ada")).user_balance == 92

    asyncio.run(visit())


def test_the_receiver_of_the_webhooks_page_takes_what_is_signed_and_nothing_else() -> None:
    [program] = blocks("webhooks.md")
    page: dict[str, Any] = {"__name__": "page"}
    exec(compile(program, "webhooks.md", "exec"), page)  # noqa: S102
    body, now = b'{"data": {}}', datetime.now(UTC)  # noqa: TID251 - as a receiver's clock
    headers = signed_headers("event-1", body, [page["SECRET"]], now)

    assert [page["receive"](headers, body) for _ in range(2)] == [204, 204]
    assert page["receive"](headers, b"{}") == 401
    assert page["receive"](signed_headers("event-2", body, [new_secret()], now), body) == 401
    assert page["done"] == {"event-1"}


def test_the_policy_page_names_every_key() -> None:
    page = (DOCS / "reference" / "policy.md").read_text("utf-8")

    assert {key for key in policy_document.TOP_KEYS if f"`{key}`" not in page} == set()


def test_the_installation_page_names_every_extra() -> None:
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text("utf-8"))["project"]
    page = (DOCS / "install.md").read_text("utf-8")

    named = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert named == set(project["optional-dependencies"])
