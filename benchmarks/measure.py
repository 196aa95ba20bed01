"""Interleaved timing: every round runs each case once, so that a drift of the machine meets all of them."""

import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version

import torch


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of repeated measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        """Summarise at least two values."""
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g}–{self.high:.3g})"


def interleaved(cases: Mapping[str, Callable[[], object]], *, rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Return the seconds each case took in each round, warm-up rounds left out."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(warm_up + rounds):
        for name, case in cases.items():
            start = time.perf_counter()
            case()
            if number >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(over: list[float], under: list[float]) -> Spread:
    """Summarise the ratios of two cases, round by round."""
    return Spread.of([a / b for a, b in zip(over, under, strict=True)])


def conditions() -> dict[str, str | int]:
    """Return what a figure depends on besides the code that is measured."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    cpu = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    return {
        "commit": commit,
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "load average before": _lines("/proc/loadavg")[0].split()[0] if _lines("/proc/loadavg") else "unknown",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "descant": version("descant"),
    }


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().splitlines()
    except OSError:
        return []
