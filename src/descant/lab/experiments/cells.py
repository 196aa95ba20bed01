"""What has been measured already, kept so that an interrupted experiment goes on where it was."""

import hashlib
import json
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from descant.lab.studies.lines import append_records, read_records


class Cells:
    """Measurements by the settings that decide them, one a line of a JSON file that is only ever appended to.

    Parameters
    ----------
    path
        The file; it is made, with its folders, by the first measurement. None: nothing is kept.
    common
        Settings that all measurements share, as plain data: versions, models.
    note
        Called with a line about every measurement that was made, not found.
    """

    def __init__(self, path: Path | None, common: Mapping[str, Any], note: Callable[[str], None] = lambda _: None):
        self._path = path
        self._common = dict(common)
        self._note = note
        cells = [] if path is None else filter(_whole, read_records(path))
        self._known: dict[str, Any] = {cell["key"]: cell["value"] for cell in cells}

    def measure(self, settings: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
        """Return what was measured with these settings before, or measure it now.

        Parameters
        ----------
        settings
            All that decides the value besides the common settings, as plain data.
        compute
            Returns the value, as plain data.
        """
        text = json.dumps([self._common, settings], sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()[:32]
        if key not in self._known:
            # Through JSON and back, so that a value is the same whether it was measured or found.
            cell = json.loads(json.dumps({"key": key, "settings": settings, "value": compute()}))
            if self._path is not None:
                append_records(self._path, [cell])
            self._known[key] = cell["value"]
            self._note(textwrap.shorten(", ".join(map(str, settings.values())), 100, placeholder=" …"))
        return self._known[key]


def _whole(cell: Any) -> bool:
    """Tell a cell from what an interruption left of one."""
    return isinstance(cell, dict) and {"key", "value"} <= cell.keys()
