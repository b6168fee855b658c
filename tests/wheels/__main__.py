"""`make wheels`: install the wheels in a clean environment of each Python version.

The engine's is installed with each extra, and the part that the extra is for must start. With the
grading platform's, the demo must run.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from zipfile import ZipFile

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
UV: Final = Path(sys.executable).with_name("uv")
VERSIONS: Final = ("3.11", "3.12", "3.13", "3.14")
PROGRAMS: Final = ("engine", "client", "fastapi", "server")
"""What the programs in this folder test: `engine` is the package alone, the others are extras."""
ADAPTERS: Final = {
    "postgres": "entitlements.adapters.postgres.store",
    "redis": "entitlements.adapters.redis.limiter",
    "kafka": "entitlements.adapters.kafka.consumer",
}
"""The module that each other extra is for."""


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="entitlements-wheels-") as name:
        folder = Path(name)
        wheel = built(folder / "entitlements", ROOT, package="entitlements")
        grading = built(folder / "grading", ROOT / "src" / "grading", package="grading")
        for version, python in pythons():
            for extra in (*PROGRAMS, *ADAPTERS, "all"):
                start(folder / f"{version}-{extra}", python, wheel, extra)
                print(f"Python {version}, {extra}: starts")  # noqa: T201
            run_demo(folder / f"{version}-grading", python, wheel, grading)
            print(f"Python {version}, grading: the demo runs")  # noqa: T201


def built(folder: Path, project: Path, *, package: str) -> Path:
    """Return the wheel, built from the source distribution. Both contain only ``package``."""
    run(folder, UV, "build", "--quiet", f"--out-dir={folder}", project)
    (source,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    with tarfile.open(source) as sources, ZipFile(wheel) as files:
        shipped = {name.split("/")[2] for name in sources.getnames() if "/src/" in name}
        installed = {name.split("/")[0] for name in files.namelist() if ".dist-info/" not in name}
    assert shipped <= installed == {package}, (source, shipped, installed)
    return wheel


def pythons() -> Iterator[tuple[str, Path]]:
    """Yield a working interpreter of each installed version."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for version in VERSIONS:
        on_path = shutil.which(f"python{version}")
        found = [Path(on_path)] if on_path else []
        found += sorted(pyenv.glob(f"versions/{version}.*/bin/python{version}"))
        working = [path for path in found if works(path)]
        if working:
            yield version, working[0]


def works(python: Path) -> bool:
    return subprocess.run([python, "-c", ""], check=False, capture_output=True).returncode == 0


def start(folder: Path, python: Path, wheel: Path, extra: str) -> None:
    """Install the wheel and start the part that the extra is for, outside the checkout."""
    own = environment(folder, python, wheel if extra == "engine" else f"{wheel}[{extra}]")
    assert not own.with_name("grading").exists()
    for program in PROGRAMS if extra == "all" else {extra} & {*PROGRAMS}:
        run(folder, own, "-I", HERE / f"{program}.py")
    for adapter in ADAPTERS if extra == "all" else {extra} & {*ADAPTERS}:
        run(folder, own, "-I", "-c", f"import {ADAPTERS[adapter]}")
    if extra not in ("server", "all"):
        hint(folder, own)


def run_demo(folder: Path, python: Path, *wheels: Path) -> None:
    """Run the demo of both wheels together, outside the checkout."""
    own = environment(folder, python, *wheels)
    run(folder, own.with_name("grading"), "demo", "--quick")


def environment(folder: Path, python: Path, *wheels: str | Path) -> Path:
    """Return the interpreter of a new environment with the wheels."""
    run(folder, UV, "venv", "--quiet", f"--python={python}", "venv")
    own = folder / "venv" / "bin" / "python"
    run(folder, UV, "pip", "install", "--quiet", f"--python={own}", *wheels)
    return own


def hint(folder: Path, python: Path) -> None:
    """Assert that without the extra `serve` names the extra and shows no traceback."""
    script = python.with_name("entitlements")
    done = subprocess.run(
        [script, "serve"], cwd=folder, check=False, capture_output=True, text=True
    )
    assert done.returncode == 1, done
    assert "extra `server`" in done.stderr, done
    assert "Traceback" not in done.stderr, done


def run(folder: Path, *command: str | Path) -> None:
    folder.mkdir(exist_ok=True)
    inherited = {name: os.environ[name] for name in os.environ if "ENTITLEMENTS" not in name}
    subprocess.run(command, cwd=folder, env=inherited, check=True)


if __name__ == "__main__":
    main()
