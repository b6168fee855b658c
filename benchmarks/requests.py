"""The same requests that wrk sends, for clients written in Python."""

from random import Random

CHECK = "/v1/entitlements/check-credits/bulk"
CONSUME = "/v1/entitlements/consume-credits"
HOLD = "/v1/entitlements/holds"
YES = {
    "check": b'"allowed":true',
    "explain": b'"draws":[{',
    "consume": b'"success":true',
    "hold": b'"source":"',
}
STEPS = {"hold": 2}
"""How many requests make one of a kind, where it is more than one."""


def request(kind: str, *, who: str, name: str, token: str, random: Random) -> bytes:
    """One whole HTTP request; ``who`` is a number of users or an organisation's id."""
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
