"""Binding of the listening sockets, before anything else is started."""

import errno
import socket
from contextlib import ExitStack


def bind(host: str, port: int) -> list[socket.socket]:
    """Return a bound socket for each address of ``host``, not listening yet.

    The socket of ``::`` also accepts IPv4. Raise OSError after closing all sockets.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    absent: OSError | None = None
    bound: list[socket.socket] = []
    with ExitStack() as closing:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            taken = closing.enter_context(socket.socket(family, kind, protocol))
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                taken.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != "::")
            try:
                taken.bind(address)
            except OSError as error:
                # A name can resolve to addresses of a family that this machine does not have.
                if error.errno != errno.EADDRNOTAVAIL:
                    raise
                absent = error
            else:
                bound.append(taken)
        if not bound and absent is not None:
            raise absent
        closing.pop_all()
    return bound
