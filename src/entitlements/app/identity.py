"""Names as they are kept: ids in Unicode NFC, everything else verbatim, nothing unprintable."""

from typing import Final
from unicodedata import category, is_normalized, normalize

ID_MAX: Final = 255
_FORBIDDEN: Final = ("Cc", "Cs")  # controls, NUL among them, and lone surrogates
_RAW_MAX: Final = 4 * ID_MAX
"""Composing shortens, but bounds what is normalised at all."""


class InvalidName(ValueError):
    """A name that cannot be kept, with a sentence that says why; the field is the edge's to say."""


def subject_id(raw: str | int) -> str:
    """The id of a user or org in NFC; whole numbers become their digits. Blank is refused."""
    if isinstance(raw, int):
        return str(raw)
    if raw.isascii():
        normal = raw
    else:
        if len(raw) > _RAW_MAX:
            raise InvalidName(f"must have at most {ID_MAX} characters")
        verbatim(raw, at_most=_RAW_MAX)  # surrogates cannot be normalised
        normal = raw if is_normalized("NFC", raw) else normalize("NFC", raw)
    if not normal or normal.isspace():
        raise InvalidName("must not be blank")
    return verbatim(normal)


def optional_id(raw: str | int | None) -> str | None:
    """As `subject_id`; blank and null mean none."""
    if raw is None:
        return None
    if isinstance(raw, str) and not raw.strip(" \u00a0\u3000"):
        return None
    return subject_id(raw)


def metric(raw: str) -> str:
    """The name verbatim: 1 to 255 printable characters."""
    if not (0 < len(raw) <= ID_MAX and raw.isprintable()):
        raise InvalidName(f"must have 1 to {ID_MAX} printable characters")
    return raw


def verbatim(text: str, *, at_most: int = ID_MAX) -> str:
    """The text itself, of bounded length and without control characters or lone surrogates."""
    if len(text) > at_most:
        raise InvalidName(f"must have at most {at_most} characters")
    if not text.isprintable() and any(category(letter) in _FORBIDDEN for letter in text):
        raise InvalidName("must not contain control characters or lone surrogates")
    return text
