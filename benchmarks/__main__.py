"""`python -m benchmarks [--quick] [--only NAME]`: measure, and write RESULTS.md."""

import argparse
import contextlib
import tempfile
from pathlib import Path

from benchmarks.report import render
from benchmarks.suite import Suite
from benchmarks.wrk import Sample

RESULTS = Path(__file__).parent / "RESULTS.md"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round, kept nowhere")
    parser.add_argument("--only", default="", metavar="NAME", help="loads whose name contains NAME")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3)
    chosen = parser.parse_args()
    rounds, seconds = (1, 1) if chosen.quick else (chosen.rounds, chosen.seconds)
    page = run(rounds, seconds, only=chosen.only)
    print(page)
    if not chosen.quick and not chosen.only:
        RESULTS.write_text(page, encoding="utf-8")


def run(rounds: int, seconds: int, *, only: str) -> str:
    """Run all loads in turn, round by round: a slow minute then hits both sides of a ratio."""
    samples: dict[str, list[Sample]] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        suite = Suite(stack, Path(folder))
        measures = {name: run for name, run in suite.measures().items() if only in name}
        for number in range(1, rounds + 1):
            suite.settle()
            for name, measure in measures.items():
                sample = measure(seconds)
                samples.setdefault(name, []).append(sample)
                p99 = "" if sample.p99_ms is None else f"  p99 {sample.p99_ms:.1f} ms"
                print(f"{number}/{rounds}  {name:<45}{sample.rate:>10,.0f}/s{p99}", flush=True)
        memory = suite.memory()
    return render(samples, memory, rounds=rounds, seconds=seconds)


if __name__ == "__main__":
    main()
