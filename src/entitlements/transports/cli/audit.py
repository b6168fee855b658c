"""The audit log by hand."""

from datetime import datetime
from typing import Any

from entitlements.app.requests import audit as requests
from entitlements.contracts import verbs
from entitlements.contracts.http import AuditFilter, AuditItem
from entitlements.transports.cli.asking import asking
from entitlements.transports.cli.ledger import Injected, SubjectName, aware, subject_of
from entitlements.transports.cli.output import AsJson, Database, Limit, show_json, show_table


async def audit(
    *,
    program: Injected,
    actor: str | None = None,
    action: str | None = None,
    subject: SubjectName | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: Limit = 100,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """List administrative acts, newest first; filters left out match all.

    Parameters
    ----------
    actor
        Who did it: the id of an API key, or a name as of --as.
    action
        What was done, as policy.activate.
    since
        From this time on; without a zone it is UTC.
    until
        Before this time.
    """
    holder = subject_of(subject) if subject is not None else None
    wanted = AuditFilter(
        actor=actor,
        action=action,
        subject_type=holder.type if holder else None,
        subject_id=holder.id if holder else None,
        since=aware(since),
        until=aware(until),
        limit=limit,
    )
    async with asking(program, database, "", verbs.AUDIT) as request:
        entries = (await requests.audit(request, wanted)).entries
    if json:
        show_json(entries)
    else:
        show_table(("at", "actor", "action", "of", "reason"), map(_line, entries), empty="no acts")


def _line(entry: AuditItem) -> tuple[Any, ...]:
    subject = f"{entry.subject_type}:{entry.subject_id}" if entry.subject_type else None
    return (entry.at, entry.actor, entry.action, subject, entry.reason)
