"""The service calls the lifecycle handlers of installed packages, also after it was killed."""

import os
import signal
from pathlib import Path

import httpx2

from tests.faults.service import Service
from tests.waiting import until

POLICY = """
costs: {credit: 1}
lifecycle: crm
plans: {pro: {grants: [{entitlement_type: feature_unlock, feature: export}]}}
"""
HANDLER = """
from pathlib import Path

from entitlements import EntitlementLifecycleHandler

FOLDER = Path(__file__).parent


class Crm(EntitlementLifecycleHandler):
    async def handle_subscription_activated(self, subscription_id, db=None, **context):
        await self.entitlement_service.grant_entitlement(
            user_id=context["user_id"],
            entitlement_type="credit_grant",
            credit_type="credits",
            quantity_granted=5,
            grant_reason="signup_bonus",
        )
        if not (FOLDER / "open").exists():
            raise ConnectionError("the CRM is closed")
        with (FOLDER / "calls").open("a") as calls:
            calls.write(f"{subscription_id} {context['plan_id']}\\n")
        return []
"""


def install(folder: Path) -> None:
    """Install a package with a handler, as pip does."""
    (folder / "crm.py").write_text(HANDLER)
    about = folder / "crm-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: crm\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[entitlements.lifecycle_handlers]\ncrm = crm:Crm\n")


async def test_a_call_is_made_after_a_kill_and_what_it_grants_is_granted_once(
    tmp_path: Path,
) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    install(packages)
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    async with (
        Service(f"sqlite:///{tmp_path}/books.db", policy) as service,
        httpx2.AsyncClient(base_url=service.url) as http,
    ):
        await service.start(PYTHONPATH=str(packages))
        subscription = {"user_id": "ada", "plan_id": "pro", "subscription_id": "sub_1"}
        made = await http.post("/v1/admin/subscriptions", json=subscription)
        assert made.status_code == 201, made.text

        async def has_failed() -> bool:
            listed = (await http.get("/v1/admin/lifecycle-calls")).json()["calls"]
            return [one["last_error"] for one in listed] == ["ConnectionError: the CRM is closed"]

        await until(has_failed)
        os.kill(service.pid, signal.SIGKILL)
        await service.killed()
        (packages / "open").touch()
        await service.start(PYTHONPATH=str(packages))

        async def is_made() -> bool:
            return not (await http.get("/v1/admin/lifecycle-calls")).json()["count"]

        await until(is_made)
        balance = (await http.get("/v1/entitlements/balance/ada")).json()["user_balance"]
    assert (packages / "calls").read_text() == "sub_1 pro\n"
    assert balance == 5
