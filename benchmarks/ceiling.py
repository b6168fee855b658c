"""The most the framework could give: a bulk check's request and response, and no work between."""

import contextlib
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from time import monotonic, sleep

import msgspec
import psutil
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks.accounting import tree_cpu_s
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
    """The base URL of the bare application in its own process, and what reads its CPU seconds."""
    port = free_port()
    server = ["uvicorn", "--loop", "uvloop", "--http", "httptools", "--no-access-log"]
    where = ["--log-level", "error", "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen([sys.executable, "-m", *server, *where, f"{__name__}:app"]) as process:
        try:
            until_answering(f"http://127.0.0.1:{port}/", process)
            measured = psutil.Process(process.pid)
            yield f"http://127.0.0.1:{port}", lambda: tree_cpu_s(measured)
        finally:
            process.terminate()


def until_answering(url: str, process: subprocess.Popen[bytes], *, patience_s: int = 30) -> None:
    """Wait for any answer, be it 404."""
    deadline = monotonic() + patience_s
    while monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=1).close()  # noqa: S310 -- loopback
        except urllib.error.HTTPError as refused:
            refused.close()
            return
        except OSError:
            sleep(0.05)
        else:
            return
    raise RuntimeError(f"{url} does not answer; its process ended with {process.poll()}")
