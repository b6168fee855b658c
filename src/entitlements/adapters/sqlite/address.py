"""The URL of a SQLite database: ``sqlite:///`` and a path."""

from __future__ import annotations

from pathlib import Path
from typing import Final

PREFIX: Final = "sqlite:///"
_EXAMPLE: Final = f"as in {PREFIX}entitlements.db"


def problem(url: str) -> str | None:
    """Return why the URL names no usable file; None if it names one."""
    if not url.startswith(PREFIX):
        return f"must have three slashes before the path of a file, {_EXAMPLE}"
    path = url.removeprefix(PREFIX)
    if path == ":memory:":
        return f"must name a file, {_EXAMPLE}: a database in memory ends with its process"
    if not path or path.startswith("file:"):
        return f"must end with the path of a file, {_EXAMPLE}"
    if "?" in path:
        return "must not have options after a ?"
    return None


def path(url: str) -> Path:
    """Return the file's path; a leading ``~`` is the home folder."""
    return Path(url.removeprefix(PREFIX)).expanduser()
