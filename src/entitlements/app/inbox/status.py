"""The state of a consumer."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Final, Protocol

from msgspec import Struct

STOPPED_S: Final = 60.0
"""A consumer without a poll for this long counts as stopped."""


class Status(StrEnum):
    """The activity of a consumer."""

    RUNNING = "running"
    PAUSED = "paused"
    """Its batch cannot be committed yet; it retries, and reads no further."""
    RESTARTING = "restarting"
    STOPPED = "stopped"


class PartitionStatus(Struct, frozen=True, gc=False, kw_only=True):
    """An assigned partition: ``position`` is the next offset, ``lag`` the number of records from
    there on; None until known from the broker.
    """

    topic: str
    partition: int
    position: int | None
    lag: int | None


class State(Struct, frozen=True, gc=False, kw_only=True):
    """The state; ``problem`` is the last error that keeps it from reading or committing."""

    status: Status
    group: str
    problem: str | None = None
    partitions: tuple[PartitionStatus, ...] = ()
    restarts: int = 0
    turned_at: float
    """The monotonic time of its last poll."""

    def is_stopped(self, now: float) -> bool:
        return now - self.turned_at > STOPPED_S


class Stateful(Protocol):
    """A consumer of this process."""

    @property
    def state(self) -> State: ...


StateOf = Callable[[], State | None]
"""Returns None if no consumer runs in this process."""


class GroupPartition(Struct, frozen=True, gc=False, kw_only=True):
    """A partition as the broker sees it; ``member`` is its reader, None without one."""

    topic: str
    partition: int
    position: int
    lag: int
    member: str | None


class Group(Struct, frozen=True, gc=False, kw_only=True):
    """All partitions and members of a consumer group."""

    name: str
    partitions: tuple[GroupPartition, ...]

    @property
    def lag(self) -> int:
        return sum(one.lag for one in self.partitions)
