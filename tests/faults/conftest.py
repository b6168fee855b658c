"""Databases with tables; no failpoint outlives its test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from entitlements.app import failpoints
from tests.concurrency.conftest import migrate
from tests.servers import Postgres


@pytest.fixture(autouse=True)
def no_failpoint_stays() -> Iterator[None]:
    yield
    failpoints.clear()


@pytest.fixture(scope="session")
def postgres_template(postgres_server: Postgres) -> str:
    return postgres_server.template("faults", migrate)


@pytest.fixture
def url(postgres_url: str) -> str:
    return postgres_url


@pytest.fixture(params=["postgres", "sqlite"])
def any_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh database of either engine."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/books.db"
    else:
        yield request.getfixturevalue("postgres_url")
