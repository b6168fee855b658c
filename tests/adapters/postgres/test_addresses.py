"""Connection URLs in the forms that the driver documents, against a real server."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote, urlsplit

import pytest

from entitlements.adapters.postgres.connection import connected
from entitlements.app.ports import AddressUnusable, SchemaMismatch
from entitlements.wiring import migrate, open_store, verify
from tests.servers import Postgres, PostgresServer, run_apart


@pytest.fixture(scope="module")
def socket_folder() -> Iterator[Path]:
    with TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


@pytest.fixture(scope="module")
def server(socket_folder: Path) -> Iterator[PostgresServer]:
    """A server with a socket in the file system, and a role whose password needs encoding."""
    with PostgresServer({"unix_socket_directories": f"'{socket_folder}'"}) as server:
        run_apart(_execute(server.admin_url, "CREATE ROLE ada LOGIN SUPERUSER PASSWORD 'å/?#@:&='"))
        yield server


async def _execute(url: str, sql: str) -> None:
    async with connected(url) as db:
        await db.execute(sql)


@pytest.mark.parametrize(
    "form",
    [
        "postgresql://postgres@{folder}:{port}/postgres",
        "postgresql:///postgres?host={folder}&port={port}&user=postgres",
        "postgresql://ada:{password}@127.0.0.1:{port}/postgres",
        "postgresql://postgres@127.0.0.1:1,127.0.0.1:{port}/postgres",
        "postgresql://postgres@127.0.0.1:{port}/postgres?application_name=books&sslmode=disable",
    ],
)
async def test_each_form_reaches_the_server(
    server: PostgresServer, socket_folder: Path, form: str
) -> None:
    url = form.format(
        folder=quote(str(socket_folder), safe=""), port=server.port, password=quote("å/?#@:&=", "")
    )

    async with connected(url) as db:
        assert await db.fetchval("SELECT 1") == 1


async def test_tables_can_be_in_a_separate_schema(postgres_server: Postgres) -> None:
    with postgres_server.database("template0") as plain:
        await _execute(plain, "CREATE SCHEMA books")
        url = f"{plain}?options=-csearch_path%3Dbooks"

        await migrate(url)
        store = await open_store(url)
        await store.close()

        assert await verify(url) == []
        async with connected(plain) as db:
            assert await db.fetchval("SELECT to_regclass('public.credit_operations')") is None


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("bogus=1", "the option bogus, which the server refuses"),
        ("block_size=1", "the option block_size, which the server refuses"),
        ("hush4f1c=1", "an option, which the server refuses"),
        ("client_min_messages=hush4f1c", "the option client_min_messages, which the server"),
    ],
)
async def test_an_option_that_the_server_refuses_is_named(
    postgres_server: Postgres, option: str, named: str
) -> None:
    url = f"{postgres_server.admin_url}?{option}"

    for use in (migrate(url), open_store(url), verify(url)):
        with pytest.raises(AddressUnusable) as refused:
            await use
        assert str(refused.value).startswith(f"the URL of the database has {named}")
        assert "hush" not in str(refused.value)


async def test_a_database_without_utf8_encoding_is_refused(
    postgres_server: Postgres,
) -> None:
    url = postgres_server.url("test_latin1")
    made = "CREATE DATABASE test_latin1 ENCODING 'LATIN1' TEMPLATE template0"
    await _execute(postgres_server.admin_url, made)
    try:
        for use in (migrate(url), open_store(url)):
            with pytest.raises(SchemaMismatch, match="has the encoding LATIN1: create one with"):
                await use
    finally:
        postgres_server.drop_database(urlsplit(url).path.removeprefix("/"))
