import signal
import subprocess
import sys
import time
from pathlib import Path

import asyncpg
import psutil
import pytest
from confluent_kafka import Producer

from tests.kafka import KafkaServer
from tests.servers import Postgres, PostgresServer
from tests.waiting import PATIENCE_S

STARTER = """
import sys, time
from {module} import {server}
server = {server}()
server.start()
print(server.pid, server.home, flush=True)
time.sleep(60)
"""


async def value(url: str, sql: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


async def test_every_test_gets_a_durable_database_of_its_own(empty_postgres_url: str) -> None:
    tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"

    assert await value(empty_postgres_url, "SHOW fsync") == "on"
    assert await value(empty_postgres_url, tables) == 0


async def test_a_template_is_prepared_once_and_copied(postgres_server: Postgres) -> None:
    prepared: list[str] = []

    name = postgres_server.template("a_template", prepared.append)
    assert postgres_server.template("a_template", prepared.append) == name
    url = postgres_server.create_database(template=name)
    postgres_server.drop_database(url.rsplit("/", 1)[1])
    postgres_server.drop_database(name)

    assert prepared == [postgres_server.url(name)]


@pytest.mark.parametrize("crash", ["restart_immediate", "kill"])
async def test_committed_rows_survive_a_crash(
    crash: str, crashable_postgres: PostgresServer
) -> None:
    url = crashable_postgres.admin_url
    await value(url, "CREATE TABLE kept AS SELECT 42 AS answer")
    before = crashable_postgres.pid

    getattr(crashable_postgres, crash)()
    crashable_postgres.start()

    assert await value(url, "SELECT answer FROM kept") == 42
    assert crashable_postgres.pid != before


def test_acknowledged_records_survive_a_kill(crashable_kafka: KafkaServer) -> None:
    crashable_kafka.create_topic("kept", partitions=3)
    producer = Producer({"bootstrap.servers": crashable_kafka.bootstrap, "log_level": 0})
    before = crashable_kafka.pid

    producer.produce("kept", b"42", b"answer", headers={"a": b"b"})
    assert producer.flush(10) == 0
    crashable_kafka.kill()
    crashable_kafka.start()

    (record,) = crashable_kafka.read("kept", count=1)
    assert (record.key(), record.value()) == (b"answer", b"42")
    assert record.headers() == [("a", b"b")]
    assert crashable_kafka.count("kept") == 1
    assert crashable_kafka.pid != before


@pytest.mark.parametrize(
    ("module", "server"),
    [
        ("tests.servers", "PostgresServer"),
        ("tests.servers", "RedisServer"),
        ("tests.kafka", "KafkaServer"),
    ],
)
def test_no_server_outlives_a_killed_starter(module: str, server: str) -> None:
    root = Path(__file__).parent.parent
    with subprocess.Popen(
        [sys.executable, "-c", STARTER.format(module=module, server=server)],
        cwd=root,
        stdout=subprocess.PIPE,
        text=True,
    ) as starter:
        assert starter.stdout
        pid, home = starter.stdout.readline().split()
        starter.send_signal(signal.SIGKILL)

    deadline = time.monotonic() + PATIENCE_S
    while (is_alive(int(pid)) or Path(home).exists()) and time.monotonic() < deadline:
        time.sleep(0.05)

    assert not is_alive(int(pid))
    assert not Path(home).exists()
