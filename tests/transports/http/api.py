"""The whole service, called over ASGI by clients of every role."""

from contextlib import AsyncExitStack
from typing import Any

import httpx2

from entitlements.app.access.keys import Act, Role, create_key
from entitlements.service.compose import System, http_app


class Api:
    """The service and a client for each role; `call` uses the admin."""

    def __init__(self, system: System, stack: AsyncExitStack) -> None:
        self.system = system
        self.app = http_app(system)
        self._stack = stack
        self._clients: dict[str, httpx2.AsyncClient] = {}

    def act(self) -> Act:
        return Act(
            actor="test",
            client="test",
            at=self.system.clock(),
            new_id=self.system.engine.new_id,
            correlation_id="test",
        )

    async def as_role(self, role: Role, name: str | None = None) -> httpx2.AsyncClient:
        name = name or f"{role}-client"
        if name not in self._clients:
            _, secret = await create_key(
                self.system.engine.store.keys, name=name, role=role, act=self.act()
            )
            self._clients[name] = await self.with_headers({"Authorization": f"Bearer {secret}"})
        return self._clients[name]

    async def as_role_service(self, name: str) -> httpx2.AsyncClient:
        return await self.as_role(Role.SERVICE, name)

    async def with_headers(self, headers: dict[str, str]) -> httpx2.AsyncClient:
        transport = httpx2.ASGITransport(self.app, raise_app_exceptions=True)
        client = httpx2.AsyncClient(
            transport=transport, base_url="http://localhost", headers=headers
        )
        return await self._stack.enter_async_context(client)

    async def call(self, method: str, path: str, **request: Any) -> httpx2.Response:
        client = await self.as_role(Role.ADMIN)
        return await client.request(method, path, **request)

    async def post(self, path: str, body: Any, **headers: str) -> httpx2.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.call("POST", path, json=body, headers=named)

    async def give(self, subject: str, amount: int) -> None:
        kind, _, name = subject.partition(":")
        body = {"subject_type": kind, "subject_id": name, "amount": amount, "reason": "test"}
        assert (await self.post("/v1/admin/credits/adjust", body)).status_code == 200

    async def announce(self, user_id: str) -> None:
        """Record free work, which has exactly one event."""
        work = {"user_id": user_id, "metric": "spellcheck", "amount": 1, "correlation_id": "c"}
        assert (await self.post("/v1/entitlements/consume-credits", work)).status_code == 200

    async def ledger(self) -> list[dict[str, Any]]:
        answer = await self.call("GET", "/v1/admin/credits/operations?limit=1000")
        operations: list[dict[str, Any]] = answer.json()["operations"]
        return operations

    async def balance(self, user: str, org: str = "") -> tuple[int, int | None]:
        answer = await self.call("GET", f"/v1/entitlements/balance/{user}", params={"org_id": org})
        return answer.json()["user_balance"], answer.json()["org_balance"]
