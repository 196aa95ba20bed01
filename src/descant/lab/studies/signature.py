"""Signatures: one line that says what a score is, in the manner of sacreBLEU (Post 2018, arXiv 1804.08771)."""

from dataclasses import fields
from importlib.metadata import version
from typing import Any

from descant.decoder import Decoder
from descant.describe import describe
from descant.lab.metrics import Metric, PooledHiddenState
from descant.lab.studies.identity import digest, fingerprint, versions
from descant.lab.studies.scores import Cells


class Signer:
    """Writes signatures; it remembers the fingerprints of judge models, which take a while."""

    def __init__(self) -> None:
        self._judges: dict[int, str] = {}

    def __call__(self, cells: Cells, metric: Metric, column: str) -> str:
        """Return the signature of one column of one method on one task set.

        `settings` is the hash of all that decided the texts but the seed; reports list what each stands for.
        """
        cell = cells[0][0]
        parts = {
            "metric": column,
            **{name: _short(value) for name, value in self._settings(metric).items()},
            "tasks": f"{cell.assignment.label}:{cell.assignment.split}:{len(cells[0][1])}",
            "method": cell.contestant.name,
            "settings": settings_key(cell.settings),
            "seeds": "+".join(str(cell.seed) for cell, _ in cells) if cell.contestant.random else "none",
            **versions(),
            **{package: version(package) for package in metric.packages},
        }
        return "|".join(f"{name}:{str(value).replace('|', '/')}" for name, value in parts.items())

    def _settings(self, metric: Metric) -> dict[str, Any]:
        settings: dict[str, Any] = {}
        for entry in fields(metric):  # type: ignore[arg-type]
            name, value = entry.name, getattr(metric, entry.name)
            if not entry.compare:  # plays no part in the figure
                continue
            if isinstance(value, Decoder):
                settings[name] = self._judge(value)
            elif isinstance(value, PooledHiddenState):
                settings[name] = f"hidden-states,{value.pooling},{self._judge(value.decoder)}"
            else:
                settings[name] = describe(value)
        return settings

    def _judge(self, decoder: Decoder) -> str:
        model = decoder.expert
        if id(model) not in self._judges:
            self._judges[id(model)] = fingerprint(model)
        return self._judges[id(model)]


def settings_key(settings: dict[str, Any]) -> str:
    """Return the hash of a cell's settings but the seed."""
    return digest({name: value for name, value in settings.items() if name != "seed"})


def _short(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
