"""Runs of the command line in this process, on a new database."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import structlog

from entitlements.service.program import ServiceProgram
from entitlements.transports.cli.app import run
from entitlements.transports.cli.output import ACTOR_VARIABLE
from tests.books import assert_books_balance
from tests.tables import sqlite_url


class Answer(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.out)


Entitlements = Callable[..., Answer]


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """Reset the logging, which a command directs to a stderr that ends with the test."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def entitlements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Entitlements:
    """Run `entitlements ARGUMENTS` in an empty folder; it creates a SQLite file there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(ACTOR_VARIABLE, "cli")

    def call(*arguments: str) -> Answer:
        with pytest.raises(SystemExit) as exit_:
            run(ServiceProgram, arguments)
        captured = capsys.readouterr()
        return Answer(int(exit_.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a new database, which is verified after the test."""
    url = sqlite_url(tmp_path)
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url")
    yield url
    asyncio.run(assert_books_balance(url))
