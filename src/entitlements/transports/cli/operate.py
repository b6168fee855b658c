"""Commands that run the service and maintain its database."""

from typing import Literal

from entitlements.transports.cli.ledger import Injected
from entitlements.transports.cli.output import (
    AsJson,
    Database,
    Failed,
    Whole,
    say,
    show_json,
)


async def migrate(
    *,
    program: Injected,
    service_role: str | None = None,
    database: Database = None,
    json: AsJson = False,
) -> None:
    """Apply pending migrations; safe while services run.

    Parameters
    ----------
    service_role
        PostgreSQL role of the service: it gets the rights that the service needs, and no others.
    """
    applied, hints = await program.migrate(database, service_role)
    if json:
        show_json({"applied": applied, "service_role": service_role, "hints": hints})
        return
    say(f"applied {', '.join(applied)}" if applied else "nothing to apply")
    if service_role:
        say(f"{service_role} may run the service")
    for hint in hints:
        say(hint)


async def verify(*, program: Injected, database: Database = None, json: AsJson = False) -> None:
    """Check the ledger's invariants; exit code 1 if any is violated."""
    findings = await program.verify(database)
    if json:
        show_json({"balanced": not findings, "findings": findings})
    for finding in [] if json else findings:
        say(str(finding))
    if findings:
        raise Failed(f"the books do not balance: {len(findings)} findings")
    if not json:
        say("The books balance.")


def completion(shell: Literal["bash", "zsh", "fish"]) -> None:
    """Print the completion script of a shell."""
    from entitlements.transports.cli.app import commands

    say(commands().generate_completion(shell=shell))


async def serve(
    *,
    program: Injected,
    host: str | None = None,
    port: Whole | None = None,
    workers: Whole | None = None,
    database: Database = None,
) -> None:
    """Run the service until SIGTERM or Ctrl-C.

    Parameters
    ----------
    host
        The address to listen on; default: ENTITLEMENTS_HTTP_HOST, or this machine only.
    port
        Default: ENTITLEMENTS_HTTP_PORT, or 8083.
    workers
        Number of processes behind the port; default: ENTITLEMENTS_WORKERS, or 1. Several need
        PostgreSQL, and Redis for their rate limits.
    """
    await program.serve(database, host, port, workers)
