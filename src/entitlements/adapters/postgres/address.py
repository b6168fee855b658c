"""The URL of a PostgreSQL database; error texts show no part of it."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

PORT: Final = 5_432
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

_OF_LIBPQ: Final = frozenset(
    (
        "channel_binding", "connect_timeout", "fallback_application_name", "gssdelegation",
        "gssencmode", "hostaddr", "keepalives", "keepalives_count", "keepalives_idle",
        "keepalives_interval", "load_balance_hosts", "replication", "require_auth", "requirepeer",
        "requiressl", "sslcertmode", "sslcompression", "sslsni", "tcp_user_timeout",
    )
)  # fmt: skip
"""Options of libpq, PostgreSQL's own client library. asyncpg would send them to the server."""

Host = tuple[str, int]
"""A host and its port."""


def hosts(url: str) -> list[Host]:
    """Return the hosts of a usable URL, in order, if it lists several."""
    listed = urlsplit(url).netloc.rpartition("@")[2].split(",")
    return [_host(one) for one in listed] if len(listed) > 1 else []


def has_option(url: str, name: str) -> bool:
    """Return whether the URL sets the option."""
    return any(given == name for given, _ in parse_qsl(urlsplit(url).query))


def problem(url: str) -> str | None:
    """Return why the driver would misread or reject the URL; None if it is usable."""
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
        if name in _OF_LIBPQ:
            return f"must not have the option {name}, which the driver asyncpg does not know"
        if value not in _CHOICES.get(name, (value,)):
            return f"must have one of {', '.join(_CHOICES[name])} as {name}"
    return None


def _host(text: str) -> Host:
    name, _, port = _split_port(text)
    return unquote(name).strip("[]"), int(port or PORT)


def _split_port(host: str) -> tuple[str, str, str]:
    """Split ``host``, ``host:port``, ``[address]`` or ``[address]:port``."""
    address, bracket, rest = host.rpartition("]")
    name, is_given, port = rest.partition(":")
    return address + bracket + name, is_given, port


def _has_usable_port(host: str) -> bool:
    _, is_given, port = _split_port(host)
    is_number = port.isascii() and port.isdigit()
    return not is_given or (is_number and 1 <= int(port) <= PORT_MAX)
