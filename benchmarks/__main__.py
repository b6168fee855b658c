"""Measure this checkout, alone against its floors or side by side with others.

Alone it writes RESULTS.md; with --against it prints a comparison and writes COMPARISON.md.
"""

import argparse
import contextlib
import signal
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from benchmarks.compare import ROUNDS_MAX, ROUNDS_MIN
from benchmarks.comparison import render_comparison
from benchmarks.peaks import Peaks
from benchmarks.places import DUE_AT_ONCE, DUE_AT_ONCE_QUICK, MILLION_WALLETS, OPERATIONS
from benchmarks.report import render
from benchmarks.run import Run, rows_of, select
from benchmarks.servers import Servers
from benchmarks.sides import Side, sides
from benchmarks.suite import Suite

HERE = Path(__file__).parent
RESULTS, COMPARISON = HERE / "RESULTS.md", HERE / "COMPARISON.md"
RESERVE = 0.1
"""The share of the time reserved for verifying the ledgers at the end."""

EXAMPLES = """
examples:
  python -m benchmarks                                        every row, 3 rounds of 3 s
  python -m benchmarks --rows '^(check|consume), hot'         some rows
  python -m benchmarks --against ../release --rows in.process compared with another checkout
  python -m benchmarks --list                                 the names of the rows
The same by make: make bench AGAINST="../release ../main" ROWS='half load'
"""


class Options(argparse.Namespace):
    against: list[Path]
    rows: str
    rounds: int | None
    seconds: int | None
    minutes: int
    operations: int
    renewals: int | None
    quick: bool
    list: bool


def main() -> None:
    options = parsed()
    # Exit through every `finally`, so that no server or service outlives this process.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda got, _frame: _leave(got))
    if options.list:
        print("\n".join(names_of_rows(options)))
        return
    page, has_failed = run(options)
    print(page)
    if not options.quick and options.against:
        COMPARISON.write_text(page, encoding="utf-8")
    elif not options.quick and not options.rows:
        RESULTS.write_text(page, encoding="utf-8")
    if has_failed:
        raise SystemExit("some rows failed, see above")


def run(options: Options) -> tuple[str, bool]:
    """Run the rows round by round, so that a slow minute affects both sides of a ratio.

    Return the page, and whether something failed.
    """
    started = time.monotonic()
    compared = sides(options.against)
    is_alone = len(compared) == 1
    seconds = 1 if options.quick else options.seconds or (3 if is_alone else 1)
    rounds = 1 if options.quick else options.rounds or (3 if is_alone else ROUNDS_MIN)
    minutes = float("inf") if is_alone else options.minutes * (1 - RESERVE)
    with tempfile.TemporaryDirectory() as home, contextlib.ExitStack() as stack:
        servers, suites = _suites(stack, Path(home), compared, options)
        rows = rows_of(servers, suites)
        names = select((cell.row for cell in rows), options.rows)
        for side in compared:
            print(f"{side.name}: commit {side.commit}, {side.build}", flush=True)
            if side.build.warning:
                print(f"WARNING: {side.name}: {side.build.warning}", flush=True)
        places = {suite.side.name: suite.places for suite in suites}
        measure = Run(
            rows,
            list(places),
            names,
            rounds=rounds,
            rounds_max=rounds if options.quick else ROUNDS_MAX,
            seconds=seconds,
            deadline=started + minutes * 60,
            settle=servers.settle,
            counted=lambda side: places[side].stop_counting(),
        )
        results = measure()
        print(f"measured in {(time.monotonic() - started) / 60:.0f} minutes", flush=True)
        notes = [f"{side}: {note}" for side, place in places.items() for note in place.notes]
        memory = {side: place.memory() for side, place in places.items()}
        has_failed = not _closed(stack)
    # Services have stopped, and their ledgers have been verified.
    has_failed |= bool(results.failed) or any(side.failures for side in compared)
    if is_alone:
        only = compared[0]
        page = render(results, only, memory[only.name], notes, rounds=rounds, seconds=seconds)
        return page, has_failed
    return render_comparison(results, compared, memory, notes, seconds=seconds), has_failed


def _closed(stack: contextlib.ExitStack) -> bool:
    """Stop everything. A failure is printed and does not lose the measurements."""
    try:
        stack.close()
    except Exception:  # noqa: BLE001 -- see above
        traceback.print_exc()
        return False
    return True


def names_of_rows(options: Options) -> list[str]:
    """The rows that the options select; nothing is started."""
    with tempfile.TemporaryDirectory() as home, contextlib.ExitStack() as stack:
        servers, suites = _suites(stack, Path(home), sides([]), options)
        return select((cell.row for cell in rows_of(servers, suites)), options.rows)


def _suites(
    stack: contextlib.ExitStack, home: Path, compared: Sequence[Side], options: Options
) -> tuple[Servers, list[Suite]]:
    peaks = Peaks()
    servers = Servers(stack, peaks)
    suites = []
    renewals = options.renewals or (DUE_AT_ONCE_QUICK if options.quick else DUE_AT_ONCE)
    for side in compared:
        folder = home / f"side{side.number}"
        folder.mkdir()
        suites.append(
            Suite(
                stack,
                folder,
                side,
                servers,
                peaks,
                operations=options.operations,
                renewals=renewals,
            )
        )
    return servers, suites


def parsed(arguments: Sequence[str] | None = None) -> Options:
    """Parse the arguments, by default those of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--against",
        action="append",
        type=Path,
        default=[],
        metavar="FOLDER",
        help="another checkout to compare with; may be repeated",
    )
    parser.add_argument(
        "--rows", default="", metavar="PATTERN", help="rows that match the regular expression"
    )
    parser.add_argument("--list", action="store_true", help="print the names of the rows, and end")
    parser.add_argument("--quick", action="store_true", help="one round of 1 s; no file is written")
    parser.add_argument("--rounds", type=int, help="3; with --against 5, and more until a verdict")
    parser.add_argument("--seconds", type=int, help="length of a window: 3, or 1 with --against")
    parser.add_argument(
        "--minutes", type=int, default=60, help="with --against, no more rounds after these (60)"
    )
    parser.add_argument(
        "--operations",
        type=int,
        default=OPERATIONS,
        help=f"in the database of {MILLION_WALLETS:,} wallets ({OPERATIONS:,})",
    )
    parser.add_argument(
        "--renewals",
        type=int,
        help=f"wallets due at once: {DUE_AT_ONCE:,}, or {DUE_AT_ONCE_QUICK:,} with --quick",
    )
    return parser.parse_args(arguments, namespace=Options())


def _leave(number: int) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main()
