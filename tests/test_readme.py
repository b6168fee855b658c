"""The shell commands of the README and of the pages, run as they are written."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers import free_port, until_answering

ROOT = Path(__file__).parent.parent
PROGRAM = Path(sys.executable).parent / "entitlements"
TOUR = re.compile(r"^## A tour$(.*?)^## ", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[int]:
    """The port of a service on a new file, its admin's key in a file beside it."""
    port = free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if "ENTITLEMENTS" not in name},
        "ENTITLEMENTS_HTTP_PORT": str(port),
        "ENTITLEMENTS_SHUTDOWN_DELAY_S": "0",
    }
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(
            [PROGRAM, "serve"],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        ) as process,
    ):
        try:
            until_answering(f"http://127.0.0.1:{port}/readyz", process)
            yield port
        finally:
            process.terminate()


def test_the_tour_gives_the_described_results(service: int, tmp_path: Path) -> None:
    tour = TOUR.search((ROOT / "README.md").read_text(encoding="utf-8"))
    assert tour
    consume = r"^call \S+/consume-credits .*?\}'$"
    script = "\n".join(BLOCK.findall(tour[1]))
    script, repeated = re.subn(consume, r"\g<0>\n\g<0>", script, flags=re.MULTILINE | re.DOTALL)
    assert repeated == 1
    script = script.replace("KEY=…", "KEY=$(cat entitlements-admin.key)")
    script = script.replace(":8083", f":{service}").replace(".venv/bin/entitlements", str(PROGRAM))

    ran = subprocess.run(
        [shutil.which("sh") or "sh", "-eu", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr
    given, asked, told, first, again, balance, operations, *verdict = ran.stdout.splitlines()
    assert '"new_balance":100' in given
    assert '"allowed":true,"required_credits":20,"available_credits":100' in asked
    assert '"reason":"insufficient_credits"' in told
    assert '"inputs":{"subject":"org:north-school"' in told
    assert '"success":true,"new_balance":90,"consumed_from":"org"' in first
    assert '"replayed":false' in first
    assert again == first.replace('"replayed":false', '"replayed":true')
    assert '"org_balance":90' in balance
    assert operations.count('"kind":') == 2
    assert verdict


def run_page(page: str, port: int, folder: Path) -> list[dict[str, Any]]:
    """The responses to the page's commands, which have to succeed."""
    script = "\n".join(BLOCK.findall((ROOT / "docs" / page).read_text(encoding="utf-8")))
    script = script.replace("KEY=…", "KEY=$(cat entitlements-admin.key)")
    ran = subprocess.run(
        ["sh", "-eu", "-c", script.replace(":8083", f":{port}")],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]


def test_the_commands_of_pages_succeed(service: int, tmp_path: Path) -> None:
    opened, settled = run_page("holds.md", service, tmp_path)
    _, checked, consumed = run_page("reference/http.md", service, tmp_path)

    assert (opened["created"], opened["new_balance"]) == (True, 500)
    assert (settled["charged"], settled["returned"], settled["new_balance"]) == (50, 25, 450)
    assert (checked["allowed"], checked["available_credits"]) == (True, 450)
    assert (consumed["success"], consumed["new_balance"]) == (True, 449)


def test_the_first_commands_of_the_webhooks_page_succeed(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "webhooks.md").read_text(encoding="utf-8")
    console = re.search(r"^```console\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert console
    commands = re.findall(r"^\$ (.*)$", console[1], re.MULTILINE)
    script = "\n".join(commands).replace("entitlements ", f"{PROGRAM} ")

    ran = subprocess.run(
        ["sh", "-eu", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr
    secret, head, row = ran.stdout.splitlines()
    assert secret.startswith("whsec_")
    assert head.split()[:4] == ["id", "url", "events", "state"]
    assert "http://127.0.0.1:9000/hooks" in row


@pytest.mark.parametrize(("name", "total"), [("entitlements.md", 7), ("subscriptions.md", 6)])
def test_the_commands_of_a_page_print_what_it_shows(tmp_path: Path, name: str, total: int) -> None:
    page = (ROOT / "docs" / name).read_text(encoding="utf-8")
    console = re.search(r"^```console\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert console
    for plans in re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        (tmp_path / "plans.yaml").write_text(plans)
    shown = [one.partition("\n") for one in console[1].split("$ ")[1:]]
    assert len(shown) == total

    for command, _, printed in shown:
        ran = subprocess.run(
            [PROGRAM, *shlex.split(command)[1:]],
            cwd=tmp_path,
            env=os.environ | {"ENTITLEMENTS_ACTOR": "tester"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        pattern = re.escape(printed.strip()).replace("…", ".*")
        assert re.fullmatch(pattern, (ran.stdout + ran.stderr).strip(), re.DOTALL), command


def test_the_requests_of_the_entitlements_page_are_answered(service: int, tmp_path: Path) -> None:
    key = (tmp_path / "entitlements-admin.key").read_text().strip()
    page = (ROOT / "docs" / "entitlements.md").read_text(encoding="utf-8")
    script = "\n".join(BLOCK.findall(page)).replace("\ncurl", "; echo; curl")
    ran = subprocess.run(
        ["sh", "-eu", "-c", script.replace(":8083", f":{service}")],
        cwd=tmp_path,
        env=os.environ | {"KEY": key},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr
    answers = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [one["has_access"] for one in answers] == [False, False]
