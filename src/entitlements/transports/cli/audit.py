"""The audit command."""

from datetime import datetime
from typing import Any

from entitlements.app.operations.audit import audit_item
from entitlements.app.ports import AuditQuery
from entitlements.core.model import AuditEntry
from entitlements.transports.cli.asking import text_filter
from entitlements.transports.cli.ledger import Injected, SubjectName, aware, subject_of
from entitlements.transports.cli.listings import listed
from entitlements.transports.cli.output import AsJson, Database, LongLimit, show_json, show_table


async def audit(
    *,
    program: Injected,
    actor: str | None = None,
    action: str | None = None,
    subject: SubjectName | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: LongLimit = 100,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """List administrative acts, newest first; omitted filters match all.

    Parameters
    ----------
    actor
        The id of an API key, or a name given with --as.
    action
        The action, for example policy.activate.
    since
        From this time on; UTC unless it has a time zone.
    until
        Before this time.
    """
    holder = subject_of(subject) if subject is not None else None
    query = AuditQuery(
        actor=text_filter("--actor", actor),
        action=text_filter("--action", action),
        subject_type=holder.type if holder else None,
        subject_id=holder.id if holder else None,
        since=aware(since),
        until=aware(until),
        limit=limit,
    )
    async with program.store(database) as store:
        entries = await listed(store.acts.audit, query)
    if json:
        show_json([audit_item(entry) for entry in entries])
    else:
        show_table(("at", "actor", "action", "of", "reason"), map(_line, entries), empty="no acts")


def _line(entry: AuditEntry) -> tuple[Any, ...]:
    named = entry.subject or entry.detail.get("name") or entry.detail.get("version")
    return (entry.at, entry.actor, entry.action, named, entry.reason)
