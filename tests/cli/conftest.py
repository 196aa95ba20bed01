"""Commands run within the process."""

from cli_runs import decoder, folders, foreground, models, run

__all__ = ["decoder", "folders", "foreground", "models", "run"]
