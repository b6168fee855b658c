"""The webhook deliverer: sends due deliveries, retries failed ones, and deletes old ones."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from random import Random
from typing import Final

from entitlements.app.access.keys import Act
from entitlements.app.process.backoff import backoff_s
from entitlements.app.process.log import EventLog
from entitlements.app.process.loop import background, every
from entitlements.app.webhooks.store import (
    Answered,
    Attempt,
    Claim,
    DeliveryBacklog,
    NotReached,
    Sender,
    WebhookStore,
)
from entitlements.core.model import AuditEntry
from entitlements.version import VERSION
from entitlements.webhooks import ID, SIGNATURE, TIMESTAMP, signatures

log = EventLog(__name__)

AT_ONCE: Final = 16
"""The maximum number of concurrent requests to one endpoint."""
AT_ONCE_FAILING: Final = 2
LEASE_S: Final = 30
"""Longer than a request can take; after it another process can retry."""
POLL_S: Final = 1.0
CLEAN_UP_S: Final = 5.0
DELETED_AT_ONCE: Final = 1_000
GRACE_S: Final = 3.0
RETRY_S: Final = 5
RETRY_MAX_S: Final = 6 * 3_600
RETRY_FACTOR: Final = 3
QUIET_MAX_S: Final = 60
GONE: Final = 410
RESULTS: Final = ("delivered", "retried", "failed")
FAILS_LONG_S: Final = 3_600
_jitter: Final = Random()  # noqa: S311 - spreads retries; not for security


class Deliverer:
    """Delivers webhooks. Several can run, in one process or many: a lease gives each delivery to
    one of them at a time.

    A slow or failing endpoint does not delay the others.
    """

    def __init__(
        self,
        store: WebhookStore,
        sender: Sender,
        *,
        clock: Callable[[], datetime],
        new_id: Callable[[], str],
        retention_s: int,
    ) -> None:
        self._store = store
        self._sender = sender
        self._clock = clock
        self._new_id = new_id
        self._retention_s = retention_s
        self._under_way: dict[asyncio.Task[None], str] = {}
        self._ended: list[Attempt] = []
        self._failures: Counter[str] = Counter()
        self._quiet_until: dict[str, datetime] = {}
        self._arrived = asyncio.Event()
        self.results: Counter[str] = Counter()
        """Attempts by result (`RESULTS`); failed is final."""
        self.backlog: DeliveryBacklog | None = None
        self.is_wanted = False
        """Whether any endpoint was active at the last look."""
        self._look_at = 0.0

    def wake(self) -> None:
        """Signal that a delivery may be due."""
        if self.is_wanted:
            self._arrived.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Deliver until the block ends; then requests in progress get a moment to end."""
        self._arrived.set()
        deliver = every(0, self._deliver, log, "webhooks", first_s=0)
        clean_up = every(CLEAN_UP_S, self.clean_up, log, "webhooks.clean_up", first_s=0)
        try:
            async with background(deliver, clean_up):
                yield
        finally:
            await self._stop()

    async def _deliver(self) -> None:
        """Wait for work, but not long, and run a round."""
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL_S):
                await self._arrived.wait()
        self._arrived.clear()
        if await self._is_wanted() or self._under_way or self._ended:
            await self.round()

    @property
    def is_failing_long(self) -> bool:
        """Whether an active endpoint has accepted nothing for an hour, despite attempts."""
        since = self.backlog.failing_since if self.backlog else None
        return since is not None and self._clock() - since > timedelta(seconds=FAILS_LONG_S)

    async def _is_wanted(self) -> bool:
        """Return whether any endpoint is active, read once a second; without one nothing else is
        read.
        """
        now = asyncio.get_running_loop().time()
        if now >= self._look_at:
            self.is_wanted = await self._store.is_wanted()
            self._look_at = now + POLL_S
        return self.is_wanted

    async def round(self) -> int:
        """Record ended requests and start due ones, as capacity allows; return how many started."""
        await self._record()
        counts = Counter(self._under_way.values())
        now = self._clock()
        busy = {*counts, *self._failures}
        free = {one: max(0, self._at_once(one, now) - counts[one]) for one in busy}
        claims = await self._store.claim_deliveries(free, AT_ONCE, lease_s=LEASE_S)
        for claim in claims:
            task = asyncio.create_task(self._send(claim))
            self._under_way[task] = claim.endpoint.id
            task.add_done_callback(self._over)
        return len(claims)

    async def drained(self) -> None:
        """Wait until no request is in progress and every ended one is recorded."""
        while self._under_way:
            await asyncio.wait(self._under_way)
        await self._record()

    def _at_once(self, endpoint_id: str, now: datetime) -> int:
        if not self._failures[endpoint_id]:
            return AT_ONCE
        return 0 if self._is_quiet(endpoint_id, now) else AT_ONCE_FAILING

    def _is_quiet(self, endpoint_id: str, now: datetime) -> bool:
        """Whether the endpoint is in backoff. A clock that was set back does not prolong it."""
        left = self._quiet_until.get(endpoint_id, now) - now
        return timedelta() < left <= timedelta(seconds=QUIET_MAX_S)

    def _over(self, task: asyncio.Task[None]) -> None:
        del self._under_way[task]
        self._arrived.set()

    async def _send(self, claim: Claim) -> None:
        try:
            answer = await self._post(claim)
        except Exception as error:
            log.exception("webhooks.send_failed", endpoint=claim.endpoint.id)
            answer = NotReached(type(error).__name__)
        attempt = _attempt(claim, answer, self._clock())
        self._note(attempt)
        self._ended.append(attempt)

    async def _post(self, claim: Claim) -> Answered | NotReached:
        now = self._clock()
        body = claim.payload.encode()
        headers = signed_headers(claim.event_id, body, claim.endpoint.signing(now), now)
        return await self._sender.post(claim.endpoint.url, headers, body)

    def _note(self, attempt: Attempt) -> None:
        """Update the endpoint's backoff, which grows to a minute while the endpoint fails."""
        endpoint, now = attempt.endpoint_id, self._clock()
        if attempt.delivered:
            self._failures.pop(endpoint, None)
            self._quiet_until.pop(endpoint, None)
            return
        if self._is_quiet(endpoint, now):
            return  # sent at the same time as the attempt that failed before
        self._failures[endpoint] += 1
        quiet_s = backoff_s(self._failures[endpoint], first_s=1, most_s=QUIET_MAX_S)
        self._quiet_until[endpoint] = now + timedelta(seconds=quiet_s)

    async def _record(self) -> None:
        """Record ended attempts, or keep them for the next round; late ones are sent again."""
        if not self._ended:
            return
        ended, self._ended = self._ended, []
        gone = {attempt.endpoint_id for attempt in ended if attempt.disable}
        try:
            failed = await self._store.save_attempts(ended, self._disabled(gone))
        except BaseException:
            self._ended = ended + self._ended
            raise
        delivered = sum(attempt.delivered for attempt in ended)
        self.results["delivered"] += delivered
        self.results["failed"] += failed
        self.results["retried"] += len(ended) - delivered - failed
        for endpoint in gone:
            log.warning("webhooks.endpoint_gone", endpoint=endpoint)
        if failed:
            log.warning("webhooks.gave_up", deliveries=failed)

    def _disabled(self, gone: set[str]) -> AuditEntry | None:
        if not gone:
            return None
        act = Act(
            actor="system",
            client="system",
            at=self._clock(),
            new_id=self._new_id,
            correlation_id=self._new_id(),
            reason="it responded 410 Gone",
        )
        return act.entry("webhook.disable", {"endpoint_ids": sorted(gone)})

    async def clean_up(self) -> None:
        """Delete deliveries that ended long enough ago, and read the backlog."""
        self.backlog = await self._store.backlog()
        while (
            await self._store.tidy_deliveries(self._retention_s, DELETED_AT_ONCE) >= DELETED_AT_ONCE
        ):
            pass

    async def _stop(self) -> None:
        if self._under_way:
            _, late = await asyncio.wait(self._under_way, timeout=GRACE_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        try:
            await self._record()
        except Exception as error:  # noqa: BLE001 - outermost: they are sent again
            log.warning("webhooks.unrecorded", attempts=len(self._ended), reason=str(error))


def signed_headers(
    message_id: str, body: bytes, secrets: list[str], now: datetime
) -> dict[str, str]:
    """Return the headers of a message: id, timestamp and signatures."""
    sent_at = int(now.timestamp())
    return {
        "content-type": "application/json",
        "user-agent": f"Entitlements/{VERSION}",
        ID: message_id,
        TIMESTAMP: str(sent_at),
        SIGNATURE: signatures(message_id, sent_at, body, secrets),
    }


def problem(answer: Answered | NotReached) -> str | None:
    """Return why the delivery failed; None if it succeeded."""
    match answer:
        case NotReached(reason=reason):
            return reason
        case Answered(status=status) if 300 <= status < 400:  # noqa: PLR2004 - redirections
            return "redirects are not followed"
        case Answered(status=status) if not 200 <= status < 300:  # noqa: PLR2004 - success
            return f"HTTP {status}"
    return None


def retry_in_s(attempt: int) -> int:
    """Return the delay after an attempt: 5 seconds, then three times as long each time, up to six
    hours, with 20 % jitter.
    """
    wait_s = backoff_s(attempt, first_s=RETRY_S, most_s=RETRY_MAX_S, factor=RETRY_FACTOR)
    return round(wait_s * _jitter.uniform(0.8, 1.2))


def retry_after_s(value: str | None, now: datetime) -> int | None:
    """Return the seconds to wait by a Retry-After header in seconds or as a date; None if it has
    neither.
    """
    if value is None:
        return None
    if re.fullmatch(r"[0-9]{1,9}", value):
        return int(value)
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0, round(at.timestamp() - now.timestamp()))


def next_try_s(attempt: int, answer: Answered | NotReached, now: datetime) -> int:
    """Return the delay to the next attempt: `retry_in_s`, or the receiver's Retry-After if that is
    longer, of which at most six hours count.
    """
    asked = answer.retry_after if isinstance(answer, Answered) else None
    return max(retry_in_s(attempt), min(retry_after_s(asked, now) or 0, RETRY_MAX_S))


def _attempt(claim: Claim, answer: Answered | NotReached, now: datetime) -> Attempt:
    why = problem(answer)
    status = answer.status if isinstance(answer, Answered) else None
    is_over = why is None or status == GONE
    return Attempt(
        endpoint_id=claim.endpoint.id,
        event_id=claim.event_id,
        attempt=claim.attempt,
        delivered=why is None,
        status=status,
        error=why,
        retry_in_s=None if is_over else next_try_s(claim.attempt, answer, now),
        disable=status == GONE,
    )
