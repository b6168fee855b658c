"""Loads files of named SQL statements: ``-- name: NAME`` starts a statement.

``-- fragment: NAME`` starts a part of several statements, which they name as ``{{NAME}}``. In
``{{NAME TEXT}}``, TEXT replaces the fragment's ``{{}}``. Other comments are left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Final

_PART: Final = re.compile(r"^-- (name|fragment): (\w+)\n", re.MULTILINE)
_COMMENT: Final = re.compile(r"^ *--.*\n", re.MULTILINE)
_PLACE: Final = re.compile(r"\{\{(\w*) ?([^{}]*)\}\}")


def load(package: str, *names: str, fragments: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return every statement of the files by name, without its last semicolon.

    ``fragments`` are added to those of the files, which all of the files share.
    """
    parts: dict[str, dict[str, str]] = {"name": {}, "fragment": dict(fragments or {})}
    for file in names:
        text = files(package).joinpath(file).read_text("utf-8")
        _, *found = _PART.split(text)
        for kind, name, sql in zip(found[::3], found[1::3], found[2::3], strict=True):
            assert name not in parts[kind], name
            parts[kind][name] = _COMMENT.sub("", sql).strip().removesuffix(";")
    return {name: _filled(sql, parts["fragment"]) for name, sql in parts["name"].items()}


def _filled(sql: str, fragments: Mapping[str, str], argument: str = "") -> str:
    """Return the text with fragments in their places."""

    def fragment(place: re.Match[str]) -> str:
        name, given = place.groups()
        return _filled(fragments[name], fragments, given) if name else argument

    return _PLACE.sub(fragment, sql)
