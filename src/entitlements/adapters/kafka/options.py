"""Options of the Kafka library that operators can set, for example for SASL and TLS."""

from __future__ import annotations

import re
from typing import Final

REQUIRED: Final = frozenset(
    {
        "acks",
        "auto.offset.reset",
        "bootstrap.servers",
        "client.id",
        "delivery.report.only.error",
        "delivery.timeout.ms",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "enable.gapless.guarantee",
        "enable.idempotence",
        "group.id",
        "isolation.level",
        "message.timeout.ms",
        "metadata.broker.list",
        "partition.assignment.strategy",
        "request.required.acks",
        "transactional.id",
    }
)
"""Options that the service's guarantees depend on, or that have their own setting."""
_FUNCTIONS: Final = re.compile(r".*_cb|logger|on_commit|on_delivery|default\.topic\.config")
"""Options that take functions or objects."""


def parse(text: str) -> dict[str, str]:
    r"""Parse ``name=value,name=value``; a comma within a value is written ``\,``.

    Raises ValueError, which shows names only.
    """
    options: dict[str, str] = {}
    for item in re.split(r"(?<!\\),", text):
        name, is_given, value = item.partition("=")
        name = name.strip()
        if not is_given or not re.fullmatch(r"[a-z][a-z0-9._]*", name):
            raise ValueError(r"must be name=value,name=value, with \, for a comma within a value")
        if name in REQUIRED:
            raise ValueError(f"{name} is managed by the service and cannot be set")
        if _FUNCTIONS.fullmatch(name):
            raise ValueError(f"{name} is not a text option")
        if name in options:
            raise ValueError(f"{name} is given twice")
        options[name] = value.strip().replace(r"\,", ",")
    return options


def parse_servers(text: str) -> str:
    """Validate ``host:port,host:port``, the format of the library. Raises ValueError."""
    servers = [server.strip() for server in text.split(",")]
    for server in servers:
        host = re.fullmatch(r"(?:[a-zA-Z_]+://)?(?:\[[0-9a-fA-F:.%]+\]|[\w.-]+)(?::(\d+))?", server)
        if host is None or not 1 <= int(host[1] or 1) <= 65_535:  # noqa: PLR2004 - the last port
            raise ValueError("must be host:port, several separated by commas")
    return ",".join(servers)
