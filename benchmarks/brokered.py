"""The measures that need a Kafka broker; what they need is started when the first of them runs."""

import contextlib
from collections.abc import Callable
from functools import cached_property, partial
from typing import NamedTuple

from benchmarks.events import announce, drained, ingest, kafka_settings, ship
from benchmarks.paced import paced_load
from benchmarks.service import Service, running_service
from benchmarks.wallets import USERS
from benchmarks.wrk import Sample, load
from tests.kafka import STEADY, KafkaServer
from tests.servers import Postgres

SUBJECTS = {"hot": 1, "spread": USERS}
PEAK = "consume, spread, PostgreSQL and Kafka"
BROKER_UP = "consume, half load, broker up"
BROKER_DOWN = "consume, half load, broker down"

Measure = Callable[[int], Sample]


class Place(NamedTuple):
    """A service with a database and topics of its own."""

    service: Service
    database_url: str
    prefix: str


class Brokered:
    """``postgres`` gives the databases, ``settle`` lets the disk come to rest."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        postgres: Callable[[], Postgres],
        settle: Callable[[], None],
    ) -> None:
        self._stack = stack
        self._postgres = postgres
        self._settle = settle
        self._peak = 0.0

    def measures(self) -> dict[str, Measure]:
        found: dict[str, Measure] = {PEAK: self._consume}
        for shape, subjects in SUBJECTS.items():
            for relay, place in (("off", "_unrelayed"), ("on", "_relayed")):
                name = f"reported use, {shape}, relay {relay}"
                found[name] = partial(self._ingest, place, subjects)
        found["relay, what waited"] = self._ship
        found["commit to consumer, one client"] = self._announce
        found[BROKER_UP] = self._half_load
        found[BROKER_DOWN] = self._half_load_without_broker
        return found

    @cached_property
    def _kafka(self) -> KafkaServer:
        return self._stack.enter_context(KafkaServer(java=STEADY))

    @cached_property
    def _relayed(self) -> Place:
        return self._place("bench_relayed", relay=True)

    @cached_property
    def _unrelayed(self) -> Place:
        return self._place("bench_unrelayed", relay=False)

    def _place(self, prefix: str, *, relay: bool) -> Place:
        url = self._postgres().create_database(prefix)
        settings = kafka_settings(self._kafka, prefix, relay=relay)
        running = running_service(url, many_grants=False, settings=settings)
        return Place(self._stack.enter_context(running), url, prefix)

    def _consume(self, seconds: int) -> Sample:
        sample = load(
            self._relayed.service.url,
            "consume",
            who=str(USERS),
            seconds=seconds,
            token=self._relayed.service.token,
        )
        self._peak = sample.rate
        drained(self._relayed.database_url)
        return sample

    def _ingest(self, where: str, subjects: int, seconds: int) -> Sample:
        place: Place = getattr(self, where)
        return ingest(
            self._kafka, place.database_url, place.prefix, subjects=subjects, seconds=seconds
        )

    def _ship(self, seconds: int) -> Sample:
        self._ingest("_unrelayed", USERS, seconds)
        place = self._unrelayed
        environment = place.service.environment | {"ENTITLEMENTS_RELAY_ENABLED": "true"}
        return ship(environment, place.database_url)

    def _announce(self, seconds: int) -> Sample:
        place = self._relayed
        drained(place.database_url)
        return announce(self._kafka, place.service, place.prefix, seconds=seconds)

    def _half_load(self, seconds: int) -> Sample:
        if not self._peak:
            self._consume(seconds)
        self._settle()
        service = self._relayed.service
        return paced_load(
            service.url,
            "consume",
            who=str(USERS),
            rate=self._peak / 2,
            seconds=seconds,
            token=service.token,
        )

    def _half_load_without_broker(self, seconds: int) -> Sample:
        drained(self._relayed.database_url)
        self._kafka.kill()
        try:
            return self._half_load(seconds)
        finally:
            self._kafka.start()
            drained(self._relayed.database_url)
