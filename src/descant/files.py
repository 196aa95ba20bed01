"""Files that are written whole or not at all."""

import secrets
from pathlib import Path


def write_whole(path: Path, text: str, errors: str = "strict") -> None:
    """Write a text into a temporary file beside another, and put it in that one's place.

    Of several writers at once the last one's text stands there whole.

    Raises
    ------
    OSError
        If that cannot be done; what stood there is as it was, and nothing is left beside it.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", errors=errors)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
