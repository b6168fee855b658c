"""What the process does at its start and its end."""

import asyncio
import json
import signal
import socket
import stat
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from entitlements.app.access.keys import Act, Role, revoke_key, secret_sha256
from entitlements.app.ports import StoreUnavailable
from entitlements.service.bootstrap import Greeting, bootstrap
from entitlements.service.compose import System, build
from entitlements.settings import SettingsError, load
from tests.faults.service import Service
from tests.servers import free_port
from tests.stores.clerk import consume
from tests.waiting import until

POLICY = "costs: {credit: 1}\n"


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    async with Service(f"sqlite:///{tmp_path}/entitlements.db", policy) as service:
        yield service


async def status(port: int, path: str) -> int:
    async with httpx2.AsyncClient() as http:
        return (await http.get(f"http://127.0.0.1:{port}{path}")).status_code


async def test_metrics_have_a_listener_of_their_own_that_stops_with_the_other(
    service: Service,
) -> None:
    apart = free_port()

    await service.start(ENTITLEMENTS_METRICS_PORT=str(apart))

    assert await status(apart, "/metrics") == 200
    assert await status(apart, "/livez") == 404
    assert await status(service.port, "/metrics") == 404
    assert await status(service.port, "/livez") == 200
    await service.stopped_by(signal.SIGTERM)
    for port in (apart, service.port):
        with pytest.raises(httpx2.ConnectError):
            await status(port, "/metrics")


async def test_equal_ports_are_one_listener(service: Service) -> None:
    await service.start(ENTITLEMENTS_METRICS_PORT=str(service.port))

    assert await status(service.port, "/metrics") == 200
    assert await status(service.port, "/livez") == 200


@pytest.mark.parametrize("setting", ["ENTITLEMENTS_HTTP_PORT", "ENTITLEMENTS_METRICS_PORT"])
async def test_a_taken_port_stops_the_start_and_is_named(service: Service, setting: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as rival:
        port = rival.getsockname()[1]

        with pytest.raises(
            RuntimeError, match=rf"{setting}: cannot listen on 127.0.0.1 port {port}: "
        ):
            await service.start(**{setting: str(port)})


@pytest.mark.parametrize("relay", ["true", "false"])
async def test_options_that_kafkas_library_does_not_take_stop_the_start_and_are_named(
    service: Service, relay: str
) -> None:
    wrong = r"ENTITLEMENTS_KAFKA_OPTIONS: No such configuration property: \"sasl.pasword\""
    with pytest.raises(RuntimeError, match=wrong):
        await service.start(
            ENTITLEMENTS_KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:9",
            ENTITLEMENTS_KAFKA_OPTIONS="sasl.pasword=hush",
            ENTITLEMENTS_RELAY_ENABLED=relay,
        )

    assert "hush" not in service.log()


async def test_a_misspelt_variable_is_told_of_at_the_start(service: Service) -> None:
    await service.start(ENTITLEMENTS_HTTP_PROT="80")
    await service.stopped_by(signal.SIGTERM)

    assert '"event":"settings.unknown"' in service.log()
    assert "ENTITLEMENTS_HTTP_PROT: unknown setting, ignored" in service.log()


@pytest.mark.parametrize(
    ("setting", "value", "reason"),
    [
        ("ENTITLEMENTS_ENVIRONMENT", "production", "ENVIRONMENT is production"),
        (
            "ENTITLEMENTS_KAFKA_BOOTSTRAP_SERVERS",
            "127.0.0.1:1",
            "KAFKA_BOOTSTRAP_SERVERS is set",
        ),
        ("ENTITLEMENTS_ENVIRONMENT", "development", None),
    ],
)
async def test_the_start_names_its_store_and_warns_of_a_file_where_a_server_is_meant(
    service: Service, setting: str, value: str, reason: str | None
) -> None:
    await service.start(ENTITLEMENTS_LOG_LEVEL="INFO", **{setting: value})
    async with httpx2.AsyncClient(base_url=service.url) as http:
        health = (await http.get("/healthz")).json()
    await service.stopped_by(signal.SIGTERM)

    assert health["checks"]["database"]["message"] == "SQLite"
    assert '"event":"store.opened","kind":"SQLite"' in service.log()
    assert ("store.is_a_file" in service.log()) == (reason is not None)
    assert (reason or "") in service.log()


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[System]:
    url = f"sqlite:///{tmp_path}/entitlements.db"
    async with build(load(database_url=url, bootstrap_key_file=tmp_path / "key")) as system:
        yield system


async def test_the_first_start_writes_a_key_and_the_next_ones_leave_it(
    system: System, tmp_path: Path
) -> None:
    await bootstrap(system)
    first = (tmp_path / "key").read_text()
    await bootstrap(system)

    assert (tmp_path / "key").read_text() == first
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    (key,) = await system.engine.store.keys.all()
    assert (key.role, key.secret_sha256) == (Role.ADMIN, secret_sha256(first.strip()))


async def test_a_key_file_that_cannot_be_written_commits_no_key(
    system: System, tmp_path: Path
) -> None:
    path = tmp_path / "key"
    path.mkdir()

    with pytest.raises(SettingsError) as refused:
        await bootstrap(system)

    assert str(refused.value).startswith(f"ENTITLEMENTS_BOOTSTRAP_KEY_FILE: cannot write {path}: ")
    assert await system.engine.store.keys.all() == []
    path.rmdir()
    await bootstrap(system)
    (key,) = await system.engine.store.keys.all()
    assert key.secret_sha256 == secret_sha256(path.read_text().strip())


async def test_a_key_that_could_not_be_committed_is_replaced_by_the_next_start(
    system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = system.engine.store

    async def lost(*_: object) -> None:
        raise StoreUnavailable("database: lost")

    with monkeypatch.context() as broken:
        broken.setattr(store.keys, "add", lost)
        with pytest.raises(StoreUnavailable):
            await bootstrap(system)

    await bootstrap(system)

    (key,) = await store.keys.all()
    assert key.secret_sha256 == secret_sha256((tmp_path / "key").read_text().strip())


@pytest.mark.parametrize(
    ("host", "address"), [("127.0.0.1", "http://127.0.0.1:8083"), ("::1", "http://[::1]:8083")]
)
async def test_every_start_says_where_the_service_is(
    tmp_path: Path, host: str, address: str
) -> None:
    url = f"sqlite:///{tmp_path}/entitlements.db"
    given = load(database_url=url, bootstrap_key_file=tmp_path / "key", http_host=host)
    async with build(given) as system:
        for hint in ("Admin key: $(cat ", "`entitlements keys create`"):
            greeting = await bootstrap(system)

            said = greeting.text()
            assert said.startswith(f"Entitlements at {address}, docs at {address}/docs. {hint}")


async def test_without_a_terminal_a_service_that_listens_says_so_in_its_log(
    service: Service,
) -> None:
    await service.start(ENTITLEMENTS_LOG_LEVEL="INFO")

    await until(lambda: "service.started" in service.log())
    (line,) = [one for one in service.log().splitlines() if "service.started" in one]
    assert json.loads(line)["docs"] == f"{service.url}/docs"


async def test_the_command_that_a_first_start_proposes_succeeds(
    service: Service, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    await service.start(ENTITLEMENTS_AUTH="keys", ENTITLEMENTS_BOOTSTRAP_KEY_FILE=str(key))
    proposed = Greeting(service.url, f"$(cat {key})", is_new=True).example()

    shell = ["sh", "-c", proposed]
    done = await asyncio.to_thread(subprocess.run, shell, check=True, capture_output=True)

    answer = json.loads(done.stdout)
    assert (answer["success"], answer["created"]) == (True, True)


async def test_when_every_key_was_revoked_the_next_start_makes_one(
    system: System, tmp_path: Path
) -> None:
    await bootstrap(system)
    revoked = (tmp_path / "key").read_text()
    store = system.engine.store
    (key,) = await store.keys.all()
    act = Act(
        actor="test",
        client="test",
        at=system.clock(),
        new_id=system.engine.new_id,
        correlation_id="test",
    )
    assert await revoke_key(store.keys, key.id, act)

    await bootstrap(system)

    assert (tmp_path / "key").read_text() != revoked
    assert [key.revoked_at is None for key in await store.keys.all()] == [False, True]


@pytest.mark.parametrize(
    ("variables", "knows"), [({}, True), ({"rate_limit_enabled": False}, False)]
)
async def test_a_restarted_service_knows_what_was_used_of_a_limit(
    tmp_path: Path, variables: dict[str, bool], *, knows: bool
) -> None:
    settings = load(database_url=f"sqlite:///{tmp_path}/books.db", **variables)
    async with build(settings) as system:
        await system.engine.committer.submit(consume(60, metric="batch_create"))

    async with build(settings) as again:
        checked = await again.engine.checks.check(
            {"batch_create": 1}, user_id="teacher", org_id=None, correlation_id="x"
        )

    assert bool(checked.decision.exceeded) is knows
