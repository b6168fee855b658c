"""The same requests that wrk sends, for clients written in Python."""

import socket
from itertools import count
from random import Random
from urllib.parse import urlsplit

from benchmarks.sides import Lacking
from benchmarks.wallets import FEATURE

CHECK = "/v1/entitlements/check-credits/bulk"
ACCESS = "/v1/entitlements/check"
CONSUME = "/v1/entitlements/consume-credits"
HOLD = "/v1/entitlements/holds"
YES = {
    "check": b'"allowed":true',
    "explain": b'"draws":[{',
    "access": b'"has_access":true',
    "consume": b'"success":true',
    "hold": b'"source":"',
}
STEPS = {"hold": 2}
"""The number of requests per operation of a kind, if more than one."""
NO_ROUTE = (b"404", b"405")

_probes = count(1)


def request(kind: str, *, who: str, name: str, token: str, random: Random) -> bytes:
    """Return one HTTP request; ``who`` is a number of users or an organisation's id."""
    if who.isdecimal():
        payer = f'"user_id":"user-{random.randint(1, int(who))}"'
    else:
        payer = f'"user_id":"teacher","org_id":"{who}"'
    if kind in {"check", "explain"}:
        path, asked = (
            CHECK + ("?explain=true" if kind == "explain" else ""),
            (
                '"requirements":{"cj_comparison":45,"ai_feedback_generation":10,"spellcheck":10},'
                '"correlation_id":"batch-1"'
            ),
        )
    elif kind == "access":
        path, asked = ACCESS, f'"entitlement_type":"feature_unlock","feature":"{FEATURE}"'
    elif kind == "hold":
        path, asked = HOLD, '"requirements":{"cj_comparison":2}'
    else:
        path, asked = (
            CONSUME,
            (f'"metric":"cj_comparison","amount":1,"batch_id":"batch-1","correlation_id":"{name}"'),
        )
    body = f"{{{payer},{asked}}}"
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {token}\r\nIdempotency-Key: {name}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


def answer(url: str, whole: bytes) -> bytes:
    """Send one request on a new connection, and return the head and body of the response."""
    where = urlsplit(url)
    with socket.create_connection((where.hostname, where.port), timeout=10) as connection:
        connection.sendall(whole.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        return b"".join(iter(lambda: connection.recv(65_536), b""))


def refuse_lacking(url: str, kind: str, *, who: str, token: str) -> None:
    """Raise Lacking if the service has no route for this kind of request."""
    name = f"probe-{next(_probes)}"
    whole = request(kind, who=who, name=name, token=token, random=Random(1))
    status = answer(url, whole).split(b" ", 2)[1]
    if status in NO_ROUTE:
        raise Lacking(f"no route for {kind}: {status.decode()}")
