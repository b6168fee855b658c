"""The client without a service."""

from entitlements.client import Client
from entitlements.contracts.errors import Unavailable

found = None
with Client("http://127.0.0.1:1", key="ent_none") as client:
    try:
        client.balance("ada")
    except Unavailable as error:
        found = error
assert found is not None
