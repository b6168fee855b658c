"""A service that receives a stop signal finishes the accepted requests."""

import asyncio
import os
import signal
from pathlib import Path

import httpx2
import pytest

from tests.faults.service import Service, insist
from tests.waiting import until


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_stop_under_load_completes_accepted_requests_and_exits_with_0(
    any_url: str, tmp_path: Path, number: int
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("costs: {spellcheck: 0}\n")
    async with Service(any_url, policy) as service:
        await service.start()
        async with httpx2.AsyncClient(base_url=service.url, timeout=20) as http:
            work = {"user_id": "ada", "metric": "spellcheck", "amount": 1, "correlation_id": "c"}
            keys = [f"k{n}" for n in range(40)]
            await insist(http, keys[0], work)
            asked = [
                asyncio.create_task(
                    http.post(
                        "/v1/entitlements/consume-credits",
                        json=work,
                        headers={"Idempotency-Key": key},
                    )
                )
                for key in keys
            ]
            await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            assert await service.stopped_by(number) == 0
            answers = await asyncio.gather(*asked, return_exceptions=True)
            given = [key for key, one in zip(keys, answers, strict=True) if _is_yes(one)]
            assert given
            await service.start()
            for key in given:
                assert (await insist(http, key, work))["replayed"]


async def test_a_stopping_service_still_serves_but_is_not_ready(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("costs: {spellcheck: 0}\n")
    async with Service(f"sqlite:///{tmp_path}/entitlements.db", policy) as service:
        await service.start(ENTITLEMENTS_SHUTDOWN_DELAY_S="300")
        async with httpx2.AsyncClient(base_url=service.url) as http:
            os.kill(service.pid, signal.SIGTERM)

            async def is_not_ready() -> bool:
                return (await http.get("/readyz")).status_code == 503

            await until(is_not_ready)
            assert (await http.get("/healthz")).status_code == 200
            work = {"user_id": "ada", "metric": "spellcheck", "amount": 1, "correlation_id": "c"}
            assert (await insist(http, "k", work))["success"]
        assert await service.stopped_by(signal.SIGTERM) == 0


def _is_yes(answer: httpx2.Response | BaseException) -> bool:
    return isinstance(answer, httpx2.Response) and answer.is_success
