"""A hand-written Kafka Produce request (version 3), for records that client libraries refuse."""

from __future__ import annotations

import socket
import struct
import time

PRODUCE = 0
VERSION = 3
_CASTAGNOLI = 0x82F63B78


def produce(bootstrap: str, topic: str, value: bytes, headers: dict[bytes, bytes]) -> None:
    """Produce one record to partition 0; header names can be any bytes."""
    host, port = bootstrap.split(":")
    batch = _batch(_record(value, headers))
    name = topic.encode()
    request = struct.pack(">hhihhhii", PRODUCE, VERSION, 1, -1, -1, -1, 5_000, 1)
    request += struct.pack(">h", len(name)) + name + struct.pack(">iii", 1, 0, len(batch)) + batch
    with socket.create_connection((host, int(port))) as broker, broker.makefile("rb") as answers:
        broker.sendall(struct.pack(">i", len(request)) + request)
        (size,) = struct.unpack(">i", answers.read(4))
        answer = answers.read(size)
    # Skip the correlation id, the topic count, the topic and the partition count.
    _, code = struct.unpack_from(">ih", answer, 4 + 4 + 2 + len(name) + 4)
    assert code == 0, code


def _record(value: bytes, headers: dict[bytes, bytes]) -> bytes:
    parts = [b"\0\0\0", _number(-1), _sized(value), _number(len(headers))]
    parts += (_sized(name) + _sized(content) for name, content in headers.items())
    return _sized(b"".join(parts))


def _batch(record: bytes) -> bytes:
    now = time.time_ns() // 1_000_000
    body = struct.pack(">hiqqqhii", 0, 0, now, now, -1, -1, -1, 1) + record
    rest = struct.pack(">ibI", -1, 2, _crc32c(body)) + body
    return struct.pack(">qi", 0, len(rest)) + rest


def _sized(content: bytes) -> bytes:
    return _number(len(content)) + content


def _number(value: int) -> bytes:
    """Encode a number as a zigzag varint."""
    left = value << 1 if value >= 0 else ~(value << 1)
    digits = bytearray()
    while left > 0x7F:
        digits.append(left & 0x7F | 0x80)
        left >>= 7
    return bytes((*digits, left))


def _crc32c(content: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (_CASTAGNOLI if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF
