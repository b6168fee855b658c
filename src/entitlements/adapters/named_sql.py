"""Loads files of named SQL statements: ``-- name: NAME`` starts a statement."""

from __future__ import annotations

from importlib.resources import files


def load(package: str, file: str) -> dict[str, str]:
    """Return every statement of the file by name, without its closing semicolon if it is single."""
    text = files(package).joinpath(file).read_text("utf-8")
    statements: dict[str, str] = {}
    for part in text.split("-- name: ")[1:]:
        name, _, sql = part.partition("\n")
        assert name not in statements, name
        statements[name.strip()] = sql.strip()
    return statements
