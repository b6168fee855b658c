"""The use case of each verb."""

from typing import Final

from entitlements.app.operations import (
    access,
    administration,
    balances,
    checks,
    consumption,
    debts,
    grants,
    holds,
    ledger,
    members,
    policies,
    rate_limits,
    subscriptions,
)
from entitlements.app.operations.request import UseCases

USE_CASES: Final[UseCases] = {
    **checks.USE_CASES,
    **consumption.USE_CASES,
    **holds.USE_CASES,
    **balances.USE_CASES,
    **administration.USE_CASES,
    **grants.USE_CASES,
    **access.USE_CASES,
    **subscriptions.USE_CASES,
    **ledger.USE_CASES,
    **members.USE_CASES,
    **debts.USE_CASES,
    **rate_limits.USE_CASES,
    **policies.USE_CASES,
}
