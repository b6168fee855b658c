"""The API over SQLite, as its own tests use it."""

from tests.transports.http.conftest import api

__all__ = ["api"]
