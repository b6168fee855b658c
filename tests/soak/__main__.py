"""`make soak`: 100,000 events of 1,000 users during ten rounds of kills, and again during a minute
of consumers that join and leave.
"""

import argparse
import asyncio
import logging
import tempfile
from pathlib import Path

from tests.soak.soak import restless, soak


def main() -> None:
    asked = argparse.ArgumentParser(prog="soak", description=__doc__)
    asked.add_argument("--events", type=int, default=100_000)
    asked.add_argument("--users", type=int, default=1_000)
    asked.add_argument("--rounds", type=int, default=10)
    asked.add_argument("--seed", type=int, default=1)
    asked.add_argument("--restless", type=int, default=60, metavar="SECONDS")
    given = asked.parse_args()
    seconds = vars(given).pop("restless")
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("entitlements").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="entitlements-soak-") as folder:
        asyncio.run(soak(**vars(given), folder=Path(folder)))
    print(f"{given.events} events, {given.rounds} rounds of kills, seed {given.seed}: all agrees.")  # noqa: T201
    asyncio.run(restless(events=given.events, users=given.users, seed=given.seed, seconds=seconds))
    print(f"{given.events} events, {seconds} s of joining and leaving: all agrees.")  # noqa: T201


if __name__ == "__main__":
    main()
