"""What a consumer says of itself."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Final, Protocol

from msgspec import Struct

STOPPED_S: Final = 60.0
"""After so long without a turn a consumer counts as stopped."""


class Status(StrEnum):
    """What a consumer does at present."""

    RUNNING = "running"
    PAUSED = "paused"
    """What it has in hand cannot be committed yet; it holds on to it and reads no further."""
    RESTARTING = "restarting"
    STOPPED = "stopped"


class Standing(Struct, frozen=True, gc=False, kw_only=True):
    """One partition that is read here: ``position`` comes next, ``lag`` are behind it; none while
    the broker has not said so.
    """

    topic: str
    partition: int
    position: int | None
    lag: int | None


class State(Struct, frozen=True, gc=False, kw_only=True):
    """``problem``: what it was last told of that keeps it from reading or committing."""

    status: Status
    group: str
    problem: str | None = None
    partitions: tuple[Standing, ...] = ()
    restarts: int = 0
    turned_at: float
    """When it last had a turn, by the monotonic clock."""

    def is_stopped(self, now: float) -> bool:
        return now - self.turned_at > STOPPED_S


class Stateful(Protocol):
    """A consumer in this process."""

    @property
    def state(self) -> State: ...


StateOf = Callable[[], State | None]
"""None where no consumer runs in this process."""


class GroupPartition(Struct, frozen=True, gc=False, kw_only=True):
    """One partition as the broker sees it: ``member`` reads it, none: nobody does."""

    topic: str
    partition: int
    position: int
    lag: int
    member: str | None


class Group(Struct, frozen=True, gc=False, kw_only=True):
    """All members of a consumer group together."""

    name: str
    partitions: tuple[GroupPartition, ...]

    @property
    def lag(self) -> int:
        return sum(one.lag for one in self.partitions)
