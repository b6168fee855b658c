"""The synchronous interface: threads, forks and the interpreter's exit."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from entitlements import Entitlements
from entitlements.contracts import errors
from entitlements.embedded import SchemaMismatch
from entitlements.testing import Authority
from tests.servers import Postgres
from tests.waiting import PATIENCE_S

UNTIDY = """
import sys
from entitlements import Entitlements

e = Entitlements.open_sync(sys.argv[1])
print(e.open_account(subject_type="user", subject_id="ada").new_balance)
"""
LEAN = (
    """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        heavy = {"asyncpg", "cyclopts", "httpx2", "httptools", "prometheus_client", "pydantic",
                 "redis", "rich", "starlette", "structlog", "uvicorn", "uvloop"}
        if name.partition(".")[0] in heavy:
            raise ImportError(name)

sys.meta_path.insert(0, Missing())
"""
    + UNTIDY
)

CLIENT = """
import sys

for absent in ("apsw", "asyncpg", "pydantic", "starlette", "yaml"):
    sys.modules[absent] = None

from entitlements.client import Client
from entitlements.contracts.errors import Unavailable

try:
    Client("http://127.0.0.1:1", attempts_max=1).balance("ada")
except Unavailable as error:
    print(error.code)
"""


def run(program: str, url: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program, url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_many_threads_can_share_it(tmp_path: Path) -> None:
    with Entitlements.open_sync(f"sqlite:///{tmp_path}/books.db") as face:
        face.open_account(subject_type="user", subject_id="ada")
        with ThreadPoolExecutor(8) as threads:
            work = [
                threads.submit(face.consume, user_id="ada", metric="cj_comparison")
                for _ in range(50)
            ]

        assert sorted(one.result().new_balance for one in work) == list(range(50))
    with pytest.raises(errors.Closed, match="closed"):
        face.balance("ada")
    face.close()


def test_work_can_be_done_within_a_hold(entitlements: Authority) -> None:
    entitlements.give("user:ada", 50)
    face = entitlements.sync

    with face.holding({"ai_feedback_generation": 10}, user_id="ada") as held:
        held.use("ai_feedback_generation", 3)
    assert held.ended
    assert (held.ended.charged, held.ended.returned) == (15, 35)
    with pytest.raises(ZeroDivisionError), face.holding(user_id="ada", credits=30):
        raise ZeroDivisionError
    with pytest.raises(errors.InsufficientCredits), face.holding(user_id="ada", credits=36):
        raise AssertionError("the work must not start")
    assert (face.balance("ada").user_balance, face.balance("ada").user_held) == (35, 0)


def test_calls_in_progress_when_it_closes_return(tmp_path: Path) -> None:
    answers: list[object] = []
    begun = threading.Barrier(9)

    def ask() -> None:
        begun.wait()
        while True:
            try:
                answers.append(face.consume(user_id="ada", metric="cj_comparison"))
            except errors.Closed:
                return

    with Entitlements.open_sync(f"sqlite:///{tmp_path}/books.db") as face:
        asking = [threading.Thread(target=ask) for _ in range(8)]
        for thread in asking:
            thread.start()
        begun.wait()
        while not answers:
            pass
    for thread in asking:
        thread.join(timeout=PATIENCE_S)

    assert not any(thread.is_alive() for thread in asking)
    assert answers


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_must_open_it_again(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/books.db"
    with Entitlements.open_sync(url) as face:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                face.balance("ada")
            except errors.Closed as error:
                os.write(writing, str(error).encode())
            face.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0

        assert b"open it again in each process" in os.read(reading, 200)
        assert face.balance("ada").user_balance == 0


def test_it_closes_automatically_when_the_interpreter_exits(tmp_path: Path) -> None:
    ran = run(UNTIDY, f"sqlite:///{tmp_path}/books.db")

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "50\n", "")
    assert not list(tmp_path.glob("*-wal"))


def test_the_base_install_suffices(tmp_path: Path) -> None:
    ran = run(LEAN, f"sqlite:///{tmp_path}/books.db")

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "50\n", "")


def test_a_client_needs_no_engine(tmp_path: Path) -> None:
    ran = run(CLIENT, "")

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "unreachable\n", "")


def test_opening_errors_name_their_cause(tmp_path: Path, postgres_server: Postgres) -> None:
    with pytest.raises(SchemaMismatch, match="migrate"):
        Entitlements.open_sync(postgres_server.create_database())
    with pytest.raises(ValueError, match="No such file or directory"):
        Entitlements.open_sync(f"sqlite:///{tmp_path}/no/such/folder/books.db")
