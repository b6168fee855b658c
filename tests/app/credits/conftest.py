"""The databases of the concurrency tests. Failpoints are cleared after each test."""

from tests.concurrency.conftest import any_url, url
from tests.faults.conftest import no_failpoint_stays

__all__ = ["any_url", "no_failpoint_stays", "url"]
