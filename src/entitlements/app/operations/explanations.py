"""Map explanations of decisions to their wire format."""

from msgspec import UNSET

from entitlements.contracts import http
from entitlements.core.explain import Explanation, Gate


def item(told: Explanation) -> http.ExplanationItem:
    return http.ExplanationItem(
        policy_version=told.policy_version,
        at=told.at,
        gates=[_gate(gate) for gate in told.gates],
        wallets=[
            http.WalletItem(
                subject=str(wallet.key.subject),
                credit_type=wallet.key.credit_type,
                balance=wallet.balance,
                held=wallet.held,
                available=wallet.available,
            )
            for wallet in told.wallets
        ],
        draws=[
            http.GrantDraw(
                grant_id=draw.grant_id,
                quantity=draw.quantity,
                subject=str(wallet.subject),
                credit_type=wallet.credit_type,
            )
            for wallet, draw in ((one.wallet, one.draw) for one in told.draws)
        ],
        binding=_gate(told.binding) if told.binding is not None else None,
        passes_at=told.passes_at,
    )


def _gate(gate: Gate) -> http.GateItem:
    return http.GateItem(
        gate=gate.gate,
        metric=gate.metric if gate.metric is not None else UNSET,
        verdict=gate.verdict.value,
        inputs=gate.inputs,
    )
