"""Structured log events through the standard library's logging, usable by any program."""

import logging
from typing import Any


class EventLog:
    """Logs named events with fields. A record has both as ``event`` and ``fields``, and also in its
    message.
    """

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def info(self, event: str, **fields: Any) -> None:
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, *, exc_info: BaseException | None = None, **fields: Any) -> None:
        self._log(logging.ERROR, event, fields, exc_info=exc_info)

    def exception(self, event: str, **fields: Any) -> None:
        """Log an error with the exception that is being handled."""
        self._log(logging.ERROR, event, fields, exc_info=True)

    def _log(
        self,
        level: int,
        event: str,
        fields: dict[str, Any],
        *,
        exc_info: BaseException | bool | None = None,
    ) -> None:
        if self._logger.isEnabledFor(level):
            told = "".join(f" {name}={value}" for name, value in fields.items())
            extra = {"event": event, "fields": fields}
            self._logger.log(level, "%s%s", event, told, exc_info=exc_info, extra=extra)
