"""Where Kafka is and how one gets in; what its library complains of goes to our log."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from entitlements.app.log import EventLog

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, KafkaException

log = EventLog(__name__)

QUIET_S: Final = 600.0
_AWAY: Final = frozenset(("_ALL_BROKERS_DOWN", "_RESOLVE", "_TIMED_OUT", "_TRANSPORT"))
"""Names of one and the same: a broker cannot be reached."""
_UNHEARD: Final = logging.getLogger(f"{__name__}.library")
"""What the library would write: a broker that is away, a producer that it ends for a record it
gave up. All of that comes by callbacks and exceptions too, and is handled.
"""
_UNHEARD.propagate = False
_UNHEARD.addHandler(logging.NullHandler())
_VALUE: Final = re.compile(r'value (?:"[^"]*"|\S+)(?= for configuration| is outside)')


class OptionsUnusable(ValueError):
    """The library does not take the options; the text names them, not their values."""


def unusable(error: KafkaException) -> OptionsUnusable:
    """What the library said of the options when a client was to be made of them."""
    return OptionsUnusable(_VALUE.sub("value", str(error.args[0].str())))


class Unreachable(Exception):
    """No broker answered in time."""


@dataclass(frozen=True)
class Broker:
    """``servers`` are asked first for where the others are; ``options`` may hold passwords."""

    servers: str
    options: Mapping[str, str] = field(default_factory=dict, repr=False)

    def client(
        self, client_id: str, *, usual: Mapping[str, Any], ours: Mapping[str, Any]
    ) -> dict[str, Any]:
        """A client's options: the operator's come before ``usual`` ones, ``ours`` before all."""
        return {
            "log_level": 0,
            "logger": _UNHEARD,
            "reconnect.backoff.max.ms": 2_000,
            **usual,
            **self.options,
            "bootstrap.servers": self.servers,
            "client.id": client_id,
            "error_cb": Complaints(client_id),
            **ours,
        }


class Complaints:
    """Logs the errors of one client; the same one again only after ten minutes."""

    def __init__(self, client_id: str) -> None:
        self._client_id = client_id
        self._told: dict[str, float] = {}

    def __call__(self, error: KafkaError) -> None:
        now, name = time.monotonic(), error.name()
        kind = "away" if name in _AWAY else name
        if now - self._told.get(kind, -QUIET_S) >= QUIET_S:
            self._told[kind] = now
            log.warning("kafka.error", client=self._client_id, error=name, reason=error.str())
