"""What a study found, as Markdown, JSON and a self-contained page."""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from descant.errors import UsageError
from descant.files import write_whole
from descant.lab.report.html import html
from descant.lab.report.markdown import markdown
from descant.lab.report.record import Report, make_report

__all__ = ["Report", "check_folder", "make_report", "write"]


def write(report: Report, folder: Path) -> list[Path]:
    """Write `report.md`, `report.json` and `report.html`, each whole or not at all; return their paths.

    Raises
    ------
    UsageError
        If the folder cannot be written to.
    ImportError
        If matplotlib is not installed.
    """
    forms: Mapping[str, Callable[[], str]] = {
        "report.md": lambda: markdown(report),
        "report.json": lambda: json.dumps(_finite(report.record()), indent=1, ensure_ascii=False) + "\n",
        "report.html": lambda: html(report),
    }
    check_folder(folder)
    for name, form in forms.items():
        text = form()
        try:
            write_whole(folder / name, text, errors="backslashreplace")
        except OSError as error:
            raise UsageError(f"cannot write to {folder}: {error.strerror}; give another folder") from error
    return [folder / name for name in forms]


def check_folder(folder: Path) -> None:
    """Make a folder if it is missing, and refuse one that cannot be written to, before hours of decoding.

    Raises
    ------
    UsageError
        If it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror}; give another folder") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"cannot write to {folder}: Permission denied; give another folder")


def _finite(value: Any) -> Any:
    """Return plain data as JSON has it: no NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(item) for item in value]
    return value
