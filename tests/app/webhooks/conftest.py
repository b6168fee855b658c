"""The stores of the contract suite, with a deliverer."""

from collections.abc import AsyncIterator

import pytest

from entitlements.adapters.http.sender import HttpSender
from tests.app.webhooks.receiver import Receiver
from tests.app.webhooks.scene import Scene, Store
from tests.stores.clerk import Clock
from tests.stores.conftest import clock, store

__all__ = ["clock", "store"]


@pytest.fixture
async def scene(store: Store, clock: Clock) -> AsyncIterator[Scene]:
    async with HttpSender(allow_private=True, timeout_s=5) as sender:
        yield Scene(store, clock, sender)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as opened:
        yield opened
