"""The service and the command line, on a SQLite file."""

import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

SCRIPT = Path(sys.executable).with_name("entitlements")

subprocess.run([SCRIPT, "account", "open", "org:school", "--as", "ada"], check=True)
shown = subprocess.run([SCRIPT, "balance", "org:school"], check=True, capture_output=True)
assert b"org:school" in shown.stdout
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
with subprocess.Popen([SCRIPT, "serve", "--port", str(port)]) as service:
    try:
        while service.poll() is None:
            try:
                with urlopen(f"http://127.0.0.1:{port}/readyz") as answer:
                    assert answer.status == 200
                    break
            except OSError:
                time.sleep(0.1)
        assert service.poll() is None, "the service exited"
    finally:
        service.terminate()
