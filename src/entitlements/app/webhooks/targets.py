"""Validation of webhook URLs and event filters."""

from __future__ import annotations

import re
from collections.abc import Collection
from difflib import get_close_matches
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final
from urllib.parse import urlsplit

URL_MAX: Final = 2_048
PATTERNS_MAX: Final = 50
_PATTERN: Final = re.compile(r"[A-Za-z0-9._*-]{1,255}")
_VISIBLE: Final = re.compile(r"[!-~]+")
_REFUSED: Final = tuple(
    map(
        ip_network,
        (
            "64:ff9b::/96",  # NAT64: maps to any IPv4 address
            "64:ff9b:1::/48",  # the same, for local use
            "2002::/16",  # 6to4: contains an IPv4 address
            "2001::/32",  # Teredo: the same
            "fec0::/10",  # former site-local addresses
            "192.88.99.0/24",  # relays of 6to4
            "192.0.0.0/24",  # protocol assignments; some clouds serve machine metadata here
            "168.63.129.16/32",  # the same, of one cloud
        ),
    )
)
"""Addresses that some versions of the standard library treat as public."""


def url_problem(url: str, *, allow_http: bool) -> str | None:
    """Return why the URL cannot be an endpoint, apart from its host's addresses; None if it can."""
    if len(url) > URL_MAX or not _VISIBLE.fullmatch(url):
        return f"must have 1 to {URL_MAX} visible ASCII characters"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is not a URL"
    if parts.scheme != "https" and not (allow_http and parts.scheme == "http"):
        return "must begin with https://"
    problems = {
        "must name a host": not parts.hostname or port == 0,
        "must not contain credentials": "@" in parts.netloc,
        "must not have a fragment or a backslash": "#" in url or "\\" in url,
    }
    return next((problem for problem, applies in problems.items() if applies), None)


def is_public(address: str) -> bool:
    """Whether the address is public. One that tunnels or maps to IPv4 does not count as public."""
    ip = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        return False
    if not ip.is_global or ip.is_multicast or ip.is_reserved:
        return False
    return not any(ip in network for network in _REFUSED)


def pattern_problem(patterns: tuple[str, ...], event_types: Collection[str]) -> str | None:
    """Return why these patterns cannot filter the event types; None if each matches one."""
    if not 1 <= len(patterns) <= PATTERNS_MAX:
        return f"must be 1 to {PATTERNS_MAX} patterns"
    for pattern in patterns:
        if not _PATTERN.fullmatch(pattern):
            return f"{pattern!r} is not an event type, in which * matches anything"
        if not any(_as_regex(pattern).fullmatch(one) for one in event_types):
            near = get_close_matches(pattern, event_types, n=1, cutoff=0)
            return f"{pattern!r} matches no event; did you mean {near[0]}?"
    return None


def _as_regex(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, pattern.split("*"))))
