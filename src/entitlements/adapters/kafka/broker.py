"""The addresses and options of Kafka, and logging of the client library's errors."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from entitlements.app.log import EventLog

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, KafkaException

log = EventLog(__name__)

QUIET_S: Final = 60.0
_VALUE: Final = re.compile(r'value (?:"[^"]*"|\S+)(?= for configuration| is outside)')


class OptionsUnusable(ValueError):
    """The library rejects the options; the text names them without their values."""


def unusable(error: KafkaException) -> OptionsUnusable:
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
        self, client_id: str, *, usual: Mapping[str, Any], ours: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return a client's options: ``options`` override ``usual``, and ``ours`` override both."""
        return {
            "log_level": 0,  # the library would write to stderr; error_cb logs its errors
            "reconnect.backoff.max.ms": 2_000,
            **usual,
            **self.options,
            "bootstrap.servers": self.servers,
            "client.id": client_id,
            "error_cb": Complaints(client_id),
            **ours,
        }


class Complaints:
    """Logs the errors of a client; a repeated error at most once a minute."""

    def __init__(self, client_id: str) -> None:
        self._client_id = client_id
        self._told: dict[int, float] = {}

    def __call__(self, error: KafkaError) -> None:
        now = time.monotonic()
        if now - self._told.get(error.code(), -QUIET_S) >= QUIET_S:
            self._told[error.code()] = now
            log.warning(
                "kafka.error", client=self._client_id, error=error.name(), reason=error.str()
            )
