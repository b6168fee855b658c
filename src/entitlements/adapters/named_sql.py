"""Files of SQL statements that bear names: ``-- name: NAME`` starts one."""

from __future__ import annotations

from importlib.resources import files


def load(package: str, file: str) -> dict[str, str]:
    """Every statement of the file by its name, without its closing semicolon where it is alone."""
    text = files(package).joinpath(file).read_text("utf-8")
    statements: dict[str, str] = {}
    for part in text.split("-- name: ")[1:]:
        name, _, sql = part.partition("\n")
        assert name not in statements, name
        statements[name.strip()] = sql.strip()
    return statements
