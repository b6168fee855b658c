"""`make clients`: generate clients from the OpenAPI document, type-check them, and use them against
the running service; validate the AsyncAPI document.

It needs Node and npm. The versions of the generators are in package.json and requirements.txt.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from shutil import copy
from typing import Final

import yaml
from jsonschema import Draft7Validator

from entitlements.app.policy.document import default_policy_text
from entitlements.transports.http.app import ROUTES
from entitlements.transports.http.documents import table
from entitlements.transports.http.openapi import openapi_document
from tests.faults.service import Service
from tests.tables import sqlite_url

HERE: Final = Path(__file__).parent
ASYNCAPI: Final = HERE.parents[1] / "docs" / "events" / "asyncapi.yaml"
PACKAGE: Final = "entitlements_http"


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="entitlements-clients-") as name:
        folder = Path(name)
        for path in HERE.iterdir():
            if path.is_file():
                copy(path, folder)
        document = openapi_document(table(ROUTES).routes)
        (folder / "openapi.json").write_text(json.dumps(document))
        make_typescript(folder)
        python = make_python(folder)
        validate_asyncapi(folder)
        asyncio.run(use(folder, python))


def make_typescript(folder: Path) -> None:
    run(folder, "npm", "install", "--no-package-lock", "--no-audit", "--no-fund")
    run(
        folder,
        "node_modules/.bin/openapi-typescript",
        "openapi.json",
        "--default-non-nullable=false",
        "--output=entitlements.ts",
    )
    run(folder, "node_modules/.bin/tsc")


def make_python(folder: Path) -> Path:
    """Generate and type-check the Python client; return the interpreter with its dependencies."""
    uv = Path(sys.executable).with_name("uv")
    python = folder / "venv" / "bin" / "python"
    run(folder, uv, "venv", "--quiet", "--python", sys.executable, "venv")
    run(folder, uv, "pip", "install", "--quiet", "--python", python, "-r", "requirements.txt")
    run(
        folder,
        python.with_name("openapi-python-client"),
        "generate",
        "--path=openapi.json",
        "--config=generator.yaml",
        f"--output-path={PACKAGE}",
        "--meta=none",
        "--fail-on-warning",
    )
    run(folder, python, "-m", "mypy", "--strict", PACKAGE, "use.py")
    return python


def validate_asyncapi(folder: Path) -> None:
    specification = folder / "node_modules/@asyncapi/specs/schemas/3.0.0.json"
    Draft7Validator(json.loads(specification.read_text())).validate(
        yaml.safe_load(ASYNCAPI.read_text())
    )


async def use(folder: Path, python: Path) -> None:
    policy = folder / "policy.yaml"
    policy.write_text(default_policy_text())
    key = folder / "key"
    async with Service(sqlite_url(folder), policy) as service:
        await service.start(ENTITLEMENTS_AUTH="keys", ENTITLEMENTS_BOOTSTRAP_KEY_FILE=str(key))
        for program in (("node", "out/use.js"), (python, "use.py")):
            await asyncio.to_thread(run, folder, *program, service.url, key.read_text().strip())


def run(folder: Path, *command: str | Path) -> None:
    subprocess.run(command, cwd=folder, check=True)


if __name__ == "__main__":
    main()
