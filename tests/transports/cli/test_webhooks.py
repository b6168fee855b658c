"""Webhooks on the command line."""

import http.server
import threading
from collections.abc import Iterator

import pytest

from tests.transports.cli.conftest import Entitlements


class _Taking(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a receiver on loopback, to which the settings allow sending."""
    monkeypatch.setenv("ENTITLEMENTS_WEBHOOK_ALLOW_HTTP", "true")
    monkeypatch.setenv("ENTITLEMENTS_WEBHOOK_ALLOW_PRIVATE", "true")
    with http.server.HTTPServer(("127.0.0.1", 0), _Taking) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/hook"
        server.shutdown()
        thread.join()


def test_a_webhook_is_made_tested_rotated_and_deleted(entitlements: Entitlements, url: str) -> None:
    made = entitlements(
        "webhooks", "create", url, "--events", "*.grant.*", "--events", "*.usage.*", "--json"
    )
    assert made.code == 0, made.err
    webhook, secret = made.json["id"], made.json["secret"]
    assert made.json["events"] == ["*.grant.*", "*.usage.*"]

    listed = entitlements("webhooks", "list")
    assert webhook in listed.out
    assert secret not in listed.out + entitlements("webhooks", "list", "--json").out
    assert entitlements("webhooks", "test", webhook).out == "the ping was delivered: HTTP 204\n"
    rotated = entitlements("webhooks", "rotate", webhook)
    assert rotated.out.startswith("whsec_")
    assert secret not in rotated.out
    assert entitlements("webhooks", "deliveries", webhook).out == "no deliveries\n"
    assert entitlements("webhooks", "retry", webhook, webhook).code == 1
    assert entitlements("webhooks", "delete", webhook).code == 0
    assert entitlements("webhooks", "list").out == "no webhooks\n"


def test_a_url_that_must_not_be_reached_is_refused(entitlements: Entitlements) -> None:
    refused = entitlements("webhooks", "create", "https://127.0.0.1/")

    assert refused.code == 2
    assert "not on the public internet" in refused.err


def test_a_ping_that_is_not_delivered_fails(
    entitlements: Entitlements, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhook = entitlements("webhooks", "create", url, "--json").json["id"]
    monkeypatch.delenv("ENTITLEMENTS_WEBHOOK_ALLOW_PRIVATE")

    refused = entitlements("webhooks", "test", webhook)

    assert refused.code == 1
    assert "not on the public internet" in refused.err
    assert entitlements("webhooks", "test", "nothing").code == 1
