"""Calls the running service with the generated client."""

import sys

from entitlements_http import AuthenticatedClient
from entitlements_http.api.administration import adjust_balance, list_operations
from entitlements_http.api.balances import balance
from entitlements_http.api.checks import check_bulk
from entitlements_http.api.consumption import consume
from entitlements_http.api.holds import settle_hold, take_hold
from entitlements_http.models import (
    AdjustRequest,
    AdjustResponse,
    BalanceResponse,
    BulkCheckRequest,
    BulkCheckRequestRequirements,
    BulkCheckResponse,
    ConsumeRequest,
    ConsumeResponse,
    HoldChangeResponse,
    HoldRequest,
    HoldResponse,
    ListOperationsKind,
    OperationsResponse,
    Problem,
    SettleHoldRequest,
)
from entitlements_http.models import AdjustRequestSubjectType as SubjectType


def use(client: AuthenticatedClient) -> None:
    gift = AdjustRequest(SubjectType.ORG, "school-py", 500, "autumn term")
    given = adjust_balance.sync(client=client, body=gift)
    assert isinstance(given, AdjustResponse)
    assert given.new_balance == 500

    wanted = BulkCheckRequestRequirements.from_dict({"cj_comparison": 45})
    question = BulkCheckRequest("teacher-py", wanted, org_id="school-py")
    checked = check_bulk.sync(client=client, body=question)
    assert isinstance(checked, BulkCheckResponse)
    assert checked.per_metric["cj_comparison"].source == "org"

    work = ConsumeRequest(
        "teacher-py", "cj_comparison", 45, org_id="school-py", correlation_id="batch-py"
    )
    for is_repeated in (False, True):
        charged = consume.sync(client=client, body=work, idempotency_key="batch-py")
        assert isinstance(charged, ConsumeResponse)
        assert (charged.consumed_from, charged.replayed) == ("org", is_repeated)

    estimate = HoldRequest("teacher-py", org_id="school-py", credits_=50)
    held = take_hold.sync(client=client, body=estimate)
    assert isinstance(held, HoldResponse)
    settled = settle_hold.sync(held.hold_id, client=client, body=SettleHoldRequest(credits_=30))
    assert isinstance(settled, HoldChangeResponse)
    assert settled.returned == 20

    left = balance.sync("teacher-py", client=client, org_id="school-py")
    assert isinstance(left, BalanceResponse)
    assert left.org_available == 425

    consumed = ListOperationsKind.CONSUME
    listed = list_operations.sync(client=client, correlation_id="batch-py", kind=consumed)
    assert isinstance(listed, OperationsResponse)
    assert [(one.kind, one.balance_after) for one in listed.operations] == [("consume", 455)]

    stranger = BulkCheckRequest("stranger", wanted)
    denied = check_bulk.sync_detailed(client=client, body=stranger)
    assert denied.status_code == 402
    assert isinstance(denied.parsed, BulkCheckResponse)
    assert denied.parsed.denial_reason == "insufficient_credits"

    nothing = AdjustRequest(SubjectType.ORG, "school-py", 0, "nothing")
    refused = adjust_balance.sync(client=client, body=nothing)
    assert isinstance(refused, Problem)
    assert refused.code == "validation_failed"


if __name__ == "__main__":
    url, key = sys.argv[1:]
    use(AuthenticatedClient(url, key))
