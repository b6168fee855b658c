"""A record of a topic, and what may come of it."""

from __future__ import annotations

from msgspec import Struct

from entitlements.app.inbox import Headers, Reason
from entitlements.core.outcomes import AccountOpened, Reported


class Arrived(Struct, frozen=True, gc=False, kw_only=True):
    """One record as it came, and its place in the log."""

    topic: str
    partition: int
    offset: int
    key: bytes | None = None
    value: bytes | None
    headers: Headers = ()

    def header(self, name: str) -> bytes | None:
        """The last of that name."""
        return dict(self.headers).get(name)


class Rejected(Struct, frozen=True, gc=False, kw_only=True):
    """Nothing was made of the event, and nothing will be by itself. The detail holds nothing of
    what the event says.
    """

    reason: Reason
    detail: str


Fate = Reported | AccountOpened | Rejected
