"""The Kafka sink: acknowledged by all in-sync replicas, in order per key, with a timeout."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from entitlements.adapters.kafka.broker import Broker, unusable
from entitlements.app.outbox.sink import Failed, Fate, Message, Refused, Taken
from entitlements.app.process.log import EventLog

if TYPE_CHECKING:
    from confluent_kafka import KafkaError

log = EventLog(__name__)

PUBLISH_S: Final = 10.0
"""The timeout of a call; well below a relay's lease, so that no other relay sends its events."""

DOWN_S: Final = 3.0
"""The timeout if no broker is reachable: then no sent record can still arrive."""

CLOSE_S: Final = 5.0
POLL_S: Final = 0.1
AT_ONCE: Final = 100
"""Messages enqueued before other tasks of the event loop get a turn."""

USUAL: Final[Mapping[str, Any]] = {
    "linger.ms": 1,
    "partitioner": "murmur2_random",  # as Java's clients choose partitions
    "retry.backoff.ms": 20,
    "socket.keepalive.enable": True,
    "topic.metadata.propagation.max.ms": 1_000,
}
OURS: Final[Mapping[str, Any]] = {
    "acks": "all",
    "enable.idempotence": True,
    "enable.gapless.guarantee": True,
    # A record that times out alone would let later ones pass it; the sink gives up on all at once.
    "message.timeout.ms": 0,
}
REFUSALS: Final = frozenset(
    {
        "INVALID_MSG",
        "INVALID_MSG_SIZE",
        "INVALID_RECORD",
        "INVALID_TIMESTAMP",
        "MSG_SIZE_TOO_LARGE",
        "RECORD_LIST_TOO_LARGE",
        "TOPIC_EXCEPTION",
    }
)
"""Permanent errors. Missing topics and rights are not among them: operators fix those."""

TOPIC: Final = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}")
"""Names that a broker accepts. Some others pass the library but fail on every attempt."""

TAKEN: Final = Taken()
GIVEN_UP: Final = Failed("not acknowledged in time")
REPLACED: Final = Failed("the producer was replaced")
BEHIND: Final = Failed("an earlier record of its key failed")


class KafkaSink:
    """Implements `app.sinks.Sink`, also for concurrent calls."""

    def __init__(self, broker: Broker, client_id: str, *, patience_s: float = PUBLISH_S) -> None:
        self._config = broker.client(client_id, usual=USUAL, ours=OURS)
        self._patience_s = patience_s
        self._line: Line | None = None

    async def __aenter__(self) -> Self:
        """Create a producer. Raises OptionsUnusable; does not check that a broker is reachable."""
        self._current()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def publish(self, messages: Sequence[Message]) -> list[Fate]:
        deadline = asyncio.get_running_loop().time() + self._patience_s
        line = self._current()
        answers = await _send(line, messages, deadline)
        if line.is_retired:
            self._replace(line)
        await self._ask_alone(messages, answers, deadline)
        return _in_order(messages, answers)

    async def close(self) -> None:
        """Wait a few seconds for records in flight; then fail the remaining calls."""
        line, self._line = self._line, None
        if line is not None:
            await line.close(CLOSE_S)

    def _current(self) -> Line:
        if self._line is None or self._line.is_retired:
            self._line = Line(self._config)
        return self._line

    def _replace(self, line: Line) -> None:
        if self._line is line:
            self._line = None
            log.info("producer.replaced", reason=line.fatal or GIVEN_UP.reason)

    async def _ask_alone(
        self, messages: Sequence[Message], answers: list[Answer], deadline: float
    ) -> None:
        """Send records again, each in its own batch: a broker rejects a batch as a whole."""
        line: Line | None = None
        for place in _doubtful(messages, answers):
            if line is None or line.is_retired:  # an error ends its producer
                line = Line(self._config)
            (answers[place],) = await _send(line, [messages[place]], deadline, alone=True)
            if isinstance(answers[place], Failed):
                break
        if line is not None:
            line.retire()


async def _send(
    line: Line, messages: Sequence[Message], deadline: float, *, alone: bool = False
) -> list[Answer]:
    """Return the broker's result for each message. After a timeout the line is retired: a producer
    that gave up on a record must not send later ones.
    """
    waiting = Waiting(len(messages))
    failed: set[str] = set()
    try:
        async with asyncio.timeout_at(deadline):
            for place, message in enumerate(messages):
                if place % AT_ONCE == AT_ONCE - 1:
                    await asyncio.sleep(0)
                if message.key in failed:
                    waiting.settle(place, BEHIND)
                    continue
                answer = await line.hand_over(message, Place(waiting, place, alone))
                if answer is not None:
                    waiting.settle(place, answer)
                if isinstance(answer, Failed):
                    failed.add(message.key)
            await line.heard(waiting)
    except TimeoutError:
        line.retire()
        waiting.settle_rest(GIVEN_UP)
    finally:
        line.forget(waiting)
    return waiting.answers()


class Doubtful(Failed, frozen=True, gc=False):
    """The batch was rejected because of this record or another one in it."""


Answer = Fate | Doubtful


class Waiting:
    """The pending results of one call; used by the event loop only."""

    def __init__(self, count: int) -> None:
        self._answers: list[Answer | None] = [None] * count
        self._missing = count
        self.all_said: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if count == 0:
            self.all_said.set_result(None)

    def settle(self, place: int, answer: Answer) -> None:
        """Store a result, unless there is one already."""
        if self._answers[place] is not None:
            return
        self._answers[place] = answer
        self._missing -= 1
        if self._missing == 0 and not self.all_said.done():
            self.all_said.set_result(None)

    def settle_rest(self, answer: Answer) -> None:
        for place in range(len(self._answers)):
            self.settle(place, answer)

    def answers(self) -> list[Answer]:
        return [answer for answer in self._answers if answer is not None]


class Place(NamedTuple):
    """The position of a result; ``alone`` if no other record can have been in its batch."""

    waiting: Waiting
    number: int
    alone: bool


class Line:
    """A producer, and the thread that receives the delivery reports."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        from confluent_kafka import KafkaException, Producer

        self._complaints: Callable[[KafkaError], None] = config["error_cb"]
        self.is_down = False
        try:
            producer = Producer({**config, "error_cb": self._complained})
        except KafkaException as error:
            raise unusable(error) from None
        self.fatal: str | None = None
        self.is_retired = False
        self._producer: Producer | None = producer
        self._loop = asyncio.get_running_loop()
        self._heard: list[tuple[Place, Answer]] = []
        self._pending: dict[Waiting, None] = {}
        self._room = asyncio.Event()
        self._thread = threading.Thread(target=self._listen, name="kafka-producer", daemon=True)
        self._thread.start()

    async def hand_over(self, message: Message, place: Place) -> Answer | None:
        """Enqueue the message, waiting while the queue is full. Return None if a delivery report
        will follow, else the result.
        """
        from confluent_kafka import KafkaException

        if not TOPIC.fullmatch(message.topic):
            return Refused(f"invalid topic name: {message.topic!r}")
        self._pending[place.waiting] = None
        while not self.is_retired and (producer := self._producer) is not None:
            self._room.clear()
            try:
                producer.produce(
                    message.topic,
                    message.payload,
                    message.key,
                    on_delivery=functools.partial(self._delivered, place),
                    headers=list(message.headers.items()),
                )
            except BufferError:
                await self._room.wait()
            except KafkaException as error:
                return _said(error.args[0], alone=True)
            except ValueError as error:
                return Refused(f"cannot be encoded: {error}")
            else:
                return None
        return REPLACED

    async def heard(self, waiting: Waiting) -> None:
        """Wait for all results. Raises TimeoutError if no broker is reachable."""
        await asyncio.wait({waiting.all_said}, timeout=DOWN_S)
        if self.is_down and not waiting.all_said.done():
            raise TimeoutError("no broker can be reached")
        await waiting.all_said

    def forget(self, waiting: Waiting) -> None:
        self._pending.pop(waiting, None)

    def retire(self) -> None:
        """Send nothing more; calls are answered once the thread has seen the last report."""
        self.is_retired = True
        self._room.set()

    async def close(self, patience_s: float) -> None:
        if self._pending:
            said = [waiting.all_said for waiting in self._pending]
            await asyncio.wait(said, timeout=patience_s)
        self.retire()
        await asyncio.to_thread(self._thread.join, patience_s)

    def _listen(self) -> None:
        """Run the thread. One wake-up of the event loop hands over all reports so far."""
        from confluent_kafka import KafkaException

        producer = self._producer
        assert producer is not None
        while not self.is_retired:
            try:
                producer.poll(POLL_S)
            except KafkaException as error:
                self.fatal = str(error.args[0].str())
                self.is_retired = True
            self._tell()
        producer.purge()
        with contextlib.suppress(KafkaException):
            producer.flush(POLL_S)
        self._tell()
        self._call(self._answer_rest)
        # Drop the last reference here: destroying the producer may block, but no event loop.
        self._producer = None

    def _complained(self, error: KafkaError) -> None:
        self.is_down = self.is_down or error.name() == "_ALL_BROKERS_DOWN"
        self._complaints(error)

    def _delivered(self, place: Place, error: KafkaError | None, _record: object) -> None:
        self.is_down = self.is_down and error is not None
        self._heard.append((place, TAKEN if error is None else _said(error, alone=place.alone)))

    def _tell(self) -> None:
        if self._heard:
            heard, self._heard = self._heard, []
            self._call(functools.partial(self._settle, heard))

    def _call(self, function: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, with no calls waiting
            self._loop.call_soon_threadsafe(function)

    def _settle(self, heard: Iterable[tuple[Place, Answer]]) -> None:
        for place, answer in heard:
            place.waiting.settle(place.number, answer)
        self._room.set()

    def _answer_rest(self) -> None:
        self.retire()
        for waiting in self._pending:
            waiting.settle_rest(REPLACED)


def _said(error: KafkaError, *, alone: bool) -> Answer:
    reason = f"{error.name()}: {error.str()}"
    if error.name() not in REFUSALS:
        return Failed(reason)
    return Refused(reason) if alone else Doubtful(reason)


def _doubtful(messages: Sequence[Message], answers: Sequence[Answer]) -> list[int]:
    """Return the records whose batches were rejected and whose keys have no earlier failure."""
    failed: set[str] = set()
    doubtful: list[int] = []
    for place, (message, answer) in enumerate(zip(messages, answers, strict=True)):
        if isinstance(answer, Doubtful):
            if message.key not in failed:
                doubtful.append(place)
        elif isinstance(answer, Failed):
            failed.add(message.key)
    return doubtful


def _in_order(messages: Sequence[Message], answers: Sequence[Answer]) -> list[Fate]:
    """Return the results; after a failure of a key, its later records count as failed too."""
    failed: set[str] = set()
    fates: list[Fate] = []
    for message, answer in zip(messages, answers, strict=True):
        fate: Fate = answer
        if message.key in failed and isinstance(answer, Taken):
            fate = BEHIND
        elif isinstance(answer, Failed):
            failed.add(message.key)
        fates.append(fate)
    return fates
