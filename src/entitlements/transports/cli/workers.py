"""Commands that run background work in separate processes."""

from entitlements.transports.cli.ledger import Injected
from entitlements.transports.cli.output import Database


async def consumer(*, program: Injected, database: Database = None) -> None:
    """Read the platform's events until SIGTERM or Ctrl-C."""
    await program.work_consumer(database)


async def relay(*, program: Injected, database: Database = None) -> None:
    """Publish events until SIGTERM or Ctrl-C."""
    await program.work_relay(database)
