"""A service that is killed after sending a webhook and before recording it sends it again."""

import asyncio
import signal
from pathlib import Path

import asyncpg
import httpx2

from tests.app.webhooks.receiver import Receiver
from tests.concurrency.scene import POLICY
from tests.faults.service import Service
from tests.faults.test_relay_to_kafka import worker

LOCAL = {
    "ENTITLEMENTS_WEBHOOK_ALLOW_HTTP": "true",
    "ENTITLEMENTS_WEBHOOK_ALLOW_PRIVATE": "true",
}


async def test_killed_before_the_response_it_sends_the_same_message_again(
    url: str, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    answering = asyncio.Event()

    async def mute(_: object) -> bytes:
        await answering.wait()
        return b""

    async with (
        Receiver(mute) as receiver,
        Service(url, policy) as service,
        httpx2.AsyncClient(base_url=service.url) as http,
    ):
        await service.start(**LOCAL)
        hook = {"url": receiver.url, "events": ["*.usage.recorded.v1"]}
        created = (await http.post("/v1/admin/webhooks", json=hook)).json()
        grant = {"subject_type": "user", "subject_id": "ada", "amount": 7, "reason": "test"}
        assert (await http.post("/v1/admin/credits/adjust", json=grant)).is_success
        work = {"user_id": "ada", "metric": "credit", "amount": 3, "correlation_id": "job-1"}
        assert (await http.post("/v1/entitlements/consume-credits", json=work)).is_success
        await receiver.has(1)

        await service.stopped_by(signal.SIGKILL)
        await _its_lease_is_over(url)
        await service.start(**LOCAL)
        await receiver.has(2)
        answering.set()

    first, second = receiver.got
    assert first.id == second.id
    assert first.body == second.body
    assert first.event["data"]["amount"] == 3
    assert first.fits(created["secret"])
    assert second.fits(created["secret"])


async def test_a_worker_delivers_webhooks_for_a_service_without_a_relay(
    url: str, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    async with (
        Receiver() as receiver,
        Service(url, policy) as service,
        httpx2.AsyncClient(base_url=service.url) as http,
    ):
        await service.start(ENTITLEMENTS_RELAY_ENABLED="false", **LOCAL)
        hook = {"url": receiver.url, "events": ["*.balance.changed.v1"]}
        assert (await http.post("/v1/admin/webhooks", json=hook)).is_success
        grant = {"subject_type": "user", "subject_id": "ada", "amount": 7, "reason": "test"}
        assert (await http.post("/v1/admin/credits/adjust", json=grant)).is_success
        await service.stopped_by(signal.SIGTERM)
        assert receiver.got == []

        with worker(url, tmp_path / "worker.log", **LOCAL) as process:
            await receiver.has(1)
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 20) == 0

    [message] = receiver.got
    assert message.event["data"]["delta"] == 7


async def _its_lease_is_over(url: str) -> None:
    """Let the lease expire, as after half a minute."""
    db = await asyncpg.connect(url)
    try:
        await db.execute("UPDATE webhook_deliveries SET next_at = clock_timestamp()")
    finally:
        await db.close()
