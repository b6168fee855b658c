"""The pictures of the docs, drawn from what an engine does on a settable clock.

``python -m tests.pictures`` writes them to docs/pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

from entitlements.contracts import http
from entitlements.testing import Authority, Clock, authority

FOLDER: Final = Path(__file__).parents[1] / "docs" / "pictures"
START: Final = datetime(2026, 1, 1, tzinfo=UTC)
COLOURS: Final = ("#0b6e99", "#e08e2b", "#5f8f4e")
WIDTH, HEIGHT = 640, 250
NAMESPACE: Final = "http://www.w3.org/2000/svg"
LEFT, TOP, RIGHT, BOTTOM = 52, 34, 12, 40


class Line(NamedTuple):
    """A name, and a quantity for each day."""

    name: str
    values: Sequence[int]


def burn_down() -> str:
    """Draw how three grants of one wallet are used up by the same consumption each day."""
    with authority(policy="costs: {call: 1}\n", clock=Clock(START)) as engine:
        grants = [
            _grant(engine, 120, expires_at=START + timedelta(days=20)),
            _grant(engine, 200, priority=10, granted_at=START + timedelta(days=8)),
            _grant(engine, 300),
        ]
        names = ("expires on day 20", "priority 10, starts on day 8", "bought, never expires")
        left = _days(engine, 40, 11, lambda: [_left(engine, one) for one in grants])
    lines = [
        Line(name, values) for name, values in zip(names, zip(*left, strict=True), strict=True)
    ]
    return chart("Credits left of three grants; 11 are used each day", _stacked(lines), lines)


def renewal() -> str:
    """Draw what is left of three allowances of 300 a month that are used alike."""
    kinds: dict[str, dict[str, Any]] = {
        "decremental": {},
        "renewable": {"consumption_type": "renewable", "metadata": {"reset_day": 1}},
        "accumulative, rollover_cap 100": {
            "consumption_type": "accumulative",
            "metadata": {"reset_day": 1, "rollover_cap": 100},
        },
    }
    lines = []
    for name, fields in kinds.items():
        with authority(policy="costs: {call: 1}\n", clock=Clock(START)) as engine:
            given = _grant(engine, 300, kind="usage_allowance", metric="call", **fields)

            def left(engine: Authority = engine, given: str = given) -> list[int]:
                return [_left(engine, given)]

            lines.append(Line(name, [value for (value,) in _days(engine, 90, 7, left)]))
    return chart("Units left of an allowance of 300; 7 are used each day", lines, lines)


def _grant(
    engine: Authority, quantity: int, kind: http.EntitlementType = "credit_grant", **fields: Any
) -> str:
    given: dict[str, Any] = {"credit_type": "credits"} if kind == "credit_grant" else {}
    granted = engine.sync.grant(
        user_id="ada",
        entitlement_type=kind,
        grant_reason="purchase",
        quantity=quantity,
        **(given | fields),
    )
    return granted.id


def _left(engine: Authority, grant_id: str) -> int:
    shown = engine.sync.entitlement(grant_id)
    return shown.remaining or 0 if shown.status == "active" else 0


def _days(
    engine: Authority, days: int, used: int, look: Callable[[], list[int]]
) -> list[list[int]]:
    """Consume each day and return what ``look`` finds at its end."""
    found = [look()]
    for day in range(1, days + 1):
        engine.sync.consume(user_id="ada", metric="call", amount=used, key=f"day-{day}")
        engine.clock.advance(days=1)
        found.append(look())
    return found


def _stacked(lines: Iterable[Line]) -> list[Line]:
    """Return the lines on top of each other."""
    total = [0] * 1000
    stacked = []
    for name, values in lines:
        total = [before + value for before, value in zip(total, values, strict=False)]
        stacked.append(Line(name, total))
    return stacked


def chart(title: str, tops: Sequence[Line], lines: Sequence[Line]) -> str:
    """Return an SVG: areas if the ``tops`` are stacked, else lines."""
    is_stacked = tops is not lines
    days = len(tops[0].values) - 1
    most = max(max(line.values) for line in tops)

    def point(day: int, value: int) -> str:
        x = LEFT + day * (WIDTH - LEFT - RIGHT) / days
        y = HEIGHT - BOTTOM - value * (HEIGHT - TOP - BOTTOM) / most
        return f"{x:.1f},{y:.1f}"

    shapes = []
    floor: Sequence[int] = [0] * (days + 1)
    for (_, values), colour in zip(tops, COLOURS, strict=True):
        path = [point(day, value) for day, value in enumerate(values)]
        if is_stacked:
            path += [point(day, floor[day]) for day in range(days, -1, -1)]
            shapes.append(f'<polygon points="{" ".join(path)}" fill="{colour}"/>')
        else:
            style = f'fill="none" stroke="{colour}" stroke-width="2"'
            shapes.append(f'<polyline points="{" ".join(path)}" {style}/>')
        floor = values
    return _page(title, [*_axes(days, most, point), *shapes, *_legend(lines)])


def _axes(days: int, most: int, point: Callable[[int, int], str]) -> list[str]:
    drawn = []
    for value in (0, most // 2, most):
        x, y = point(0, value).split(",")
        end = point(days, value).split(",")[0]
        drawn.append(f'<line x1="{x}" y1="{y}" x2="{end}" y2="{y}" stroke="#ccc"/>')
        drawn.append(f'<text x="{LEFT - 6}" y="{y}" text-anchor="end">{value}</text>')
    for day in range(0, days + 1, 10):
        x, y = point(day, 0).split(",")
        drawn.append(f'<text x="{x}" y="{float(y) + 15:.1f}" text-anchor="middle">{day}</text>')
    return drawn


def _legend(lines: Sequence[Line]) -> list[str]:
    drawn, x = [], LEFT
    for line, colour in zip(lines, COLOURS, strict=True):
        drawn.append(f'<rect x="{x}" y="{HEIGHT - 14}" width="10" height="10" fill="{colour}"/>')
        drawn.append(f'<text x="{x + 14}" y="{HEIGHT - 5}">{line.name}</text>')
        x += 40 + 6 * len(line.name)
    return drawn


def _page(title: str, shapes: Iterable[str]) -> str:
    return "\n".join(
        (
            f'<svg xmlns="{NAMESPACE}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"',
            f'  aria-label="{title}" font-family="sans-serif" font-size="11">',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
            f'<text x="{LEFT}" y="18" font-size="13">{title}</text>',
            *shapes,
            "</svg>",
            "",
        )
    )


PICTURES: Final[dict[str, Callable[[], str]]] = {
    "burn-down.svg": burn_down,
    "renewal.svg": renewal,
}

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, draw in PICTURES.items():
        (FOLDER / name).write_text(draw(), "utf-8")
