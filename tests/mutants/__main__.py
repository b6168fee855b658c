"""Plant each bug in a copy of the source and run its test: `python -m tests.mutants [WORD]`.

The exit code is 1 if a test misses its bug, a bug cannot be planted, or a test fails without it.
"""

# ruff: noqa: T201 - it reports to the terminal
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from tests import waiting
from tests.mutants.planted import MUTANTS, Mutant
from tests.servers import POSTGRES_URL_VARIABLE, PostgresServer

ROOT = Path(__file__).parents[2]
WORKERS = 2
PATIENCE_S = 2 * waiting.PATIENCE_S
"""Longer than the tests wait, so that a test which waits in vain fails by itself first."""
FAILED = 1
"""pytest's exit code when a test failed. Other codes except 0 mean that no test could run."""


def main(word: str = "") -> int:
    chosen = [one for one in MUTANTS if word in one.name]
    with PostgresServer() as first, PostgresServer() as second:
        servers: SimpleQueue[PostgresServer] = SimpleQueue()
        servers.put(first)
        servers.put(second)

        def judged(mutant: Mutant) -> tuple[Mutant, str]:
            server = servers.get()
            try:
                return mutant, verdict(mutant, server)
            finally:
                servers.put(server)

        sound = run(sorted({one.killer for one in chosen}), ROOT / "src", first)
        if sound.returncode:
            print(sound.stdout[-3000:], "\nthese must pass before bugs are planted")
            return 1
        bad = 0
        with ThreadPoolExecutor(WORKERS) as pool:
            for mutant, said in pool.map(judged, chosen):
                bad += not said.startswith("killed")
                print(f"{said:10} {mutant.name}\n           {mutant.killer}", flush=True)
    print(f"{len(chosen) - bad} of {len(chosen)} planted bugs were killed by their tests")
    return 1 if bad else 0


def verdict(mutant: Mutant, server: PostgresServer) -> str:
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        source = Path(folder) / "src"
        shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
        file = source / "entitlements" / mutant.file
        text = file.read_text("utf-8")
        for old, new in mutant.texts:
            if old not in text:
                return "STALE"
            text = text.replace(old, new, 1)
        file.write_text(text, "utf-8")
        done = run([mutant.killer], source, server)
    if done.returncode == FAILED:
        return "killed"
    return "SURVIVED" if done.returncode == 0 else f"BROKEN\n{done.stdout[-1500:]}"


def run(
    nodes: Iterable[str], source: Path, server: PostgresServer
) -> subprocess.CompletedProcess[str]:
    """Run the tests on that source and that server."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *nodes]
    environment = {
        **os.environ,
        "PYTHONPATH": str(source),
        "PYTHONDONTWRITEBYTECODE": "1",
        POSTGRES_URL_VARIABLE: server.admin_url,
    }
    try:
        return subprocess.run(
            command,
            check=False,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_S,
        )
    except subprocess.TimeoutExpired as error:
        return subprocess.CompletedProcess(command, 124, f"no end after {error.timeout} s")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
