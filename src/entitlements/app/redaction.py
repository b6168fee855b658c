"""Text that is shown, without the passwords of the URLs in it."""

import re


def masked(text: str) -> str:
    """The text with the passwords of its URLs replaced by ``***``."""
    text = re.sub(r"(://[^:/?#\s]*:).*@", r"\1***@", text)
    return re.sub(r"(password=)[^&\s'\"]*", r"\1***", text)
