"""The headers of denials: RateLimit, RateLimit-Policy and Retry-After."""

from urllib.parse import quote

from entitlements.app.credits.checks import Checked
from entitlements.app.operations.refusals import ExceededLimits, longest_wait_s, seconds
from entitlements.core.windows import WindowKey


def headers_of_check(checked: Checked) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers of a check.

    Retry-After alone if lapsing holds will let the same request pass, else the limit headers.
    """
    if checked.retry_after_s is not None:
        return ((b"retry-after", str(checked.retry_after_s).encode()),)
    return headers(checked.decision.exceeded)


def headers(exceeded: ExceededLimits) -> tuple[tuple[bytes, bytes], ...]:
    """Return RateLimit, RateLimit-Policy and Retry-After for the exceeded limits.

    The first two follow the IETF draft on RateLimit fields, version 10. Retry-After is left out if
    the request would never pass.
    """
    if not exceeded:
        return ()
    policies, states = [], []
    for ask, standing in exceeded:
        name = _name(ask.window)
        wait = "" if standing.passes_in_ms is None else f";t={seconds(standing.passes_in_ms)}"
        policies.append(f'"{name}";q={ask.limit};w={ask.window.window_s}')
        states.append(f'"{name}";r={max(0, ask.limit - standing.used)}{wait}')
    found = (
        (b"ratelimit-policy", ", ".join(policies).encode()),
        (b"ratelimit", ", ".join(states).encode()),
    )
    longest_s = longest_wait_s(exceeded)
    return found if longest_s is None else (*found, (b"retry-after", str(longest_s).encode()))


def _name(window: WindowKey) -> str:
    """Return a name that is unique in the request: printable ASCII without quotes."""
    return f"{quote(window.metric, safe='')}/{window.subject.type}/{window.window_s}"
