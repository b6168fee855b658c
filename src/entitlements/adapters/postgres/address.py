"""The URL of a PostgreSQL database. What is wrong with it is said without showing any of it."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl, urlsplit

PORT_MAX: Final = 65_535
_CHOICES: Final = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "target_session_attrs": (
        "any",
        "primary",
        "standby",
        "read-write",
        "read-only",
        "prefer-standby",
    ),
}


def problem(url: str) -> str | None:
    """Why the driver would not understand the URL as it was meant; None: it would."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "is not a URL"
    credentials, _, hosts = parts.netloc.rpartition("@")
    if parts.scheme not in ("postgresql", "postgres") or "://" not in url:
        return "must begin with sqlite:/// and a path, or with postgresql://"
    if "@" in credentials + parts.path or parts.fragment:
        return "must have the characters / ? # @ of a password percent-encoded"
    if not all(_has_usable_port(host) for host in hosts.split(",")):
        return "must have a number from 1 to 65535 for a port"
    return _options_problem(parts.query)


def _options_problem(query: str) -> str | None:
    try:
        options = parse_qsl(query, strict_parsing=bool(query))
    except ValueError:
        return "must have options as name=value, joined by &"
    for name, value in options:
        if value not in _CHOICES.get(name, (value,)):
            return f"must have one of {', '.join(_CHOICES[name])} as {name}"
    return None


def _has_usable_port(host: str) -> bool:
    """Of ``host``, ``host:port``, ``[address]`` or ``[address]:port``."""
    _, is_given, port = host.rpartition("]")[2].partition(":")
    is_number = port.isascii() and port.isdigit()
    return not is_given or (is_number and 1 <= int(port) <= PORT_MAX)
