"""The databases of the concurrency tests. Failpoints are cleared after each test."""

from collections.abc import Iterator

import pytest

from entitlements.app.process import failpoints
from tests.concurrency.conftest import any_url, url

__all__ = ["any_url", "no_failpoint_stays", "url"]


@pytest.fixture(autouse=True)
def no_failpoint_stays() -> Iterator[None]:
    yield
    failpoints.clear()
