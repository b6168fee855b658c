"""JSON logs, formatted by one processor and written by a separate thread."""

import json
import logging
import sys
import threading
import traceback
from collections import deque
from datetime import UTC, datetime
from typing import Any, BinaryIO, Final, Self

import msgspec
import structlog
from structlog.typing import EventDict, WrappedLogger

FLUSH_S: Final = 0.05
LINES_MAX: Final = 50_000
"""The buffer for a slow reader; when it is full, the oldest lines are dropped and counted."""

_encoder: Final = msgspec.json.Encoder(enc_hook=repr)


class AccessLine(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """The log line of one request."""

    at: datetime
    level: str
    event: str
    method: str
    route: str
    status: int
    ms: float
    correlation_id: str
    code: str | None = None
    client: str | None = None
    user: str | None = None
    org: str | None = None
    trace: str | None = None


class LineWriter:
    """A buffer of log lines. A thread writes them in order within `FLUSH_S`, and when closed."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lines: deque[bytes] = deque(maxlen=LINES_MAX)
        self._lost = 0
        self._written = threading.Lock()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        self._lost += len(self._lines) == LINES_MAX
        self._lines.append(line)
        if not self._wake.is_set():
            self._wake.set()

    def flush(self) -> None:
        """Write all buffered lines."""
        with self._written:
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
            if lines and self._lost:
                lost, self._lost = self._lost, 0
                lines.insert(0, _line("warning", "log.lost", {"lines": lost}))
            if lines:
                self._stream.write(b"".join(lines))
                self._stream.flush()

    def close(self) -> None:
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout=1)
        self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.wait()
            self._closing.wait(FLUSH_S)
            self._wake.clear()
            try:
                self.flush()
            except (OSError, ValueError):  # the reader of the log has closed it
                self._lines.clear()


class _Lines:
    """The logger behind structlog: one method call per line for any level."""

    def __init__(self, writer: LineWriter) -> None:
        self._writer = writer

    def line(self, text: bytes) -> None:
        self._writer.write(text)

    debug = info = warning = error = critical = exception = log = msg = line


def configure(level: str, stream: BinaryIO | None = None) -> LineWriter:
    """Send all logs of this process, including those of libraries, to one writer."""
    writer = LineWriter(stream if stream is not None else sys.stderr.buffer)
    structlog.configure(
        processors=[_render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Lines(writer),
        cache_logger_on_first_use=True,
    )
    access_log.writer = writer if level in ("DEBUG", "INFO") else None
    logging.getLogger("asyncio").addFilter(_is_not_handled)
    root = logging.getLogger()
    root.handlers = [_Handler(writer)]
    root.setLevel(max(logging.getLevelName(level), logging.INFO))
    return writer


class AccessLog:
    """The access log: one line per request, written directly because structlog takes four times as
    long.

    It is silent before `configure`, and if the level is above INFO.
    """

    def __init__(self) -> None:
        self.writer: LineWriter | None = None

    def note(self, line: AccessLine) -> None:
        if self.writer is not None:
            self.writer.write(_encoder.encode(line) + b"\n")


access_log: Final = AccessLog()


def _render(_: WrappedLogger, level: str, event: EventDict) -> bytes:
    failure = event.pop("exc_info", None)
    if failure:
        error = failure if isinstance(failure, BaseException) else sys.exc_info()[1]
        event["exception"] = "".join(traceback.format_exception(error)) if error else None
    return _line(level, event.pop("event"), event)


def _line(level: str, name: Any, fields: EventDict) -> bytes:
    at = datetime.now(UTC).isoformat(timespec="milliseconds")  # noqa: TID251 - a log's own clock
    told = {"at": at, "level": level, "event": name, **fields}
    try:
        return _encoder.encode(told) + b"\n"
    except UnicodeEncodeError:  # lone surrogates, which exceptions can contain
        return json.dumps(told, default=str).encode() + b"\n"


def _is_not_handled(record: logging.LogRecord) -> bool:
    """Drop the futures that asyncpg leaves behind when the server ends a connection between two
    statements: the next statement has raised the error already.
    """
    error = record.exc_info[1] if record.exc_info else None
    is_left_behind = record.getMessage().startswith("Future exception was never retrieved")
    return not (is_left_behind and type(error).__module__.startswith("asyncpg."))


class _Handler(logging.Handler):
    """The handler for the standard library's logging: the service's events and libraries' logs."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        fields: EventDict = getattr(record, "fields", {"logger": record.name}).copy()
        if record.exc_info and record.exc_info[1]:
            fields["exception"] = "".join(traceback.format_exception(record.exc_info[1]))
        event = getattr(record, "event", None) or record.getMessage()
        self._writer.write(_line(record.levelname.lower(), event, fields))
