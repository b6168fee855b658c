"""SIGKILL at every failpoint under 64 clients: nothing acknowledged is lost or applied twice.

The clients record their requests and responses. The ledger is compared with that history, not with
the service's own state.
"""

import asyncio
import random
from collections import Counter
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import pytest

from entitlements.app.process import failpoints
from tests.books import assert_books_balance
from tests.concurrency.scene import POLICY, engines, grant, org, submit_all, user
from tests.faults.service import Service, insist
from tests.profiles import examples

CLIENTS = 64
GIVEN = 1_000_000


class History:
    """The request and the response of each key."""

    def __init__(self) -> None:
        self.asked: dict[str, int] = {}
        self.answered: dict[str, dict[str, Any]] = {}
        self.replays = 0
        self.over = asyncio.Event()

    async def client(self, number: int, http: httpx2.AsyncClient, rng: random.Random) -> None:
        """Consume as the user or the org, with or without a hold, until the test is over.

        Every key is retried until it succeeds.
        """
        turn = 0
        while not self.over.is_set():
            turn += 1
            key = f"client-{number}-{turn}"
            amount = self.asked[key] = rng.randint(1, 9)
            body: dict[str, Any] = {"user_id": f"u{number % 16}", "correlation_id": key}
            if rng.random() < 0.5:
                body["org_id"] = "school"
            if rng.random() < 0.5:
                body |= {"metric": "credit", "amount": amount}
                self.answered[key] = await self._insist(http, key, body)
                continue
            body |= {"requirements": {"credit": amount + rng.randint(0, 3)}}
            hold = (await self._insist(http, f"hold-{key}", body, "holds"))["hold_id"]
            used = {"requirements": {"credit": amount}}
            answer = await self._insist(http, key, used, f"holds/{hold}/settle")
            self.answered[key] = answer | {"credits": answer["charged"]}

    async def _insist(self, *asked: Any) -> dict[str, Any]:
        answer = await insist(*asked)
        self.replays += answer["replayed"]
        return answer

    async def agrees_with(self, url: str) -> None:
        """Assert that each key was charged once, by the operation that its response names."""
        db = await asyncpg.connect(url)
        rows = await db.fetch(
            "SELECT correlation_id, id::text, amount FROM credit_operations WHERE kind = 'consume'"
        )
        left = await db.fetchval("SELECT sum(balance - held) FROM credit_balances")
        await db.close()
        assert self.answered.keys() == self.asked.keys()
        assert Counter(row["correlation_id"] for row in rows) == Counter(self.asked.keys())
        for row in rows:
            answer = self.answered[row["correlation_id"]]
            assert answer["operation_id"] == row["id"]
            assert answer["credits"] == row["amount"] == self.asked[row["correlation_id"]]
        assert left == 17 * GIVEN - sum(self.asked.values())


@pytest.mark.hypothesis  # a long run selects it
@pytest.mark.parametrize("seed", range(examples(1, long=5)))
async def test_killed_at_every_failpoint_it_loses_nothing_and_charges_nothing_twice(
    url: str, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    async with engines(url) as [engine]:
        wallets = [org("school"), *(user(f"u{n}") for n in range(16))]
        await submit_all([engine], [grant(wallet, GIVEN) for wallet in wallets])
    history = History()
    limits = httpx2.Limits(max_connections=CLIENTS)
    async with (
        Service(url, policy) as service,
        httpx2.AsyncClient(base_url=service.url, limits=limits, timeout=20) as http,
        asyncio.TaskGroup() as tasks,
    ):
        places = rng.sample(failpoints.NAMES, len(failpoints.NAMES))
        for n, place in enumerate(places):
            passes = rng.randint(CLIENTS, 3 * CLIENTS) if place == "queued" else rng.randint(1, 6)
            await service.start(ENTITLEMENTS_FAILPOINT=f"{place}:{passes}")
            if n == 0:
                for number in range(CLIENTS):
                    tasks.create_task(history.client(number, http, random.Random(rng.random())))
            await service.killed()
        await service.start()
        history.over.set()
    assert len(history.asked) > 2 * CLIENTS
    assert history.replays > 0
    await history.agrees_with(url)
    await assert_books_balance(url)
