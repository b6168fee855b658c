"""Data that release 0.1.0 stored: its receipts, jobs and closed holds answer as they did then."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import apsw
import msgspec
import pytest

from entitlements import Entitlements
from entitlements.adapters.sqlite import migrate as sqlite
from entitlements.adapters.sqlite.store import SqliteStore
from entitlements.contracts.errors import EntitlementsError

STORED: Final = Path(__file__).parent / "release_0_1_0"
REQUESTS: Final[list[dict[str, Any]]] = json.loads((STORED / "requests.json").read_text())
"""Requests in their order, each with the answer that 0.1.0 returned."""
LAST_MIGRATION: Final = 9
NOW: Final = datetime(2026, 9, 1, 8, 10, tzinfo=UTC)
"""Five minutes after the last request."""


@pytest.fixture
async def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Entitlements]:
    path = tmp_path / "old.db"
    older = [one for one in sqlite.migrations() if one.version <= LAST_MIGRATION]
    store = await SqliteStore.open(path, clock=lambda: NOW)
    with monkeypatch.context() as past:
        past.setattr(sqlite, "migrations", lambda: older)
        await store.migrate()
    await store.close()
    with apsw.Connection(str(path)) as db:
        db.execute((STORED / "rows.sql").read_text())
    async with Entitlements.open(f"sqlite:///{path}", clock=lambda: NOW) as service:
        yield service


async def answer(service: Entitlements, request: dict[str, Any], **other: Any) -> dict[str, Any]:
    method = getattr(service, request["method"])
    found = await method(*request["args"], **{**request["named"], **other})
    built: dict[str, Any] = msgspec.to_builtins(found)
    return built


async def test_a_repeat_of_every_request_gets_its_first_answer(stored: Entitlements) -> None:
    before = await stored.operations()

    for request in REQUESTS:
        first = request["answer"]
        repeated = await answer(stored, request)
        new = {"correlation_id": repeated["correlation_id"], "replayed": True}
        assert {name: repeated[name] for name in first} == {**first, **new}, request
    assert (await stored.operations()).operations == before.operations


async def test_a_key_of_another_request_is_refused(stored: Entitlements) -> None:
    for request in REQUESTS:
        if request["method"] == "adjust":
            with pytest.raises(EntitlementsError, match="another request"):
                await answer(stored, request, reason="something else")


async def test_a_job_is_consumed_once_under_another_key(stored: Entitlements) -> None:
    (request,) = [one for one in REQUESTS if "processing_id" in one["named"]]

    repeated = await answer(stored, request, key="another")

    assert repeated["replayed"]
    assert repeated["operation_id"] == request["answer"]["operation_id"]


@pytest.mark.parametrize("method", ["settle", "release"])
async def test_a_closed_hold_answers_the_same_closing_again(
    stored: Entitlements, method: str
) -> None:
    closing = [one for one in REQUESTS if one["method"] == method and one["named"].get("final", 1)]

    for request in closing:
        repeated = await answer(stored, request, key="another")
        assert repeated["replayed"]
        assert repeated["by_credit_type"] == request["answer"]["by_credit_type"]
