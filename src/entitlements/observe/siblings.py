"""Metrics of processes that share a port: each serves its own, and the supervisor merges them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

WITHIN_S: Final = 2.0
"""If a process does not respond within this time, its last known metrics are used."""
HIGHEST: Final = frozenset(
    (
        "entitlements_books_proved_timestamp_seconds",
        "entitlements_dead_letters_open",
        "entitlements_invariant_violations",
        "entitlements_lifecycle_call_age_seconds",
        "entitlements_limiter_degraded",
        "entitlements_limiter_peers_apart",
        "entitlements_outbox_age_seconds",
        "entitlements_outbox_depth",
        "entitlements_outbox_parked",
        "entitlements_policy_problems",
        "entitlements_wallets_ahead",
        "entitlements_webhook_deliveries_pending",
        "entitlements_webhooks_failing",
        "entitlements_work_unpriced",
    )
)
"""Gauges of shared state (database, outbox, policy): the maximum counts. Others are summed."""
LOWEST: Final = frozenset(("entitlements_consumer_running",))
"""Gauges that are 0 if one process has a problem: the minimum counts."""

_Key = tuple[str, tuple[tuple[str, str], ...]]
Read = Callable[[], Awaitable[bytes]]


@asynccontextmanager
async def giving(path: Path, text: Read) -> AsyncIterator[None]:
    """Serve the text on the socket at ``path``."""

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(await text())
            await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_unix_server(answer, path)
    try:
        yield
    finally:
        server.close()


async def read(path: Path) -> bytes:
    """Return the text that a process serves on the socket. Raise OSError or TimeoutError."""
    async with asyncio.timeout(WITHIN_S):
        reader, writer = await asyncio.open_unix_connection(path)
        try:
            return await reader.read()
        finally:
            writer.close()


class MergedMetrics:
    """The merged counts of all processes since the start, including those that have ended."""

    def __init__(self) -> None:
        self._ended = b""
        self._seen: dict[Path, bytes] = {}

    async def text(self, sockets: Iterable[Path]) -> bytes:
        """Return the metrics of the processes at the sockets, merged."""
        paths = list(sockets)
        found = await asyncio.gather(*map(read, paths), return_exceptions=True)
        for path, text in zip(paths, found, strict=True):
            if isinstance(text, bytes) and text:
                self._seen[path] = text
        return merged([self._ended, *self._seen.values()])

    def ended(self, path: Path) -> None:
        """Keep the last known counts of an ended process.

        Otherwise the sums would fall, which looks like a counter reset.
        """
        last = self._seen.pop(path, b"")
        self._ended = merged([self._ended, last], kinds=frozenset(("counter", "histogram")))


def merged(texts: Iterable[bytes], kinds: frozenset[str] | None = None) -> bytes:
    """Merge several texts in Prometheus' format, all metrics or only those of some types."""
    families: dict[str, Metric] = {}
    values: dict[str, dict[_Key, float]] = {}
    for text in texts:
        for family in text_string_to_metric_families(text.decode()):
            if kinds is not None and family.type not in kinds:
                continue
            families.setdefault(family.name, family)
            _merge(values.setdefault(family.name, {}), family)
    return generate_latest(_Merged(families, values))


def _merge(values: dict[_Key, float], family: Metric) -> None:
    join = _join(family.name)
    for sample in family.samples:
        key = (sample.name, tuple(sample.labels.items()))
        values[key] = join(values[key], sample.value) if key in values else sample.value


def _join(name: str) -> Callable[[float, float], float]:
    if name in HIGHEST:
        return max
    if name in LOWEST or name.endswith("_created"):
        return min
    return float.__add__


class _Merged:
    def __init__(
        self, families: Mapping[str, Metric], values: Mapping[str, Mapping[_Key, float]]
    ) -> None:
        self._families = families
        self._values = values

    def collect(self) -> Iterator[Metric]:
        for name, family in self._families.items():
            metric = Metric(name, family.documentation, family.type)
            for (sample, labels), value in self._values[name].items():
                metric.add_sample(sample, dict(labels), value)
            yield metric
