"""The addresses that a host binds to."""

import socket

import pytest

from entitlements.transports.http.listening import bind
from tests.servers import free_port


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_the_unspecified_ipv6_address_listens_on_ipv4_too(address: str) -> None:
    (taken,) = bind("::", free_port())
    with taken:
        taken.listen()

        with socket.create_connection((address, taken.getsockname()[1])) as connected:
            assert connected.getpeername()[1] == taken.getsockname()[1]
