"""Files that are written whole or not at all."""

from pathlib import Path


def write_whole(path: Path, text: str, errors: str = "strict") -> None:
    """Write a text into a temporary file beside another, and put it in that one's place.

    Raises
    ------
    OSError
        If that cannot be done; what stood there is as it was.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8", errors=errors)
    temporary.replace(path)
