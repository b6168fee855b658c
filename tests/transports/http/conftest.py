from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from entitlements.main import build
from entitlements.settings import load
from tests.transports.http.api import Api


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    settings = load(database_url=f"sqlite:///{tmp_path}/entitlements.db")
    async with AsyncExitStack() as stack:
        system = await stack.enter_async_context(build(settings))
        yield Api(system, stack)
