import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from entitlements import api
from tests.books import assert_books_balance
from tests.surfaces.scene import (
    Clock,
    embedded,
    embedded_in_threads,
    over_http,
    over_http_in_threads,
)
from tests.tables import sqlite_url

FACES = {
    "embedded": embedded,
    "embedded_on_postgres": embedded,
    "embedded_in_threads": embedded_in_threads,
    "client": over_http,
    "client_in_threads": over_http_in_threads,
}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=FACES)
def named(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The name of an interface and the URL of a new database, which is verified after the test."""
    url = sqlite_url(tmp_path)
    if request.param == "embedded_on_postgres":
        url = request.getfixturevalue("postgres_url")
    yield request.param, url
    asyncio.run(assert_books_balance(url))


@pytest.fixture
async def face(named: tuple[str, str], clock: Clock) -> AsyncIterator[api.Entitlements]:
    """The service behind one of its interfaces."""
    name, url = named
    async with FACES[name](url, clock) as opened:
        yield opened
