"""Named points in the code where a test makes the process die or wait; inactive by default.

``ENTITLEMENTS_FAILPOINT=NAME:N`` kills the process, as SIGKILL does, when it passes NAME for the
N-th time.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

NAMES = (
    "queued",
    "loaded",
    "decided",
    "mid-record",
    "before-commit",
    "committed-unanswered",
    "answered-unrecorded",
)
"""The failpoints of a batch, in order."""
OF_EVENTS = ("charged", "buried")
"""Failpoints after the results of events are stored and before their offsets are committed."""
_actions: dict[str, Callable[[], None]] = {}


def hit(name: str) -> None:
    """Pass the failpoint."""
    if _actions and name in _actions:
        _actions[name]()


def on(name: str, action: Callable[[], None]) -> None:
    """Run ``action`` each time the failpoint is passed, until `clear`."""
    assert name in NAMES + OF_EVENTS, name
    _actions[name] = action


def clear() -> None:
    _actions.clear()


def arm_from_environment() -> None:
    """Set the failpoint that the environment names; called once at start."""
    wanted = os.environ.get("ENTITLEMENTS_FAILPOINT")
    if wanted is None:
        return
    name, _, count = wanted.partition(":")
    left = int(count or 1)

    def die() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    on(name, die)
