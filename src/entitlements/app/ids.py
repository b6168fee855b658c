"""Identifiers that sort by time: UUID version 7 (RFC 9562, section 5.7), as text."""

from __future__ import annotations

import os
import time

_RANDOM_BITS = (1 << 62) - 1


def uuid7() -> str:
    """A new id: 48 bits of milliseconds, 74 random bits."""
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10), "big")
    value = milliseconds << 80 | 0x7 << 76 | (random >> 62 & 0xFFF) << 64 | 0x2 << 62
    digits = f"{value | random & _RANDOM_BITS:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
