"""Redaction of passwords in text."""

import re


def masked(text: str) -> str:
    """Return the text with the passwords in its URLs replaced by ``***``."""
    text = re.sub(r"(://[^:/?#\s]*:).*@", r"\1***@", text)
    return re.sub(r"(password=)[^&\s'\"]*", r"\1***", text)
