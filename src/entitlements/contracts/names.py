"""Validate and normalise names: ids in Unicode NFC, everything else verbatim, all printable.

Text of white space alone is blank: it counts as absent in optional fields, and is rejected in
required fields and filters. New ids, metrics and credit types have no white space at either end.
"""

import re
from collections.abc import Callable
from typing import Any, Final
from unicodedata import category, is_normalized, normalize

ID_MAX: Final = 255
REASON_MAX: Final = 1_000

RESERVED: Final = "units:"
"""How the credit types begin that the ledger itself uses, for allowances."""
_FORBIDDEN: Final = ("Cc", "Cs")  # controls, NUL among them, and lone surrogates
_RAW_MAX: Final = 4 * ID_MAX
"""The input limit of normalisation: composing shortens the text."""
_WHITE: Final = (
    " \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000\u180e\u200b\u2060\ufeff"
)
"""Unicode's white space without controls, and characters of zero width. Joiners (U+200C, U+200D)
are left out: some scripts need them within words.
"""

is_ordinary: Final = re.compile(rf"(?!{RESERVED})[!-~]{{1,{ID_MAX}}}").fullmatch
"""Matches the names that every rule accepts unchanged: visible ASCII that is not reserved."""


class InvalidName(ValueError):
    """The name cannot be accepted. The text says why; the caller adds the field."""


def is_blank(text: str) -> bool:
    return text[:1] in _WHITE and not text.strip(_WHITE)


def is_padded(text: str) -> bool:
    """Whether the text has white space at either end."""
    return bool(text) and (text[0] in _WHITE or text[-1] in _WHITE)


def subject_id(raw: str | int) -> str:
    """Return the id of a user or org in NFC; integers become text. Raises InvalidName if blank."""
    if isinstance(raw, str) and is_ordinary(raw):
        return raw
    return _unpadded(stored_id(raw))


def stored_id(raw: str | int) -> str:
    """As `subject_id`, but accept white space at the ends, as earlier versions did."""
    if isinstance(raw, int):
        return str(raw)
    if raw.isascii():
        normal = raw
    else:
        if len(raw) > _RAW_MAX:
            raise InvalidName(f"must have at most {ID_MAX} characters")
        verbatim(raw, at_most=_RAW_MAX)  # surrogates cannot be normalised
        normal = raw if is_normalized("NFC", raw) else normalize("NFC", raw)
    return text(normal)


def is_metric(raw: str) -> bool:
    if is_ordinary(raw):
        return True
    return 0 < len(raw) <= ID_MAX and raw.isprintable() and not is_padded(raw)


def metric(raw: str) -> str:
    """Return the name verbatim: 1 to 255 printable characters, no white space at either end."""
    if not is_metric(raw):
        _unpadded(raw)
        raise InvalidName(f"must have 1 to {ID_MAX} printable characters")
    return raw


def credit_type(raw: str) -> str:
    """As `metric`, but not a name that is reserved for allowances."""
    if raw.startswith(RESERVED):
        raise InvalidName(f"must not begin with {RESERVED}, which is reserved for allowances")
    return metric(raw)


def name(raw: str) -> str:
    """Return the id of a batch, service or job, verbatim: no white space at either end."""
    return raw if is_ordinary(raw) else _unpadded(text(raw))


def text(raw: str, *, at_most: int = ID_MAX) -> str:
    """As `verbatim`; raises InvalidName if blank."""
    if is_blank(raw):
        raise InvalidName("must not be blank")
    return verbatim(raw, at_most=at_most)


def reason(raw: str) -> str:
    return text(raw, at_most=REASON_MAX)


def verbatim(text: str, *, at_most: int = ID_MAX) -> str:
    """Return the text unchanged. Raises InvalidName if too long or not printable."""
    if len(text) > at_most:
        raise InvalidName(f"must have at most {at_most} characters")
    if not text.isprintable() and any(category(letter) in _FORBIDDEN for letter in text):
        raise InvalidName("must not contain control characters or lone surrogates")
    return text


def _unpadded(name: str) -> str:
    if is_padded(name):
        raise InvalidName("must not begin or end with white space")
    return name


def or_none(rule: Callable[[Any], str | None]) -> Callable[[str | int | None], str | None]:
    """Return the rule for optional text: None and blank text mean None."""

    def optional(raw: str | int | None) -> str | None:
        if isinstance(raw, str):
            return raw if is_ordinary(raw) else None if is_blank(raw) else rule(raw)
        return None if raw is None else rule(raw)

    return optional


optional_id: Final = or_none(subject_id)
optional_stored_id: Final = or_none(stored_id)
optional_name: Final = or_none(name)
optional_text: Final = or_none(text)
optional_reason: Final = or_none(reason)
