"""The laboratory's commands: `descant bench`, `eval` and `experiment`."""

import importlib.util

from descant.errors import UsageError


def require(what: str, *modules: str) -> None:
    """Refuse in one line what the extra `lab` is needed for, if it is not installed.

    Raises
    ------
    UsageError
        If one of the modules is missing.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"{what} needs {' and '.join(missing)}; pip install 'descant[lab]'")
