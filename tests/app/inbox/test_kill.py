"""A worker that is killed between a charge and the commit of its offset charges nothing twice."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import httpx2
import pytest

from tests.app.inbox.events import CONSUMPTION, Story, produce
from tests.app.inbox.scene import assert_told, give_all, make_topics, until_read
from tests.app.inbox.worker import ended, killed, worker
from tests.kafka import Kafka
from tests.servers import free_port
from tests.waiting import PATIENCE_S


@pytest.mark.parametrize("place", ["before-commit", "committed-unanswered", "charged", "buried"])
async def test_killed_at_a_failpoint_it_charges_everything_once(
    kafka_server: Kafka, topic_prefix: str, url: str, tmp_path: Path, place: str
) -> None:
    topic = f"{topic_prefix}.{CONSUMPTION}"
    story = Story(topic, users=20, seed=len(place)).tell(900)
    await make_topics(kafka_server.bootstrap, topic_prefix, partitions=3)
    await give_all(url, topic_prefix, 20)
    produce(kafka_server.bootstrap, topic, story.sent)
    where = (url, kafka_server.bootstrap, topic_prefix, tmp_path)

    with worker(*where, ENTITLEMENTS_FAILPOINT=f"{place}:1") as process:
        await killed(process)
    with worker(*where) as process:
        await until_read(url, story)
        process.send_signal(signal.SIGTERM)
        assert await ended(process) == 0

    await assert_told(url, story)


async def test_a_worker_answers_probes_and_scrapes(
    kafka_server: Kafka, topic_prefix: str, url: str, tmp_path: Path
) -> None:
    topic = f"{topic_prefix}.{CONSUMPTION}"
    story = Story(topic, users=5, seed=9).tell(100)
    await make_topics(kafka_server.bootstrap, topic_prefix, partitions=1)
    await give_all(url, topic_prefix, 5)
    produce(kafka_server.bootstrap, topic, story.sent)
    port = str(free_port())

    where = (url, kafka_server.bootstrap, topic_prefix, tmp_path)
    with worker(*where, ENTITLEMENTS_METRICS_PORT=port) as process:
        await until_read(url, story)
        lag = f'entitlements_consumer_lag{{partition="0",topic="{topic}"}} 0.0'
        charged = 'entitlements_consumer_events_total{outcome="charged",resource_type="credit"}'
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
            seen: list[str] = []
            async with asyncio.timeout(PATIENCE_S):
                while not {lag, f"{charged} {story.results['charged']}.0"} <= set(seen):
                    seen = (await http.get("/metrics")).text.splitlines()
            health = (await http.get("/healthz")).json()
        process.send_signal(signal.SIGTERM)
        assert await ended(process) == 0

    assert "entitlements_consumer_running 1.0" in seen
    assert health["checks"]["consumer"]["status"] == "healthy"
