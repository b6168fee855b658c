"""The contracts of events: inbound, outbound, and those between other services of the platform.

Names and types of fields are fixed; fields can be added. Integers are at most 10^15.
"""

from entitlements.contracts.events.envelope import Envelope, Incoming, Metadata
from entitlements.contracts.events.fields import SubjectRef
from entitlements.contracts.events.inbound import (
    ReportedSubject,
    ResourceConsumptionV1,
    UsageReportedV1,
    UserRegisteredV1,
)
from entitlements.contracts.events.out import (
    CreditBalanceChangedV1,
    CreditShortfallRecordedV1,
    CreditThresholdCrossedV1,
    EventData,
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

__all__ = [
    "ClientBatchPipelineRequestV1",
    "CreditBalanceChangedV1",
    "CreditShortfallRecordedV1",
    "CreditThresholdCrossedV1",
    "Envelope",
    "EventData",
    "GrantEventV1",
    "Incoming",
    "Metadata",
    "PipelineDeniedV1",
    "RateLimitExceededV1",
    "RateLimitNearV1",
    "ReportedSubject",
    "ResourceConsumptionV1",
    "SubjectRef",
    "SubscriptionActivatedV1",
    "SubscriptionCanceledV1",
    "SubscriptionChangedV1",
    "TeacherNotificationRequestedV1",
    "UsageAuthorizedV1",
    "UsageRecordedV1",
    "UsageReportedV1",
    "UserRegisteredV1",
]
