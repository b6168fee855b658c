"""The addresses and options of Kafka, and logging of the client library's errors."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from entitlements.app.process.log import EventLog

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, KafkaException

log = EventLog(__name__)

QUIET_S: Final = 600.0
_UNREACHABLE: Final = frozenset(("_ALL_BROKERS_DOWN", "_RESOLVE", "_TIMED_OUT", "_TRANSPORT"))
"""Errors with one cause: a broker cannot be reached."""
_SILENCED: Final = logging.getLogger(f"{__name__}.library")
"""The library's own log lines. Callbacks and exceptions report the same, and are handled."""
_SILENCED.propagate = False
_SILENCED.addHandler(logging.NullHandler())
_VALUE: Final = re.compile(r'value (?:"[^"]*"|\S+)(?= for configuration| is outside)')


class OptionsUnusable(ValueError):
    """The library rejects the options; the text names them without their values."""


def options_error(error: KafkaException) -> OptionsUnusable:
    """Return the library's error about the options of a client."""
    return OptionsUnusable(_VALUE.sub("value", str(error.args[0].str())))


class Unreachable(Exception):
    """No broker responded in time."""


@dataclass(frozen=True)
class Broker:
    """``servers`` are the bootstrap servers; ``options`` may contain passwords."""

    servers: str
    options: Mapping[str, str] = field(default_factory=dict, repr=False)

    def client(
        self, client_id: str, *, defaults: Mapping[str, Any], required: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return a client's options: ``required`` over ``options`` over ``defaults``."""
        return {
            "log_level": 0,
            "logger": _SILENCED,
            "reconnect.backoff.max.ms": 2_000,
            **defaults,
            **self.options,
            "bootstrap.servers": self.servers,
            "client.id": client_id,
            "error_cb": ErrorLog(client_id),
            **required,
        }


class ErrorLog:
    """Logs the errors of a client; a repeated error at most once in ten minutes."""

    def __init__(self, client_id: str) -> None:
        self._client_id = client_id
        self._logged_at: dict[str, float] = {}

    def __call__(self, error: KafkaError) -> None:
        now, name = time.monotonic(), error.name()
        kind = "away" if name in _UNREACHABLE else name
        if now - self._logged_at.get(kind, -QUIET_S) >= QUIET_S:
            self._logged_at[kind] = now
            log.warning("kafka.error", client=self._client_id, error=name, reason=error.str())
