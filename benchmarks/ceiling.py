"""The framework's ceiling: a bulk check's request and response, without any work in between."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks.accounting import tree_cpu_s
from benchmarks.program import Program
from entitlements.contracts.http import (
    BulkCheckRequest,
    BulkCheckResponse,
    CreditTypeNeed,
    MetricDecision,
    SubjectType,
)
from tests.servers import free_port

_decoder = msgspec.json.Decoder(BulkCheckRequest)
_encoder = msgspec.json.Encoder()


async def check(request: Request) -> Response:
    asked = _decoder.decode(await request.body())
    source: SubjectType = "org" if asked.org_id else "user"
    answer = BulkCheckResponse(
        allowed=True,
        required_credits=95,
        available_credits=1_000_000,
        per_metric={
            metric: MetricDecision(
                required=units, available=1_000_000, allowed=True, source=source, reason=None
            )
            for metric, units in asked.requirements.items()
        },
        denial_reason=None,
        correlation_id=asked.correlation_id or "",
        by_credit_type={"credits": CreditTypeNeed(required=95, org=1_000_000, user=1_000_000)},
    )
    return Response(_encoder.encode(answer), media_type="application/json")


app = Starlette(routes=[Route("/v1/entitlements/check-credits/bulk", check, methods=["POST"])])


@contextlib.contextmanager
def running_ceiling() -> Iterator[tuple[str, Callable[[], float]]]:
    """Yield the URL of the bare application in its own process, and a reader of its CPU seconds."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    server = ["uvicorn", "--loop", "uvloop", "--http", "httptools", "--no-access-log"]
    where = ["--log-level", "error", "--host", "127.0.0.1", "--port", str(port)]
    command = [sys.executable, "-m", *server, *where, f"{__name__}:app"]
    with Program(command, os.environ, url=url, status=404) as program:
        yield url, lambda: tree_cpu_s(program.family())
