"""Events as other services send them, and a model of their expected effects."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid5

from confluent_kafka import Producer

CONSUMPTION = "resource.consumption.v1"
REGISTERED = "identity.user.registered.v1"
REPORTED = "entitlements.usage.reported.v1"
NAMES = UUID("6f1c7a52-52a8-4b70-8f2b-6c2d2f6f6a11")


def event_id(name: object) -> str:
    return str(uuid5(NAMES, str(name)))


def envelope(topic: str, data: dict[str, Any], **fields: Any) -> bytes:
    given = {
        "event_id": event_id(data),
        "event_type": topic,
        "event_timestamp": "2026-09-01T08:00:00Z",
        "source_service": "grader",
        "schema_version": 1,
        "correlation_id": event_id("correlation"),
        "data_schema_uri": None,
        "data": data,
        "metadata": {},
    }
    return json.dumps(given | fields).encode()


def use(user_id: str = "ada", units: int = 1, **fields: Any) -> dict[str, Any]:
    """Return the data of a consumption event; ``fields`` override or add to the defaults."""
    given: dict[str, Any] = {
        "event_name": "resource.consumption.reported",
        "timestamp": "2026-09-01T08:00:00Z",
        "user_id": user_id,
        "resource_type": "credit",
        "quantity": units,
        "service_name": "grader",
        "processing_id": "p1",
        "consumed_at": "2026-09-01T07:59:59Z",
    }
    return given | fields


@dataclass(frozen=True)
class Sent:
    key: str
    value: bytes


@dataclass
class Story:
    """A stream of events generated from a seed, and the expected ledger state."""

    topic: str
    users: int
    seed: int
    sent: list[Sent] = field(default_factory=list)
    malformed: list[Sent] = field(default_factory=list)
    spent: Counter[str] = field(default_factory=Counter)
    results: Counter[str] = field(default_factory=Counter)

    def tell(self, count: int) -> Story:
        """Generate events; 20 % repeat events, 5 % repeat jobs, 1 % are malformed."""
        rng = random.Random(self.seed)
        told: list[tuple[str, int, str, str]] = []
        for number in range(count):
            luck = rng.random()
            if luck < 0.01:
                self._malformed(rng, number)
            elif luck < 0.21 and told:
                self._send(*rng.choice(told))
            elif luck < 0.26 and told:
                user, units, job, _ = rng.choice(told)
                is_same = rng.random() < 0.8
                new = (user, units if is_same else units + 1, job, f"again {number}")
                self.results["duplicate" if is_same else "conflict"] += 1
                self._send(*new)
            else:
                user, units = f"u{rng.randrange(self.users)}", rng.randint(1, 9)
                told.append((user, units, f"p{number}", f"event {number}"))
                self.results["charged"] += 1
                self.spent[user] += units
                self._send(*told[-1])
        return self

    def _send(self, user: str, units: int, job: str, event: str) -> None:
        data = use(user, units, processing_id=job)
        value = envelope(self.topic, data, event_id=event_id(f"{self.seed} {event}"))
        self.sent.append(Sent(user, value))

    def _malformed(self, rng: random.Random, number: int) -> None:
        user = f"u{rng.randrange(self.users)}"
        broken = rng.choice(
            [
                b"\x00\xff no text %d" % number,
                b'{"event_type": %d}' % number,
                envelope(self.topic, use(user, -1 - number)),
                envelope(self.topic, use(user) | {"quantity": f"{number}"}),
                envelope(self.topic, use(user, number) | {"user_id": None}),
            ]
        )
        self.malformed.append(Sent(user, broken))
        self.sent.append(self.malformed[-1])


def produce(bootstrap: str, topic: str, sent: Sequence[Sent]) -> None:
    """Produce all events in order."""
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "acks": "all",
            "enable.idempotence": True,
            "log_level": 0,
            "linger.ms": 5,
        }
    )
    for number, one in enumerate(sent):
        producer.produce(topic, one.value, one.key, headers=[("n", str(number))])
        if number % 1000 == 0:
            producer.poll(0)
    assert producer.flush(120) == 0
