"""Round trips, counted between a real client and a real server."""

import socket
from collections.abc import Iterator

import pytest

from benchmarks.trips import counting

ROW = b"D\0\0\0\x06\0\0"
READY = b"Z\0\0\0\x05I"


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(10)
        yield listening


class Pair:
    """Both ends of a connection through the proxy."""

    def __init__(self, server: socket.socket, port: int) -> None:
        self.client = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.served, _ = server.accept()
        self.served.settimeout(10)

    def ask(self, *parts: bytes) -> None:
        for part in parts:
            self.client.sendall(part)
            _receive(self.served, len(part))

    def answer(self, *parts: bytes) -> None:
        for part in parts:
            self.served.sendall(part)
            _receive(self.client, len(part))

    def close(self) -> None:
        self.client.close()
        self.served.close()


def _receive(end: socket.socket, length: int) -> None:
    while length:
        length -= len(end.recv(length))


def test_a_pipelined_burst_with_its_response_is_one_round_trip(server: socket.socket) -> None:
    with counting(f"postgresql://me@127.0.0.1:{server.getsockname()[1]}/bench") as counter:
        pair = Pair(server, int(counter.url.rpartition(":")[2].partition("/")[0]))

        with counter.lap():
            pair.ask(b"parse", b"bind", b"execute")
            pair.answer(ROW, ROW, READY)
            pair.ask(b"commit")
            pair.answer(READY)

        assert counter.turns == 2
        pair.close()


def test_messages_count_once_however_they_are_cut(server: socket.socket) -> None:
    with counting(f"postgresql://me@127.0.0.1:{server.getsockname()[1]}/bench") as counter:
        pair = Pair(server, int(counter.url.rpartition(":")[2].partition("/")[0]))
        answer = ROW + READY + ROW + b"D\0\0\0\x05Z" + READY

        with counter.lap():
            pair.ask(b"copy")
            pair.answer(b"N", *[answer[n : n + 1] for n in range(len(answer))])

        assert counter.turns == 2
        pair.close()


def test_round_trips_are_counted_per_connection(server: socket.socket) -> None:
    with counting(f"postgresql://me@127.0.0.1:{server.getsockname()[1]}/bench") as counter:
        port = int(counter.url.rpartition(":")[2].partition("/")[0])
        one, other = Pair(server, port), Pair(server, port)

        with counter.lap():
            one.ask(b"select")
            other.ask(b"select")
            other.answer(READY)
            one.answer(READY)

        assert counter.turns == 2
        one.close()
        other.close()


def test_unsolicited_server_messages_are_not_round_trips(server: socket.socket) -> None:
    with counting(f"postgresql://me@127.0.0.1:{server.getsockname()[1]}/bench") as counter:
        pair = Pair(server, int(counter.url.rpartition(":")[2].partition("/")[0]))

        with counter.lap():
            pair.answer(ROW)

        assert counter.turns == 0
        pair.close()


def test_only_round_trips_of_the_lap_are_counted(server: socket.socket) -> None:
    with counting(f"postgresql://me@127.0.0.1:{server.getsockname()[1]}/bench") as counter:
        pair = Pair(server, int(counter.url.rpartition(":")[2].partition("/")[0]))
        pair.ask(b"connect")
        pair.answer(READY)

        with counter.lap():
            pair.ask(b"select")
            pair.answer(READY)

        assert counter.turns == 1
        pair.close()


def test_the_counter_keeps_the_user_and_the_database(server: socket.socket) -> None:
    with counting(f"postgresql://me@127.0.0.1:{server.getsockname()[1]}/bench") as counter:
        assert counter.url.startswith("postgresql://me@127.0.0.1:")
        assert counter.url.endswith("/bench")
