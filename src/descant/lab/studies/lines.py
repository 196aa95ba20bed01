"""JSONL files that are only ever appended to: settings in the first line, then one record a line."""

import contextlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from descant.errors import DescantError, UsageError
from descant.lab.studies.identity import digest


@dataclass(frozen=True)
class Lines:
    """A file of records that the same settings decide.

    Lines are appended and flushed; one that was cut off in writing is as if it were not there.

    Attributes
    ----------
    folder
        Where the file is; made if it is missing.
    label
        For people: the first part of the file's name.
    settings
        Everything that decides the records, as plain data; its hash is the other part.
    """

    folder: Path
    label: str
    settings: Mapping[str, Any]

    @property
    def key(self) -> str:
        """The hash of the settings."""
        return digest(self.settings)

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / f"{re.sub(r'[^A-Za-z0-9.]+', '-', self.label).strip('-')}-{self.key}.jsonl"

    def read(self) -> list[Any]:
        """Return what the lines hold, in their order.

        Raises
        ------
        DescantError
            If the file cannot be read.
        """
        return [record for record in read_records(self.path) if not _is_heading(record)]

    def append(self, records: Iterable[Any]) -> None:
        """Write records, which are plain data.

        Raises
        ------
        UsageError
            If the folder cannot be written to.
        """
        append_records(self.path, records, {"settings": self.settings})


def _is_heading(record: Any) -> bool:
    return isinstance(record, dict) and record.keys() == {"settings"}


def read_records(path: Path) -> list[Any]:
    """Return what the lines of a file hold, in their order, but for what was cut off in writing; nothing if it lacks.

    Raises
    ------
    DescantError
        If the file cannot be read.
    """
    try:
        lines = path.read_bytes().split(b"\n") if path.exists() else []
    except OSError as error:
        raise DescantError(f"cannot read {path}: {error.strerror}; give another folder") from error
    records = []
    for line in lines:
        with contextlib.suppress(ValueError):
            records.append(json.loads(line))
    return records


def append_records(path: Path, records: Iterable[Any], heading: Any = None) -> None:
    """Write records, which are plain data, a line each; and before the first of a file, perhaps a heading.

    Raises
    ------
    UsageError
        If the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            if file.tell():
                file.seek(-1, 2)
                if file.read(1) != b"\n":  # the last line was cut off
                    file.write(b"\n")
            elif heading is not None:
                file.write(_line(heading))
            for record in records:
                file.write(_line(record))
            file.flush()
    except OSError as error:
        raise UsageError(f"cannot write to {path.parent}: {error.strerror}; give another folder") from error


def _line(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False) + "\n").encode()
