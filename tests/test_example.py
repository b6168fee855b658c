"""The example, run as its README says."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import free_port, until_answering

ROOT = Path(__file__).parent.parent
README = ROOT / "examples" / "fastapi_chat" / "README.md"
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """Where the example serves, in a folder of its own."""
    port = free_port()
    start = BLOCK.findall(README.read_text("utf-8"))[0].splitlines()[-1]
    command = start.replace(".venv/bin/uvicorn", f"{sys.executable} -m uvicorn")
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(
            [*command.replace("8000", str(port)).split(), "--app-dir", str(ROOT)],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        ) as process,
    ):
        try:
            until_answering(f"http://127.0.0.1:{port}/openapi.json", process)
            yield port
        finally:
            process.terminate()


def test_the_example_says_what_happens(port: int, tmp_path: Path) -> None:
    calls = BLOCK.findall(README.read_text("utf-8"))[1].replace("8000", str(port))

    ran = subprocess.run(
        [shutil.which("sh") or "sh", "-eu", "-c", calls],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr
    signed_up, haiku, translated, chat, refused = ran.stdout.splitlines()
    assert signed_up == '{"credits":100}'
    assert '"paid":5' in haiku
    assert '"left":91' in translated
    assert len(chat.split()) == 30
    assert '"code":"insufficient_credits"' in refused
    assert '"required_credits":63,"available_credits":27' in refused
