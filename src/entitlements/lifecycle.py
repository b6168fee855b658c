"""Names of lifecycle handlers: those of the decorator, and those of installed packages."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, TypeVar

ENTRY_POINTS: Final = "entitlements.lifecycle_handlers"
"""The group of entry points whose names are names of handlers."""

BUILT_IN: Final = ("default", "freemium", "grace_period", "read_only", "keep_data")
"""The rules of the ledger; some take days, as ``grace_period(days=14)``."""

H = TypeVar("H", bound=type)
_registered: Final[dict[str, type]] = {}


def lifecycle_handler(name: str) -> Callable[[H], H]:
    """Register the class as the lifecycle handler ``name``. Raise ValueError if it is taken.

    A policy can name it if it is of lower-case letters, digits and ``_``. A class can replace
    itself, as when its module is reloaded.
    """
    if name in BUILT_IN:
        raise ValueError(f"{name!r} is a rule of the ledger")

    def register(handler: H) -> H:
        if _place(_registered.setdefault(name, handler)) != _place(handler):
            raise ValueError(f"{_place(_registered[name])} is already the handler {name!r}")
        _registered[name] = handler
        return handler

    return register


def handler_class(name: str) -> Callable[..., Any]:
    """Return the class of a handler. Raise LookupError for an unknown name.

    Handlers of the decorator come first, then entry points.
    """
    if name in _registered:
        return _registered[name]
    if name in _installed():
        found: Callable[..., Any] = _installed()[name].load()
        return found
    raise LookupError(unknown_handler(name))


def known_handlers() -> frozenset[str]:
    """Return the names of the handlers of the decorator and of installed packages."""
    return frozenset((*_registered, *_installed()))


def unknown_handler(name: str) -> str:
    """Return the error for a handler that this process does not know."""
    known = ", ".join(sorted({*known_handlers(), *BUILT_IN}))
    return (
        f"there is no lifecycle handler {name!r}; known: {known}. Register the class with"
        f" @lifecycle_handler({name!r}) or as an entry point of the group {ENTRY_POINTS}"
    )


def _installed() -> dict[str, EntryPoint]:
    """Return the entry points by name."""
    return _installed_in(tuple(sys.path))


@cache
def _installed_in(_folders: tuple[str, ...]) -> dict[str, EntryPoint]:
    """Look at every installed package, once for each path that modules are imported from."""
    return {one.name: one for one in entry_points(group=ENTRY_POINTS)}


def _place(handler: type) -> str:
    return f"{handler.__module__}.{handler.__qualname__}"
