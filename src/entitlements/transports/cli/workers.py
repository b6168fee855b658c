"""Background work in processes of their own."""

from entitlements.transports.cli.ledger import Injected
from entitlements.transports.cli.output import Database


async def consumer(*, program: Injected, database: Database = None) -> None:
    """Read the platform's events from Kafka until told to stop; any number may run.

    ENTITLEMENTS_METRICS_PORT, if it is set, answers /metrics, /healthz and /livez.
    """
    await program.work_consumer(database)


async def relay(*, program: Injected, database: Database = None) -> None:
    """Ship events to Kafka until told to stop; any number may run.

    ENTITLEMENTS_METRICS_PORT, if it is set, answers /metrics, /healthz and /livez.
    """
    await program.work_relay(database)
