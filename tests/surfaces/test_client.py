"""The client when the connection to the service fails."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from entitlements.app.access.keys import Act, Role, create_key
from entitlements.app.ports import OperationsQuery
from entitlements.client import AsyncClient, Client
from entitlements.contracts import errors
from entitlements.service.compose import System
from tests.proxy import Proxy, Replies
from tests.servers import free_port
from tests.surfaces.scene import Waiting, serving
from tests.tables import sqlite_url
from tests.waiting import PATIENCE_S

Scene = tuple[System, Proxy, str]


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    """A service, a proxy in front of it, and a key."""
    async with (
        serving(sqlite_url(tmp_path)) as (system, port, secret),
        Proxy(port) as proxy,
    ):
        yield system, proxy, secret


def url(proxy: Proxy) -> str:
    return f"http://127.0.0.1:{proxy.port}"


async def until_asked(proxy: Proxy, times: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while proxy.requests < times:  # noqa: ASYNC110 - the proxy only counts
            await asyncio.sleep(0.01)


async def test_a_lost_response_is_retried_and_charges_once(scene: Scene) -> None:
    system, proxy, secret = scene
    async with AsyncClient(url(proxy), key=secret) as client:
        await client.open_account(subject_type="user", subject_id="ada")
        proxy.replies, asked = Replies.DROPPED, proxy.requests
        order = asyncio.create_task(
            client.consume(user_id="ada", metric="cj_comparison", amount=10)
        )
        await until_asked(proxy, asked + 1)
        async with asyncio.timeout(PATIENCE_S):
            while len((await system.engine.store.reads.operations(OperationsQuery())).rows) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        proxy.replies = Replies.PASSED_ON
        proxy.cut()
        done = await order

        assert (done.new_balance, done.replayed) == (40, True)
        assert (await client.balance("ada")).user_balance == 40


async def test_a_late_response_is_retried_and_charges_once(scene: Scene) -> None:
    _, proxy, secret = scene
    async with AsyncClient(url(proxy), key=secret, timeout_s=0.3, attempts_max=1_000) as client:
        await client.open_account(subject_type="user", subject_id="ada")
        proxy.replies, asked = Replies.HELD_BACK, proxy.requests
        order = asyncio.create_task(
            client.consume(user_id="ada", metric="cj_comparison", amount=10)
        )
        await until_asked(proxy, asked + 2)
        proxy.replies = Replies.PASSED_ON
        done = await order

        assert (done.new_balance, done.replayed) == (40, True)


async def test_an_unreachable_service_is_tried_a_limited_number_of_times() -> None:
    async with AsyncClient(f"http://127.0.0.1:{free_port()}", attempts_max=2) as client:
        with pytest.raises(errors.Unavailable) as lost:
            await client.balance("ada")

    assert (lost.value.code, lost.value.applied) == ("unreachable", "no")


async def test_a_lost_response_leaves_unknown_whether_the_request_was_applied(scene: Scene) -> None:
    _, proxy, secret = scene
    async with AsyncClient(url(proxy), key=secret, timeout_s=0.1, attempts_max=2) as client:
        proxy.replies = Replies.HELD_BACK
        with pytest.raises(errors.Unavailable) as lost:
            await client.open_account(subject_type="user", subject_id="ada")

    assert lost.value.applied == "unknown"


async def test_the_total_timeout_ends_the_retries() -> None:
    async with AsyncClient(
        f"http://127.0.0.1:{free_port()}", attempts_max=1_000, patience_s=0.2
    ) as client:
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(errors.Unavailable):
                await client.balance("ada")


async def test_an_overloaded_service_is_retried_after_the_time_that_it_asks_for(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, proxy, secret = scene
    async with AsyncClient(url(proxy), key=secret) as client:
        slept: list[float] = []
        sound = system.engine.committer.submit

        async def busy(*_: object, **__: object) -> object:
            raise errors.Unavailable("overloaded", "full", retry_after_s=7)

        async def sleep(wait_s: float) -> None:
            slept.append(wait_s)
            system.engine.committer.submit = sound  # type: ignore[method-assign]

        system.engine.committer.submit = busy  # type: ignore[method-assign, assignment]
        monkeypatch.setattr("entitlements.client.sleep", sleep)
        opened = await client.open_account(subject_type="user", subject_id="ada")

    assert opened.created
    assert len(slept) == 1
    assert 7 <= slept[0] <= 8


async def test_an_unknown_key_is_refused_without_retries(scene: Scene) -> None:
    _, proxy, _ = scene
    async with AsyncClient(url(proxy), key="ent_" + "x" * 43) as client:
        with pytest.raises(errors.Unauthenticated):
            await client.balance("ada")

    assert proxy.requests == 1


async def test_a_role_without_permission_is_refused(scene: Scene) -> None:
    system, proxy, _ = scene
    act = Act(
        actor="test", client="test", at=system.clock(), new_id=system.engine.new_id,
        correlation_id="t",
    )  # fmt: skip
    _, secret = await create_key(
        system.engine.store.keys, name="grader", role=Role.SERVICE, act=act
    )
    async with AsyncClient(url(proxy), key=secret) as client:
        with pytest.raises(errors.Forbidden) as refusal:
            await client.adjust(5, subject_type="user", subject_id="ada", reason="x")

    assert refusal.value.status == 403
    assert secret not in repr(client) + str(refusal.value)


async def test_another_server_is_not_mistaken_for_the_service() -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, AsyncClient(f"http://127.0.0.1:{port}") as client:
        with pytest.raises(errors.Unavailable) as lost:
            await client.balance("ada")

    assert lost.value.code == "unexpected_answer"


async def test_threads_share_one_client(scene: Scene) -> None:
    _, proxy, secret = scene
    face = Client(url(proxy), key=secret, connections_max=4)
    shared = Waiting(face)
    await shared.open_account(subject_type="user", subject_id="ada")

    done = await asyncio.gather(
        *(shared.consume(user_id="ada", metric="cj_comparison") for _ in range(20))
    )

    assert sorted(one.new_balance for one in done) == list(range(30, 50))
    await asyncio.to_thread(face.close)
    assert "entitlements" not in {thread.name for thread in threading.enumerate()}


def test_a_client_used_from_another_loop_raises(tmp_path: Path) -> None:
    """Its connections belong to the event loop that created them, which can be closed by now."""

    async def asked(client: AsyncClient) -> None:
        await client.balance("ada")

    async def served() -> None:
        async with serving(sqlite_url(tmp_path)) as (_, port, secret):
            client = AsyncClient(f"http://127.0.0.1:{port}", key=secret)
            await client.balance("ada")
            for use in (asked(client), client.aclose()):
                with pytest.raises(errors.Closed, match="another event loop"):
                    await asyncio.to_thread(asyncio.run, use)
            await client.balance("ada")
            await client.aclose()

    asyncio.run(served())


def test_only_http_urls_are_accepted() -> None:
    with pytest.raises(ValueError, match="http"):
        AsyncClient("127.0.0.1:8083")
