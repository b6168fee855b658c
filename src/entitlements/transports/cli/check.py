"""The check command: whether work may run, with the reasons."""

import re
from typing import Annotated, Any, Final

from cyclopts import Parameter

from entitlements.app.credits.checks import Checked
from entitlements.app.operations.explanations import item
from entitlements.contracts import names
from entitlements.core.explain import Explanation, Gate
from entitlements.core.policy import AMOUNT_MAX
from entitlements.transports.cli.asking import kept
from entitlements.transports.cli.ledger import Injected
from entitlements.transports.cli.output import (
    AsJson,
    Database,
    Failed,
    Misused,
    say,
    show_json,
    show_table,
    shown_time,
)

_UNITS: Final = re.compile(r"[0-9]{1,18}")


async def check(
    user: Annotated[str, Parameter(help="The user of the work.")],
    *requirements: Annotated[str, Parameter(help="METRIC=UNITS, or METRIC for one unit.")],
    program: Injected,
    org: Annotated[str | None, Parameter(help="The org that may pay.")] = None,
    explain: Annotated[bool, Parameter(negative="", help="Show the decision in detail.")] = False,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """Check whether work may run and who would pay; exit code 1 if it may not. Nothing is reserved
    or recorded. Limits are counted from the ledger, or in Redis if configured.
    """
    wanted = _requirements(requirements)
    user_id = kept("USER", names.subject_id, user)
    org_id = kept("--org", names.optional_id, org)
    async with program.open(database, limited=True) as system:
        engine = system.engine
        checked = await engine.checks.check(
            wanted,
            user_id=user_id,
            org_id=org_id,
            correlation_id=engine.new_id(),
            explained=explain,
        )
    if json:
        show_json(_document(checked))
    else:
        say(_sentence(checked))
        if checked.explanation is not None:
            _tell(checked.explanation)
    if not checked.decision.allowed:
        raise Failed(f"denied: {checked.decision.reason}")


def _requirements(texts: tuple[str, ...]) -> dict[str, int]:
    if not texts:
        raise Misused("at least one METRIC=UNITS is required")
    wanted: dict[str, int] = {}
    for text in texts:
        metric, units = requirement(text)
        if metric in wanted:
            raise Misused(f"{metric} is given twice")
        wanted[metric] = units
    return wanted


def requirement(text: str) -> tuple[str, int]:
    """Return the metric and the units of ``METRIC=UNITS``, or of ``METRIC`` for one unit."""
    name, equals, units = text.rpartition("=")
    metric = kept("METRIC", names.metric, name if equals else text)
    if equals and not _UNITS.fullmatch(units):
        raise Misused(f"{text!r}: UNITS must be a whole number, 0 or more")
    if equals and int(units) > AMOUNT_MAX:
        raise Misused(f"{text!r}: UNITS must be at most {AMOUNT_MAX}")
    return metric, int(units) if equals else 1


def _document(checked: Checked) -> dict[str, Any]:
    decision = checked.decision
    answer: dict[str, Any] = {
        "allowed": decision.allowed,
        "reason": decision.reason,
        "required": {name: need.required for name, need in decision.needs.items()},
        "source": decision.source,
        "allowance_units": {
            metric: line.allowance_units
            for metric, line in decision.lines.items()
            if line.allowance_units
        },
        "degraded": checked.is_degraded,
    }
    if checked.explanation is not None:
        answer["explain"] = item(checked.explanation)
    return answer


def _sentence(checked: Checked) -> str:
    decision = checked.decision
    needed = ", ".join(
        f"{need.required} {name}" for name, need in decision.needs.items() if need.required
    )
    unknown = [name for name, line in decision.lines.items() if line.detail == "unknown_metric"]
    if unknown:
        return f"Denied: the policy has no cost, limit or price for {', '.join(unknown)}."
    lacking = [m for m, line in decision.lines.items() if line.detail == "entitlement_required"]
    if lacking:
        return f"Denied: {', '.join(lacking)} requires a feature or tier that is not there."
    if not decision.allowed:
        return f"Denied: {decision.reason}. It needs {needed or 'no credits'}."
    units = sum(line.allowance_units for line in decision.lines.values())
    covered = f"allowances would pay {units} units, " if units else ""
    if decision.source is None:
        return f"Allowed; {covered}{'and ' if units else ''}it costs nothing."
    return f"Allowed; {covered}the {decision.source} would pay {needed}."


def _tell(told: Explanation) -> None:
    say(f"\nPolicy {told.policy_version[:12]}, at {shown_time(told.at)}")
    say("\nGates, in order; the first that fails decides")
    show_table(("gate", "of", "verdict", "because"), [_gate(one) for one in told.gates], empty="-")
    say("\nWallets")
    show_table(
        ("wallet", "credit_type", "balance", "held", "available"),
        [
            (str(one.key.subject), one.key.credit_type, one.balance, one.held, one.available)
            for one in told.wallets
        ],
        empty="none",
    )
    if told.draws:
        say("\nThese grants would pay")
        show_table(
            ("grant", "of", "quantity"),
            [(one.draw.grant_id, str(one.wallet.subject), one.draw.quantity) for one in told.draws],
            empty="none",
        )
    if told.binding is not None:
        at = told.passes_at
        say(f"\nIt would pass at {shown_time(at)}." if at else "\nWaiting will not help.")


def _gate(gate: Gate) -> tuple[str, str, str, str]:
    seen = gate.inputs
    match gate.gate:
        case "policy" if not seen["known"]:
            because = "no cost, limit or price names this metric"
        case "policy" if not seen.get("entitled", True):
            kind, name = next(iter(seen["requires"].items()))
            because = f"it requires the {kind} {name}"
        case "policy":
            because = f"{seen['units']} units cost {seen['credits']} {seen['credit_type']}"
        case "limit":
            because = (
                f"{seen['used']} used + {seen['requested']} of {seen['limit']}"
                f" in {seen['window_seconds']} s"
            )
        case "allowance":
            left = ", ".join(f"{who} has {n}" for who, n in seen["available"].items())
            because = f"{seen['covered']} of {seen['units']} units; {left}"
        case _:
            because = ", ".join(
                f"has {seen['available'][name]} of {credits} {name}"
                for name, credits in seen["required"].items()
            )
    return gate.gate, gate.metric or seen.get("subject", ""), gate.verdict, because or "free"
