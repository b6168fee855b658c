"""How widely properties are tried: briefly by `make test`, at length by `make soak`."""

from typing import Final

from hypothesis import settings

SHORT: Final = "short"
LONG: Final = "long"


def is_long() -> bool:
    """Whether this run was started with `--hypothesis-profile=long`."""
    return bool(settings.get_current_profile_name() == LONG)


def examples(short: int, *, long: int) -> int:
    """How many examples a property gets in this run."""
    return long if is_long() else short
