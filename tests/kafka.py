"""A real Kafka broker for tests, benchmarks and the demo; `python -m tests.kafka` runs one."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.servers import ServerProcess, free_port
from tests.waiting import PATIENCE_S

KAFKA_VARIABLE: Final = "ENTITLEMENTS_TEST_KAFKA"
POM: Final = Path(__file__).parents[1] / "deploy" / "kafka" / "pom.xml"
VERSION: Final = "4.1.1"
CLUSTER: Final = "RW50aXRsZW1lbnRzLXRlcw"

LOGGING: Final = """\
status = error
appender.file.type = Console
appender.file.name = file
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d{HH:mm:ss.SSS} %p %c{1}: %m%n
rootLogger.level = WARN
rootLogger.appenderRef.file.ref = file
"""

SETTINGS: Final[Mapping[str, str | int]] = {
    "process.roles": "broker,controller",
    "node.id": 1,
    "controller.listener.names": "CONTROLLER",
    "auto.create.topics.enable": "false",
    # A broker that was killed can come back at once, under its own id.
    "broker.session.timeout.ms": 2_000,
    "broker.heartbeat.interval.ms": 500,
    "group.initial.rebalance.delay.ms": 0,
    "group.min.session.timeout.ms": 1_000,
    "offsets.topic.num.partitions": 4,
    "offsets.topic.replication.factor": 1,
    "transaction.state.log.num.partitions": 1,
    "transaction.state.log.replication.factor": 1,
    "transaction.state.log.min.isr": 1,
    "share.coordinator.state.topic.replication.factor": 1,
    "share.coordinator.state.topic.min.isr": 1,
}

# For runs as short as tests, the optimising compiler costs more time than it saves.
QUICK: Final = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx384m", "-XX:-UsePerfData")
STEADY: Final = ("-XX:+UseG1GC", "-Xmx768m", "-XX:-UsePerfData")

_numbers = itertools.count(1)
_blank: dict[str, bytes] = {}
"""The files of a formatted data folder without topics: equal for all brokers of a node id and
cluster, and written by a program that takes seconds to start.
"""
_quiet: Final = {"log_level": 0, "socket.timeout.ms": 5_000}


TRANSIENT_ERRORS: Final = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE)
"""Errors about a topic that is just being created."""


class Kafka:
    """A broker that listens at ``bootstrap``."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap

    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.bootstrap, **_quiet})

    def prefix(self) -> str:
        """Return a topic prefix that is new on a broker which many tests share."""
        return f"test{os.getpid()}n{next(_numbers)}t{time.monotonic_ns()}"

    def create_topic(
        self, name: str, *, partitions: int = 1, config: Mapping[str, str] | None = None
    ) -> None:
        topic = NewTopic(name, partitions, 1, config=dict(config or {}))
        admin = self.admin()  # keep a reference until the response has come
        admin.create_topics([topic])[name].result(timeout=PATIENCE_S)
        assert self.partitions(name) == partitions

    def partitions(self, topic: str) -> int:
        """Return the topic's number of partitions, waiting until the broker knows a new topic."""
        admin = self.admin()
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            known = admin.list_topics(timeout=PATIENCE_S).topics.get(topic)
            if known is not None and all(one.leader >= 0 for one in known.partitions.values()):
                return len(known.partitions)
            time.sleep(0.02)
        return 0

    def read(self, *topics: str, count: int, patience_s: float = PATIENCE_S) -> list[Message]:
        """Return the first ``count`` records of the topics, in order per partition."""
        with reader(self.bootstrap, topics) as consumer:
            deadline = time.monotonic() + patience_s
            records: list[Message] = []
            while len(records) < count and time.monotonic() < deadline:
                records += [
                    record
                    for record in consumer.consume(count - len(records), timeout=0.5)
                    if record.error() is None
                ]
        assert len(records) == count, f"{len(records)} records of {count} came"
        return records

    def count(self, topic: str) -> int:
        """Return the number of records in the topic, waiting until the leader of a new topic is
        known.
        """
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self._count(topic)
            except KafkaException as error:
                if error.args[0].code() not in TRANSIENT_ERRORS or time.monotonic() > deadline:
                    raise
            time.sleep(0.02)

    def _count(self, topic: str) -> int:
        with reader(self.bootstrap, [topic]) as consumer:
            return sum(
                high - low
                for low, high in (
                    consumer.get_watermark_offsets(partition, timeout=PATIENCE_S)
                    for partition in _partitions(consumer, topic)
                )
            )


class KafkaServer(ServerProcess, Kafka):
    """A broker for tests, which can restart on its data."""

    def __init__(
        self,
        settings: Mapping[str, str | int] | None = None,
        *,
        port: int | None = None,
        java: Sequence[str] = QUICK,
    ) -> None:
        self.port = port or free_port()
        Kafka.__init__(self, f"127.0.0.1:{self.port}")
        self._jars = jars()
        self._java = java
        ServerProcess.__init__(self, "kafka")
        controller = f"127.0.0.1:{free_port()}"
        chosen = {
            **SETTINGS,
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://{controller}",
            "controller.quorum.voters": f"1@{controller}",
            "log.dirs": self.home / "data",
            **(settings or {}),
        }
        lines = "".join(f"{name}={value}\n" for name, value in chosen.items())
        (self.home / "server.properties").write_text(lines)
        (self.home / "log4j2.properties").write_text(LOGGING)

    def start(self) -> None:
        """Start the broker with the data it had."""
        if self._process is not None:
            return
        if not (self.home / "data").exists():
            self._format()
        # exec keeps the shell's pid, so it is on file before the broker runs and could be orphaned.
        command = ["/bin/sh", "-c", 'echo $$ > pid; exec "$@"', "kafka"]
        with (self.home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *self._program("kafka.Kafka"), "server.properties"],
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._until_ready()

    def stop(self) -> None:
        """Stop the broker cleanly; the data stays for the next start."""
        self._end(signal.SIGTERM)

    def wait(self) -> int:
        """Wait until it ends by itself."""
        assert self._process is not None
        return self._process.wait()

    def log(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return (self.home / "log").read_text(errors="replace")
        return ""

    def _format(self) -> None:
        data = self.home / "data"
        if _blank:
            data.mkdir()
            for name, content in _blank.items():
                (data / name).write_bytes(content)
            return
        tool = self._program("kafka.tools.StorageTool")
        done = subprocess.run(
            [*tool, "format", "-t", CLUSTER, "-c", "server.properties"],
            check=False,
            cwd=self.home,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"Kafka's storage is not formatted: {done.stdout}{done.stderr}")
        _blank.update({file.name: file.read_bytes() for file in data.iterdir()})

    def _program(self, main: str) -> list[str]:
        logging = "-Dlog4j2.configurationFile=log4j2.properties"
        return ["java", *self._java, logging, "-cp", f"{self._jars}/*", main]

    def _until_ready(self) -> None:
        """Wait until a broker that is no longer fenced answers a metadata request."""
        assert self._process is not None
        deadline = time.monotonic() + PATIENCE_S
        admin = AdminClient(
            {"bootstrap.servers": self.bootstrap, "reconnect.backoff.max.ms": 100, **_quiet}
        )
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(KafkaException):
                if admin.list_topics(timeout=0.5).brokers:
                    return
        raise RuntimeError(f"Kafka does not start: {self.log()[-2000:]}")


@contextlib.contextmanager
def reader(
    bootstrap: str, topics: Sequence[str], options: Mapping[str, Any] | None = None
) -> Iterator[Consumer]:
    """Yield a consumer without a group, at the beginning of every partition."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "tests",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            **_quiet,
            **(options or {}),
        }
    )
    try:
        consumer.assign([part for topic in topics for part in _partitions(consumer, topic)])
        yield consumer
    finally:
        consumer.close()


def _partitions(consumer: Consumer, topic: str) -> list[TopicPartition]:
    known = consumer.list_topics(topic, timeout=PATIENCE_S).topics[topic]
    return [TopicPartition(topic, number, 0) for number in sorted(known.partitions)]


@contextlib.contextmanager
def running_kafka() -> Iterator[Kafka]:
    """Yield the broker in the environment, or a new one."""
    if bootstrap := os.environ.get(KAFKA_VARIABLE):
        yield Kafka(bootstrap)
        return
    with KafkaServer() as server:
        yield server


def jars() -> Path:
    """Return the folder of the broker's program, fetched by Maven once per version of the POM."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "entitlements"
    state = hashlib.sha256(POM.read_bytes()).hexdigest()[:8]
    folder = cache / f"kafka-{VERSION}-{state}"
    if folder.is_dir():
        return folder
    for program, package in (("java", "default-jre-headless"), ("mvn", "maven")):
        if shutil.which(program) is None:
            raise RuntimeError(
                f"No Kafka here: install the package {package}, "
                f"or name a running broker in {KAFKA_VARIABLE}."
            )
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="fetching-") as aside:
        _fetch(Path(aside) / "jars")
        # If another process fetched them in the meantime, they are the same.
        with contextlib.suppress(OSError):
            (Path(aside) / "jars").rename(folder)
    return folder


def _fetch(folder: Path) -> None:
    goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={folder}"]
    done = subprocess.run(
        ["mvn", "-B", "-q", "-f", POM, *goal],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode or not list(folder.glob(f"kafka_*-{VERSION}.jar")):
        raise RuntimeError(
            f"Maven cannot fetch Kafka {VERSION}; name a running broker in {KAFKA_VARIABLE}, "
            f"or let Maven reach its repository:\n{done.stdout[-3000:]}{done.stderr[-1000:]}"
        )


def main(arguments: Sequence[str]) -> None:
    """With `fetch` only fetch the program; otherwise run a broker until interrupted."""
    if list(arguments) == ["fetch"]:
        try:
            if not os.environ.get(KAFKA_VARIABLE):
                jars()
        except RuntimeError as error:
            sys.exit(str(error))
        return
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit())
    with KafkaServer(port=int(arguments[0]) if arguments else 9092) as server:
        print(  # noqa: T201
            f"Kafka {VERSION} runs at {server.bootstrap} until Ctrl-C, which deletes its data.\n"
            f"Set: export ENTITLEMENTS_KAFKA_BOOTSTRAP_SERVERS={server.bootstrap}",
            flush=True,
        )
        with contextlib.suppress(KeyboardInterrupt):
            server.wait()
            print(server.log()[-2000:], file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
