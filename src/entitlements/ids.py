"""Identifiers that sort by time: UUID version 7 (RFC 9562, section 5.7), as text."""

from __future__ import annotations

import os
import time
from uuid import UUID

_ENDS = ("00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff")
_RANDOM_BITS = (1 << 62) - 1
_FETCHED = 512
"""Random numbers read per system call: a call for each would cost a tenth of a request."""


def is_uuid(text: str) -> bool:
    """Return whether it is a UUID in canonical form; Python accepts forms that databases refuse."""
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False


def span(start: str) -> tuple[str, str] | None:
    """Return the first and the last possible id with this prefix; None if the prefix is invalid."""
    first, last = (start + end[len(start) :] for end in _ENDS)
    return (first, last) if is_uuid(first) and is_uuid(last) else None


def uuid7() -> str:
    """Return a new id: 48 bits of milliseconds, 74 random bits."""
    milliseconds = time.time_ns() // 1_000_000
    random = _random()
    value = milliseconds << 80 | 0x7 << 76 | (random >> 62 & 0xFFF) << 64 | 0x2 << 62
    digits = f"{value | random & _RANDOM_BITS:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _random() -> int:
    """Return 80 random bits, each number once. Pop and extend are atomic, so no lock is needed."""
    while True:
        try:
            return _randoms.pop()
        except IndexError:
            block = os.urandom(10 * _FETCHED)
            _randoms.extend(
                int.from_bytes(block[at : at + 10], "big") for at in range(0, len(block), 10)
            )


_randoms: list[int] = []
# A forked child must not repeat its parent's numbers.
os.register_at_fork(after_in_child=_randoms.clear)
