"""The service logs none of its secrets, whatever fails around it."""

import asyncio
import signal
from pathlib import Path
from urllib.parse import urlsplit

import httpx2

from entitlements.embedded import migrate
from tests.faults.service import Service
from tests.servers import PostgresServer, RedisServer, free_port
from tests.waiting import PATIENCE_S, until

CANARY = "hush4f1c"
STRANGER = f"ent_{CANARY}".ljust(47, "x")
CONSUME = "/v1/entitlements/consume-credits"
WORK = {"user_id": "ada", "metric": "spellcheck", "amount": 1, "correlation_id": "x"}


async def test_no_secret_is_logged(
    crashable_postgres: PostgresServer, crashable_redis: RedisServer, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("costs: {spellcheck: 0}\n")
    database = crashable_postgres.create_database("books")
    await migrate(database)
    key_file = tmp_path / "key"
    async with Service(_with_password(database), policy) as service:
        await service.start(
            ENTITLEMENTS_AUTH="keys",
            ENTITLEMENTS_BOOTSTRAP_KEY_FILE=str(key_file),
            ENTITLEMENTS_COMMAND_DEADLINE_S="1",
            ENTITLEMENTS_LOG_LEVEL="DEBUG",
            ENTITLEMENTS_REDIS_URL=_with_password(crashable_redis.url),
            ENTITLEMENTS_KAFKA_BOOTSTRAP_SERVERS=f"127.0.0.1:{free_port()}",
            ENTITLEMENTS_KAFKA_OPTIONS="security.protocol=SASL_PLAINTEXT,sasl.mechanism=PLAIN,"
            f"sasl.username=ada,sasl.password={CANARY}",
            ENTITLEMENTS_WEBHOOK_ALLOW_HTTP="true",
            ENTITLEMENTS_WEBHOOK_ALLOW_PRIVATE="true",
        )
        key = key_file.read_text().strip()
        headers = {"authorization": f"Bearer {key}"}
        async with httpx2.AsyncClient(
            base_url=service.url, headers=headers, timeout=PATIENCE_S
        ) as http:
            hooked = await http.post(
                "/v1/admin/webhooks",
                json={"url": f"http://127.0.0.1:{free_port()}/", "events": ["*"]},
            )
            await http.post(f"/v1/admin/webhooks/{hooked.json()['webhook']['id']}/test")
            await _ask_wrongly(service.url)
            crashable_postgres.kill()
            refused = await http.post(CONSUME, json=WORK)
            await until(lambda: "kafka.error" in service.log())
        await service.stopped_by(signal.SIGTERM)

    assert refused.status_code == 503
    secrets = (CANARY, key, hooked.json()["secret"])
    assert [secret for secret in secrets if secret in service.log()] == []


def _with_password(url: str) -> str:
    parts = urlsplit(url)
    user = parts.username or ""
    host = f"{user}:{CANARY}@{parts.hostname}:{parts.port}"
    return parts._replace(netloc=host).geturl()


async def _ask_wrongly(url: str) -> None:
    """Send requests with unknown, malformed or misplaced credentials."""
    async with httpx2.AsyncClient(base_url=url) as http:
        for credentials in (f"Bearer {STRANGER}", f"Bearer {CANARY}", f"Basic {CANARY}", CANARY):
            await http.get("/v1/entitlements/balance/ada", headers={"authorization": credentials})
        await http.get("/v1/entitlements/balance/ada", params={"key": STRANGER})
        await http.get("/nowhere", headers={"x-api-key": STRANGER})
    host, _, port = urlsplit(url).netloc.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET / HTTP/1.1\r\nAuthorization: {STRANGER}\r\n\x00broken\r\n\r\n".encode())
    await reader.read()
    writer.close()
