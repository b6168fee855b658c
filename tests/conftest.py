"""Servers for the tests that need them, their files in memory, and the order of test files."""

import asyncio
import faulthandler
import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from threading import Timer
from typing import Final

import hypothesis
import pytest

from tests.kafka import Kafka, KafkaServer, running_kafka
from tests.profiles import LONG, SHORT
from tests.servers import (
    Postgres,
    PostgresServer,
    Redis,
    RedisServer,
    running_postgres,
    running_redis,
)
from tests.tables import migrate

pytest_plugins = ["pytester", "tests.slowest"]

TESTS = Path(__file__).parent
MEMORY: Final = Path("/dev/shm")  # noqa: S108 - tempfile makes private files in it
ROOM: Final = 2 << 30
BEFORE_TIMEOUT_S = 10
LONGEST_FIRST = (
    "surfaces/test_subscriptions.py",
    "surfaces/test_entitlements.py",
    "test_readme.py",
    "stores/test_reads_agree.py",
    "app/outbox/test_relay.py",
    "transports/http/test_schema.py",
    "soak/test_soak.py",
    "transports/cli/test_commands.py",
    "adapters/kafka/test_producer.py",
    "app/inbox/test_consumer.py",
    "faults/test_relay_to_kafka.py",
    "transports/cli/test_importing.py",
    "surfaces/test_guarantees.py",
    "transports/cli/test_exporting.py",
    "faults/test_outage_log.py",
    "grading/demo/test_demo.py",
    "transports/cli/test_origin.py",
    "app/webhooks/test_deliverer.py",
    "app/verify/test_verify.py",
    "app/inbox/test_kill.py",
    "adapters/postgres/test_service_role.py",
    "surfaces/test_month.py",
    "faults/test_processes.py",
    "faults/test_failover.py",
    "stores/test_model.py",
    "stores/test_outbox.py",
    "stores/test_ledger.py",
    "test_servers.py",
    "surfaces/test_entitlement_service.py",
    "concurrency/test_shared_limits.py",
    "adapters/kafka/test_topics.py",
    "faults/test_kill.py",
    "adapters/postgres/test_listing_plans.py",
    "faults/test_unreadable.py",
)
"""The files that take longest, as `make test` prints them. A worker takes a file at a time, so the
last files should be short: then all workers finish at about the same time.
"""


def _keep_files_in_memory() -> None:
    """Create temporary files in memory if it has room and `TMPDIR` names no other place.

    A run creates and deletes thousands of databases. On a disk that takes most of their time, and
    no test can tell the difference: a killed process loses nothing in either place.
    """
    if "TMPDIR" not in os.environ and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM:
        os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)


_keep_files_in_memory()

# Speed is measured by the benchmarks; a busy machine must not fail a property test.
hypothesis.settings.register_profile(SHORT, deadline=None, print_blob=True)
hypothesis.settings.register_profile(LONG, deadline=None, print_blob=True, max_examples=2_000)
hypothesis.settings.load_profile(SHORT)


def _rank(item: pytest.Item) -> int:
    file = item.path.relative_to(TESTS).as_posix()
    return LONGEST_FIRST.index(file) if file in LONGEST_FIRST else len(LONGEST_FIRST)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_rank)


def pytest_collection_finish() -> None:
    """Spare garbage collections the thousands of tests and modules, which live until the end."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Shortly before the timeout ends the run, print tasks, which no thread's stack shows."""
    patience_s = float(item.config.getini("timeout")) - BEFORE_TIMEOUT_S
    timer = Timer(patience_s, _show_tasks, [item])
    timer.daemon = True
    timer.start()
    try:
        return (yield)
    finally:
        timer.cancel()


def _show_tasks(item: pytest.Item) -> None:
    capture = item.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print(f"\n{item.nodeid} hangs. Its threads and tasks:", file=sys.stderr)  # noqa: T201
        faulthandler.dump_traceback(file=sys.stderr)
        # By type: isinstance asks the object, and a dead proxy raises.
        for thing in gc.get_objects():
            if issubclass(type(thing), asyncio.Task) and not thing.done():
                thing.print_stack(file=sys.stderr)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """The PostgreSQL that all tests share: the one in the environment, or a new one."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def crashable_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL for this test alone, which may restart and kill it."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_template(postgres_server: Postgres) -> str:
    """The database that `postgres_url` copies, with tables; files and folders can override it."""
    return postgres_server.template("migrated", migrate)


@pytest.fixture
def postgres_url(postgres_server: Postgres, postgres_template: str) -> Iterator[str]:
    """A fresh database, dropped after the test."""
    with postgres_server.database(postgres_template) as url:
        yield url


@pytest.fixture
def empty_postgres_url(postgres_server: Postgres) -> Iterator[str]:
    """A fresh database without tables."""
    with postgres_server.database("template0") as url:
        yield url


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    """The Redis that all tests share: the one in the environment, or a new one."""
    with running_redis() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: Redis) -> str:
    """The shared Redis, emptied."""
    redis_server.command("FLUSHDB")
    return redis_server.url


@pytest.fixture
def crashable_redis() -> Iterator[RedisServer]:
    """A Redis for this test alone, which may pause, kill and restart it."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def kafka_server() -> Iterator[Kafka]:
    """The broker that all tests share: the one in the environment, or a new one."""
    with running_kafka() as server:
        yield server


@pytest.fixture
def topic_prefix(kafka_server: Kafka) -> str:
    """A topic prefix on the shared broker for this test alone."""
    return kafka_server.prefix()


@pytest.fixture(scope="module")
def broker_of_file() -> Iterator[KafkaServer]:
    with KafkaServer() as server:
        yield server


@pytest.fixture
def crashable_kafka(broker_of_file: KafkaServer) -> KafkaServer:
    """A broker for the tests of this file, one at a time; they may pause and kill it.

    It runs when a test begins, and still has the topics of earlier tests.
    """
    broker_of_file.resume()
    broker_of_file.start()
    return broker_of_file
