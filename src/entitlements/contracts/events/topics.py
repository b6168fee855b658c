"""The table of topics without prefix: direction, event type and key of each."""

from enum import StrEnum
from typing import Final

from msgspec import Struct

from entitlements.contracts.events.inbound import (
    ResourceConsumptionV1,
    UsageReportedV1,
    UserRegisteredV1,
)
from entitlements.contracts.events.out import (
    CreditBalanceChangedV1,
    CreditShortfallRecordedV1,
    CreditThresholdCrossedV1,
    GrantEventV1,
    RateLimitExceededV1,
    RateLimitNearV1,
    SubscriptionActivatedV1,
    SubscriptionCanceledV1,
    SubscriptionChangedV1,
    UsageAuthorizedV1,
    UsageRecordedV1,
)
from entitlements.contracts.events.platform import (
    ClientBatchPipelineRequestV1,
    PipelineDeniedV1,
    TeacherNotificationRequestedV1,
)

PREFIX: Final = "huleedu"
DLQ: Final = ".dlq"
"""The suffix of dead-letter topics: events that cannot be processed go to the topic with it."""


class Direction(StrEnum):
    IN = "in"
    OUT = "out"
    PLATFORM = "platform"


class Topic(Struct, frozen=True):
    """A topic. ``name`` follows the prefix; ``key`` describes the records' keys."""

    name: str
    data: type[Struct]
    direction: Direction
    key: str = "subject id"

    def under(self, prefix: str) -> str:
        return f"{prefix}.{self.name}"


RESOURCE_CONSUMPTION: Final = Topic(
    "resource.consumption.v1", ResourceConsumptionV1, Direction.IN, "user or org id"
)
USER_REGISTERED: Final = Topic(
    "identity.user.registered.v1", UserRegisteredV1, Direction.IN, "user id"
)
USAGE_REPORTED: Final = Topic("entitlements.usage.reported.v1", UsageReportedV1, Direction.IN)

INBOUND: Final = (RESOURCE_CONSUMPTION, USER_REGISTERED, USAGE_REPORTED)


def _out(name: str, data: type[Struct]) -> Topic:
    return Topic(f"entitlements.{name}", data, Direction.OUT)


OUTBOUND: Final = (
    _out("credit.balance.changed.v1", CreditBalanceChangedV1),
    _out("usage.recorded.v1", UsageRecordedV1),
    _out("rate_limit.exceeded.v1", RateLimitExceededV1),
    _out("rate_limit.near.v1", RateLimitNearV1),
    _out("usage.authorized.v1", UsageAuthorizedV1),
    _out("subscription.activated.v1", SubscriptionActivatedV1),
    _out("subscription.changed.v1", SubscriptionChangedV1),
    _out("subscription.canceled.v1", SubscriptionCanceledV1),
    _out("credit.shortfall.recorded.v1", CreditShortfallRecordedV1),
    _out("credit.threshold.crossed.v1", CreditThresholdCrossedV1),
    _out("grant.created.v1", GrantEventV1),
    _out("grant.revoked.v1", GrantEventV1),
    _out("grant.expired.v1", GrantEventV1),
    _out("grant.renewed.v1", GrantEventV1),
)

PLATFORM: Final = (
    Topic(
        "commands.batch.pipeline.v1", ClientBatchPipelineRequestV1, Direction.PLATFORM, "batch id"
    ),
    Topic("pipeline.denied.v1", PipelineDeniedV1, Direction.PLATFORM, "batch id"),
    Topic(
        "notification.teacher.requested.v1",
        TeacherNotificationRequestedV1,
        Direction.PLATFORM,
        "teacher id",
    ),
)

TOPICS: Final = (*INBOUND, *OUTBOUND, *PLATFORM)
