from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from entitlements.app.policy.document import default_policy_text
from entitlements.service.compose import build
from entitlements.settings import load
from tests.tables import sqlite_url
from tests.transports.http.api import Api


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    policy = tmp_path / "policy.yaml"
    policy.write_text(default_policy_text().replace("credit_adjustment: 10/hour", ""))
    settings = load(database_url=sqlite_url(tmp_path), policy_file=policy)
    async with AsyncExitStack() as stack:
        system = await stack.enter_async_context(build(settings))
        yield Api(system, stack)
