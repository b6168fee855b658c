"""The number of examples of property tests: few in `make test`, many in `make soak`."""

from typing import Final

from hypothesis import settings

SHORT: Final = "short"
LONG: Final = "long"


def is_long() -> bool:
    """Return whether this run was started with `--hypothesis-profile=long`."""
    return bool(settings.get_current_profile_name() == LONG)


def examples(short: int, *, long: int) -> int:
    """Return the number of examples of a property in this run."""
    return long if is_long() else short
