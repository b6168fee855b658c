"""The use cases of webhook endpoints and their deliveries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from entitlements.app.access.keys import Act
from entitlements.app.paging import Page
from entitlements.app.ports import WriteRejected
from entitlements.app.webhooks.deliverer import problem, signed_headers
from entitlements.app.webhooks.store import (
    Answered,
    DeliveriesQuery,
    Delivery,
    Endpoint,
    ForbiddenAddress,
    Secret,
    Sender,
    State,
    Unresolvable,
    WebhookStore,
)
from entitlements.app.webhooks.targets import pattern_problem, url_problem
from entitlements.contracts import errors, names
from entitlements.contracts.errors import invalid
from entitlements.contracts.events.topics import OUTBOUND
from entitlements.contracts.kinds import kept
from entitlements.ids import is_uuid
from entitlements.webhooks import new_secret

ENDPOINTS_MAX: Final = 32
SECRETS_MAX: Final = 4
"""The maximum number of secrets that sign at the same time."""
PING: Final = "entitlements.webhook.ping.v1"


class Pinged(Struct, frozen=True):
    """The result of a ping."""

    event_id: str
    status: int | None
    error: str | None


class Wanted(Struct, frozen=True, kw_only=True):
    """Changes of an endpoint; None leaves a field as it is. A blank description removes it."""

    url: str | None = None
    events: tuple[str, ...] | None = None
    description: str | None = None
    active: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhooks:
    """Manages endpoints. All methods raise InvalidRequest, and NotFound if one does not exist."""

    store: WebhookStore
    sender: Sender
    clock: Callable[[], datetime]
    allow_http: bool
    source_service: str
    topic_prefix: str

    async def create(
        self, url: str, events: tuple[str, ...], description: str | None, act: Act
    ) -> tuple[Endpoint, str]:
        """Create an endpoint; return it and its secret. Raises Conflict if its URL exists."""
        await self._check(url, events, description)
        secret = new_secret()
        endpoint = Endpoint(
            id=act.new_id(),
            url=url,
            events=events,
            description=description or None,
            secrets=(Secret(secret),),
            created_at=act.at,
            created_by=act.actor,
        )
        detail = {"endpoint_id": endpoint.id, "url": url, "events": list(events)}
        entry = act.entry("webhook.create", detail)
        try:
            added = await self.store.add_endpoint(endpoint, entry, at_most=ENDPOINTS_MAX)
        except WriteRejected:
            raise _exists() from None
        if not added:
            raise errors.Conflict("webhook_limit", f"limit of {ENDPOINTS_MAX} webhooks reached")
        return endpoint, secret

    async def all(self) -> list[Endpoint]:
        return await self.store.endpoints()

    async def show(self, endpoint_id: str) -> Endpoint:
        return _found(await self.store.endpoint(endpoint_id))

    async def change(self, endpoint_id: str, wanted: Wanted, act: Act) -> Endpoint:
        """Change an endpoint. Raises Conflict if another one has its URL."""
        await self._check(wanted.url, wanted.events, wanted.description)
        given = {
            name: value
            for name, value in msgspec.structs.asdict(wanted).items()
            if value is not None
        }
        entry = act.entry("webhook.change", {"endpoint_id": endpoint_id, **given})
        if "description" in given:
            given["description"] = given["description"] or None
        if wanted.active is not None:
            given |= {"disabled_because": None, "failing_since": None}
        try:
            changed = await self.store.change_endpoint(
                endpoint_id, lambda endpoint: replace(endpoint, **given), entry
            )
        except WriteRejected:
            raise _exists() from None
        return _found(changed)

    async def rotate(self, endpoint_id: str, overlap_s: int, act: Act) -> tuple[Endpoint, str]:
        """Create a new secret; current ones keep signing for ``overlap_s``. A repetition with the
        same overlap ends none of them earlier.

        Raises Conflict if too many secrets would sign at the same time.
        """
        secret = new_secret()
        until = act.at + timedelta(seconds=overlap_s)

        def rotated(endpoint: Endpoint) -> Endpoint:
            kept = [
                replace(one, until=min(one.until or until, until))
                for one in endpoint.secrets
                if overlap_s and (one.until is None or act.at < one.until)
            ]
            if len(kept) >= SECRETS_MAX:
                raise errors.Conflict(
                    "webhook_secrets", "too many replaced secrets still sign; wait, or end them"
                )
            return replace(endpoint, secrets=(Secret(secret), *kept))

        detail = {"endpoint_id": endpoint_id, "overlap_seconds": overlap_s}
        entry = act.entry("webhook.rotate_secret", detail)
        return _found(await self.store.change_endpoint(endpoint_id, rotated, entry)), secret

    async def delete(self, endpoint_id: str, act: Act) -> None:
        entry = act.entry("webhook.delete", {"endpoint_id": endpoint_id})
        if not await self.store.delete_endpoint(endpoint_id, entry):
            raise _missing()

    async def test(self, endpoint_id: str, act: Act) -> Pinged:
        """Send a ping now, even to an inactive endpoint, without retries."""
        endpoint = await self.show(endpoint_id)
        event_id = act.new_id()
        body = msgspec.json.encode(self._ping(endpoint, event_id, act))
        headers = signed_headers(event_id, body, endpoint.signing(act.at), act.at)
        answer = await self.sender.post(endpoint.url, headers, body)
        status = answer.status if isinstance(answer, Answered) else None
        return Pinged(event_id, status, problem(answer))

    async def deliveries(
        self, endpoint_id: str, state: State | None, limit: int, cursor: str | None
    ) -> Page[Delivery, str]:
        """Return deliveries, newest first; ``cursor`` is the last event of the previous page."""
        await self.show(endpoint_id)
        if cursor is not None and not is_uuid(cursor):
            raise invalid("cursor", "is not a cursor of this listing")
        query = DeliveriesQuery(endpoint_id=endpoint_id, state=state, limit=limit, after=cursor)
        return await self.store.deliveries(query)

    async def retry(self, endpoint_id: str, event_id: str, act: Act) -> Delivery:
        """Make the delivery due now, in any state."""
        detail = {"endpoint_id": endpoint_id, "event_id": event_id}
        entry = act.entry("webhook.retry", detail)
        delivery = await self.store.retry_delivery(endpoint_id, event_id, entry)
        if delivery is None:
            raise errors.NotFound("not_found", "no such delivery")
        return delivery

    def rotating_until(self, endpoint: Endpoint) -> datetime | None:
        """Return when the last replaced secret stops signing, or None."""
        now = self.clock()
        return max((one.until for one in endpoint.secrets if one.until and now < one.until),
                   default=None)  # fmt: skip

    async def _check(
        self, url: str | None, events: tuple[str, ...] | None, description: str | None
    ) -> None:
        if events is not None and (why := pattern_problem(events, self._event_types())):
            raise invalid("events", why)
        kept("description", names.verbatim, description or "", invalid)
        if url is None:
            return
        if why := url_problem(url, allow_http=self.allow_http):
            raise invalid("url", why)
        try:
            await self.sender.require_public(url)
        except (ForbiddenAddress, Unresolvable) as error:
            raise invalid("url", str(error)) from None

    def _event_types(self) -> list[str]:
        return [topic.under(self.topic_prefix) for topic in OUTBOUND]

    def _ping(self, endpoint: Endpoint, event_id: str, act: Act) -> dict[str, object]:
        return {
            "event_id": event_id,
            "event_type": f"{self.topic_prefix}.{PING}",
            "event_timestamp": act.at.isoformat().replace("+00:00", "Z"),
            "source_service": self.source_service,
            "schema_version": 1,
            "correlation_id": event_id,
            "data_schema_uri": None,
            "data": {"endpoint_id": endpoint.id},
            "metadata": {},
        }


def _found(endpoint: Endpoint | None) -> Endpoint:
    if endpoint is None:
        raise _missing()
    return endpoint


def _missing() -> errors.NotFound:
    return errors.NotFound("not_found", "no such webhook")


def _exists() -> errors.Conflict:
    return errors.Conflict("webhook_exists", "a webhook with this URL exists")
