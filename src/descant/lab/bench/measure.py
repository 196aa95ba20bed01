"""Interleaved timing: every round runs each case once, so that a drift of the machine meets all of them."""

import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of repeated measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Summarise at least two values."""
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g}–{self.high:.3g})"


def in_rounds(
    cases: Mapping[str, Callable[[int], T]],
    *,
    rounds: int,
    warm_up: int = 1,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, list[T]]:
    """Call every case once a round and return what each gave, warm-up rounds left out.

    Parameters
    ----------
    cases
        What is measured, by name; each is given the number of the round, from 0.
    rounds, warm_up
        How many rounds count, and how many before them do not and have negative numbers.
    advance
        Called after every call of a case.
    """
    results: dict[str, list[T]] = {name: [] for name in cases}
    for number in range(-warm_up, rounds):
        for name, case in cases.items():
            result = case(number)
            if number >= 0:
                results[name].append(result)
            advance()
    return results


def interleaved(cases: Mapping[str, Callable[[], object]], *, rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Return the seconds each case took in each round, warm-up rounds left out."""

    def clocked(case: Callable[[], object]) -> Callable[[int], float]:
        return lambda _: seconds(case)

    return in_rounds({name: clocked(case) for name, case in cases.items()}, rounds=rounds, warm_up=warm_up)


def seconds(case: Callable[[], object]) -> float:
    """Return the wall-clock seconds of one call; on a GPU it must end by reading its result."""
    start = time.perf_counter()
    case()
    return time.perf_counter() - start


def ratio(over: Sequence[float], under: Sequence[float]) -> Spread:
    """Summarise the ratios of two cases, round by round."""
    return Spread.of([a / b for a, b in zip(over, under, strict=True)])


def conditions(device: torch.device | None = None) -> dict[str, str | int]:
    """Return what a figure depends on besides the code that is measured.

    Parameters
    ----------
    device
        Where the models are, if not on the CPU.
    """
    gpu = {"gpu": torch.cuda.get_device_name(device)} if device is not None and device.type == "cuda" else {}
    return {
        "commit": commit(Path(__file__).parents[2]) or "none",
        **gpu,
        "cpu": next((_value(line) for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
        or platform.processor()
        or platform.machine(),
        "threads": torch.get_num_threads(),
        "load average before": _lines("/proc/loadavg")[0].split()[0] if _lines("/proc/loadavg") else "unknown",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "descant": version("descant"),
    }


def commit(package: Path) -> str | None:
    """Return the commit of the checkout that a package is run from, with a mark if its files were changed.

    Parameters
    ----------
    package
        The package's folder, `src/<name>` of a checkout. Installed anywhere else it has no commit, even if that
        place happens to lie within some repository.
    """
    top = _git(package, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != package.parents[1].resolve():
        return None
    head = _git(package, "rev-parse", "--short", "HEAD")
    return f"{head} with changes" if head and _git(package, "status", "--porcelain", ".") else head


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what git says, or None where there is no git or no repository."""
    try:
        done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _value(line: str) -> str:
    return line.split(":", 1)[1].strip()


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().splitlines()
    except OSError:
        return []
