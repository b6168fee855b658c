"""Errors on opening an engine in process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from entitlements import Entitlements, api
from entitlements.client import AsyncClient, Client
from entitlements.contracts import errors
from entitlements.contracts.http import ConsumeItem
from tests.servers import free_port
from tests.surfaces.scene import POLICY, Waiting, serving
from tests.tables import sqlite_url


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("sqlite:///{folder}/missing/books.db", "No such file or directory"),
        ("sqlite:///{folder}", "unable to open database file"),
        ("sqlite:///{folder}/notes.txt", "file is not a database"),
        ("postgresql://nowhere.invalid/books", "not known"),
        ("mysql://host/books", "postgresql://"),
    ],
)
async def test_a_url_without_a_database_raises_value_error_and_not_unavailable(
    place: str, why: str, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("To do: " + "nothing. " * 200)

    with pytest.raises(ValueError, match=why):
        async with Entitlements.open(place.format(folder=tmp_path)):
            pass


@pytest.mark.parametrize(
    ("user", "database", "why"),
    [("nobody", None, 'role "nobody"'), (None, "nothing", 'database "nothing"')],
)
async def test_an_unknown_role_or_database_raises_value_error_and_not_unavailable(
    postgres_url: str, user: str | None, database: str | None, why: str
) -> None:
    parts = urlsplit(postgres_url)
    if user:
        parts = parts._replace(netloc=f"{user}@{parts.netloc.rpartition('@')[2]}")
    if database:
        parts = parts._replace(path=f"/{database}")

    with pytest.raises(ValueError, match=f"cannot be opened: .*{why}"):
        async with Entitlements.open(parts.geturl()):
            pass


async def test_an_unreachable_server_raises_unavailable_with_its_address() -> None:
    port = free_port()

    with pytest.raises(errors.Unavailable, match=f"cannot be opened: .*{port}") as outage:
        async with Entitlements.open(f"postgresql://127.0.0.1:{port}/books"):
            pass

    assert outage.value.applied == "no"


async def test_an_engine_used_from_another_loop_raises(tmp_path: Path) -> None:
    async with Entitlements.open(sqlite_url(tmp_path)) as face:

        async def asked() -> None:
            await face.balance("ada")

        with pytest.raises(errors.Closed, match="another event loop"):
            await asyncio.to_thread(asyncio.run, asked())
        assert (await face.balance("ada")).user_balance == 0


@asynccontextmanager
async def strict(name: str, url: str) -> AsyncIterator[api.Entitlements]:
    """Open the named interface so that it raises on a shortfall."""
    if name == "open":
        async with Entitlements.open(url, policy=POLICY, raise_on_shortfall=True) as face:
            yield face
    elif name == "open_sync":
        sync = await asyncio.to_thread(
            Entitlements.open_sync, url, policy=POLICY, raise_on_shortfall=True
        )
        yield Waiting(sync)  # type: ignore[misc]
        await asyncio.to_thread(sync.close)
    else:
        async with serving(url) as (_, port, secret):
            service = f"http://127.0.0.1:{port}"
            if name == "AsyncClient":
                async with AsyncClient(service, key=secret, raise_on_shortfall=True) as face:
                    yield face
            else:
                client = Client(service, key=secret, raise_on_shortfall=True)
                yield Waiting(client)  # type: ignore[misc]
                await asyncio.to_thread(client.close)


@pytest.mark.parametrize("name", ["open", "open_sync", "AsyncClient", "Client"])
async def test_a_shortfall_raises_if_requested(name: str, tmp_path: Path) -> None:
    async with strict(name, sqlite_url(tmp_path)) as face:
        await face.adjust(5, subject_type="user", subject_id="ada", reason="a gift")
        paid = await face.consume(user_id="ada", metric="cj_comparison", amount=5)
        with pytest.raises(errors.Shortfall, match="3 credits are owed") as one:
            await face.consume(user_id="ada", metric="cj_comparison", amount=3, key="k")
        with pytest.raises(errors.Shortfall) as again:
            await face.consume(user_id="ada", metric="cj_comparison", amount=3, key="k")
        with pytest.raises(errors.Shortfall) as unpriced:
            await face.consume(user_id="ada", metric="a-typo")
        items = [
            ConsumeItem(user_id="ada", metric=metric, amount=1, correlation_id=metric)
            for metric in ("spellcheck", "cj_comparison")
        ]
        with pytest.raises(errors.Shortfall, match="1 of 2 consumptions") as several:
            await face.consume_all(items)
        (owed,) = (await face.operations(key="k")).operations

    assert paid.success
    assert (one.value.answers[0].success, again.value.answers[0].replayed) == (False, True)
    assert owed.id == one.value.answers[0].operation_id
    assert unpriced.value.answers[0].reason == "policy_denied"
    assert [answer.success for answer in several.value.answers] == [True, False]
