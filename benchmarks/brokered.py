"""Rows that need a Kafka broker; broker and services start when the first of them runs."""

import contextlib
from functools import partial
from typing import NamedTuple

from benchmarks.events import Books, announce, drained, ingest, kafka_settings, ship
from benchmarks.paced import paced_load
from benchmarks.peaks import Peaks
from benchmarks.servers import SHAPES, SPREAD, Measure, Row, Servers
from benchmarks.service import Service, running_service
from benchmarks.sides import Side
from benchmarks.started import Started
from benchmarks.wallets import SCHOOL, USERS
from benchmarks.wrk import Sample, load

PEAK = "consume, spread, PostgreSQL and Kafka"
BROKER_UP = "consume, half load, broker up"
BROKER_DOWN = "consume, half load, broker down"
RELAY = {"off": False, "on": True}


class Place(NamedTuple):
    """A service with its own database and topics."""

    service: Service
    books: Books
    prefix: str


class Brokered:
    """The services of one side that use Kafka, and the rows that load them."""

    def __init__(
        self, stack: contextlib.ExitStack, side: Side, servers: Servers, peaks: Peaks
    ) -> None:
        self._stack = stack
        self._side = side
        self._servers = servers
        self._peaks = peaks
        self._places = Started(self._start)

    def rows(self) -> dict[str, Row]:
        found: dict[str, Measure] = {PEAK: self._consume}
        for shape in SHAPES:
            for relay in RELAY:
                name = f"reported use, {shape}, relay {relay}"
                found[name] = partial(self._ingest, relay, 1 if shape == "hot" else USERS)
        found["relay, what waited"] = self._ship
        found["commit to consumer, one client"] = self._announce
        found[BROKER_UP] = self._half_load
        found[BROKER_DOWN] = self._half_load_without_broker
        return {name: Row(measure) for name, measure in found.items()}

    def _start(self, relay: str) -> Place:
        servers, prefix = self._servers, f"bench{self._side.number}_relay_{relay}"
        url = servers.postgres.create_database(prefix)
        self._side.fill(url, schools={SCHOOL: 1}, users=True, topic_prefix=prefix)
        settings = kafka_settings(servers.kafka, prefix, relay=RELAY[relay])
        running = running_service(self._side, url, observer=servers.observer, settings=settings)
        service = self._stack.enter_context(running)
        return Place(service, Books(servers.observer, service), prefix)

    def _consume(self, seconds: int) -> Sample:
        place = self._places["on"]
        service = place.service
        with service.metered() as usage:
            sample = load(service.url, "consume", who=SPREAD, seconds=seconds, token=service.token)
        self._peaks.note(self._side.name, PEAK, sample.rate)
        drained(place.books)
        return usage.of(sample)

    def _ingest(self, relay: str, subjects: int, seconds: int) -> Sample:
        place = self._places[relay]
        with place.service.metered() as usage:
            sample = ingest(
                self._servers.kafka, place.books, place.prefix, subjects=subjects, seconds=seconds
            )
        return usage.of(sample)

    def _ship(self, seconds: int) -> Sample:
        self._ingest("off", USERS, seconds)
        place = self._places["off"]
        environment = {**place.service.environment, "ENTITLEMENTS_RELAY_ENABLED": "true"}
        return ship(place.books, environment)

    def _announce(self, seconds: int) -> Sample:
        place = self._places["on"]
        drained(place.books)
        with place.service.metered() as usage:
            sample = announce(self._servers.kafka, place.service, place.prefix, seconds=seconds)
        return usage.of(sample)

    def _half_load(self, seconds: int) -> Sample:
        rate = self._peaks.half(PEAK, seconds)
        self._servers.settle()
        service = self._places["on"].service
        with service.metered() as usage:
            sample = paced_load(
                service.url,
                "consume",
                who=SPREAD,
                rate=rate,
                seconds=seconds,
                token=service.token,
            )
        return usage.of(sample)

    def _half_load_without_broker(self, seconds: int) -> Sample:
        self._peaks.half(PEAK, seconds)
        drained(self._places["on"].books)
        self._servers.kafka.kill()
        try:
            return self._half_load(seconds)
        finally:
            self._servers.kafka.start()
            drained(self._places["on"].books)
