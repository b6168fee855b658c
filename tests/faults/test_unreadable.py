"""An unreadable wallet fails alone and does not affect concurrent requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import apsw
import asyncpg
import pytest

from entitlements.adapters.postgres.migrate import migrate_at
from entitlements.app import engine
from entitlements.app.ports import OperationsQuery
from entitlements.service.compose import build
from entitlements.settings import load
from tests.concurrency.scene import grant, submit, user
from tests.logs import captured_logs
from tests.transports.http.api import Api
from tests.waiting import until

DAMAGE = """
UPDATE grants SET reason = 'of the future', granted_at = {first}, started = {no}, live = {no},
    due_at = {first} WHERE subject_id LIKE 'bad%';
UPDATE credit_balances SET next_due_at = {first} WHERE subject_id LIKE 'bad%';
UPDATE grants SET granted_at = {first}, expires_at = {second}, due_at = {second}
    WHERE subject_id = 'late';
UPDATE credit_balances SET next_due_at = {second} WHERE subject_id = 'late';
"""
CHECK = "/v1/entitlements/check-credits/bulk"
CONSUME = "/v1/entitlements/consume-credits"
PATIENT = {"check_deadline_s": 60, "command_deadline_s": 60}
"""Batches are halved until the unreadable wallet is alone, which takes long on a busy machine."""


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/books.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def api(url: str) -> AsyncIterator[Api]:
    """A service with a readable wallet, ada, and an unreadable one, bad: its grant has an unknown
    reason and is due.
    """
    if not url.startswith("sqlite"):
        await migrate_at(url, None)
    async with AsyncExitStack() as stack:
        api = Api(await stack.enter_async_context(build(load(database_url=url, **PATIENT))), stack)
        await give(api, "ada", "bad")
        await damage(url)
        yield api


async def give(api: Api, *names: str) -> None:
    """Give fifty credits to each user."""
    running = api.system.engine
    await asyncio.gather(*(submit(running, grant(user(name), 50)) for name in names))


async def damage(url: str) -> None:
    """Make the grants of bad users unreadable and due, and those of late expired."""
    if url.startswith("sqlite"):
        db = apsw.Connection(url.removeprefix("sqlite:///"))
        db.execute(DAMAGE.format(first=1, second=2, no=0))
        db.close()
        return
    connection = await asyncpg.connect(url)
    times = {"first": "to_timestamp(1)", "second": "to_timestamp(2)"}
    await connection.execute(DAMAGE.format(**times, no="false"))
    await connection.close()


async def check(api: Api, name: str) -> Any:
    return await api.post(CHECK, {"user_id": name, "requirements": {"cj_comparison": 1}})


async def test_an_unreadable_wallet_does_not_affect_the_checks_of_others(api: Api) -> None:
    names = ["bad" if n % 7 == 0 else "ada" for n in range(100)]

    answers = await asyncio.gather(*(check(api, name) for name in names))

    found = {(name, answer.status_code) for name, answer in zip(names, answers, strict=True)}
    assert found == {("ada", 200), ("bad", 500)}
    refused = answers[0].json()
    assert refused["code"] == "records_unreadable"
    assert "user:bad/credits" in refused["detail"]


async def test_an_unreadable_wallet_does_not_affect_the_consumption_of_others(api: Api) -> None:
    async def consume(name: str, number: int) -> Any:
        body = {"user_id": name, "metric": "cj_comparison", "amount": 1}
        return await api.post(CONSUME, body | {"correlation_id": str(number)})

    names = ["bad" if n % 7 == 0 else "ada" for n in range(40)]

    answers = await asyncio.gather(*(consume(name, n) for n, name in enumerate(names)))

    found = {(n, a.status_code, a.json().get("code")) for n, a in zip(names, answers, strict=True)}
    assert found == {("ada", 200, None), ("bad", 500, "records_unreadable")}
    assert (await api.balance("ada"))[0] == 50 - names.count("ada")


async def test_an_unreadable_wallet_is_logged_and_counted(api: Api) -> None:
    with captured_logs() as lines:
        for _ in range(3):
            await check(api, "bad")

    metrics = (await api.call("GET", "/metrics")).text
    told = [line for line in lines if line["event"] == "records.unreadable"]
    assert [line["name"] for line in told] == ["user:bad/credits"]
    assert "of the future" in told[0]["reason"]
    assert "entitlements_records_unreadable 1.0" in metrics


async def test_an_expiry_is_recorded_despite_any_number_of_unreadable_wallets(
    api: Api, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await give(api, *(f"bad {n}" for n in range(200)), "late")
    monkeypatch.setattr(engine, "UPKEEP_S", 0.05)
    await damage(url)

    async def is_recorded() -> bool:
        query = OperationsQuery(subject_id="late", kind="expiry")
        return bool((await api.system.engine.store.reads.operations(query)).rows)

    await until(is_recorded)
