"""The stores of both engines, as the stores' own tests use them."""

from tests.stores.conftest import clerk, clock, store

__all__ = ["clerk", "clock", "store"]
