import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from entitlements.app.access.keys import Role
from entitlements.observe import logs
from tests.transports.http.api import Api


@pytest.fixture
def stream() -> Iterator[io.BytesIO]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield io.BytesIO()
    structlog.reset_defaults()
    root.handlers, root.level = handlers, level
    logs.access_log.writer = None


def test_every_line_is_json_in_order_and_complete_when_closed(stream: io.BytesIO) -> None:
    with logs.configure("INFO", stream):
        log = structlog.get_logger()
        for number in range(1_000):
            log.info("counted", number=number, who="Åsa\n")
        log.debug("unwanted")
        logging.getLogger("library").warning("from %s", "outside")

    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["number"] for line in lines[:-1]] == list(range(1_000))
    assert lines[0]["who"] == "Åsa\n"
    assert (lines[-1]["event"], lines[-1]["logger"]) == ("from outside", "library")


def test_a_failure_is_logged_with_its_trace(stream: io.BytesIO) -> None:
    with logs.configure("INFO", stream):
        structlog.get_logger().error("failed", exc_info=RuntimeError("broken"))

    line = json.loads(stream.getvalue())
    assert line["level"] == "error"
    assert "RuntimeError: broken" in line["exception"]


def test_text_that_is_not_valid_unicode_is_logged(stream: io.BytesIO) -> None:
    with logs.configure("INFO", stream):
        structlog.get_logger().error("failed", reason="\udcff", exc_info=RuntimeError("\ud800"))
        logging.getLogger("library").warning("from \udcff")

    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["reason"], second["event"]) == ("\udcff", "from \udcff")


def test_requests_are_not_logged_above_info(stream: io.BytesIO) -> None:
    with logs.configure("WARNING", stream):
        assert logs.access_log.writer is None


def test_dropped_lines_are_counted(stream: io.BytesIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "LINES_MAX", 3)
    writer = logs.LineWriter(stream)
    with writer._written:  # block the writer, as a slow reader of the log does
        for number in range(5):
            writer.write(b"%d\n" % number)
    writer.close()

    lost, *kept = stream.getvalue().splitlines()
    assert (json.loads(lost)["event"], json.loads(lost)["lines"]) == ("log.lost", 2)
    assert kept == [b"2", b"3", b"4"]


async def test_a_request_is_logged_with_its_caller_and_route_but_no_secret(
    api: Api, stream: io.BytesIO
) -> None:
    client = await api.as_role(Role.SERVICE, "grader")
    secret = client.headers["Authorization"].removeprefix("Bearer ")
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    with logs.configure("DEBUG", stream):
        await client.get(
            "/v1/entitlements/balance/ada?org_id=school",
            headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01", "X-Correlation-ID": "c-1"},
        )
        await client.post("/v1/admin/credits/adjust", content=secret)
        await (await api.with_headers({"X-API-Key": secret[:-1] + "~"})).get("/v1/admin/audit")
    metrics = (await api.call("GET", "/metrics")).text

    balance, *_ = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert (balance["client"], balance["user"], balance["org"]) == ("grader", "ada", "school")
    assert (balance["trace"], balance["correlation_id"]) == (trace, "c-1")
    assert secret[16:-1] not in stream.getvalue().decode() + metrics
