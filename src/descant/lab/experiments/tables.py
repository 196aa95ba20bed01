"""Tables and numbers of the pages."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    escaped = ([cell.replace("|", "\\|").replace("<", "&lt;") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def share(value: float | None) -> str:
    """Return a share with three digits, as `.732`; a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:.3f}".replace("0.", ".", 1) if 0 <= value < 1 else f"{value:.3f}"


def points(interval: Mapping[str, Any] | None) -> str:
    """Return a difference of shares with its interval, in percentage points."""
    if interval is None or interval["value"] is None:
        return "–"
    return " ".join(
        [
            f"{100 * interval['value']:+.1f}",
            f"({100 * interval['low']:+.1f} to {100 * interval['high']:+.1f})",
        ]
    )


def with_interval(interval: Mapping[str, Any] | None) -> str:
    """Return a share with its interval."""
    if interval is None or interval["value"] is None:
        return "–"
    return f"{share(interval['value'])} ({share(interval['low'])}–{share(interval['high'])})"


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean over pairs; None if one of them has no value."""
    found = list(values)
    numbers = [value for value in found if value is not None]
    return sum(numbers) / len(numbers) if numbers and len(numbers) == len(found) else None


def methods_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return how methods fare on each pair, as `judged.summarise` has it, and on average where there are several."""
    rows = []
    for name in next(iter(results.values()))["methods"]:
        entries = {label: data["methods"][name] for label, data in results.items()}
        for label, entry in entries.items():
            scores = [with_interval(entry["scores"].get(score)) for score in ("correct", "rumour")]
            gain = "" if name == "greedy" else points(entry.get("gain"))
            rows.append([name, label, entry.get("setting") or "", *scores, gain, share(entry["same"])])
        if len(entries) > 1:
            rows.append(
                [name, "mean", "", *means(entries.values(), name), share(mean(e["same"] for e in entries.values()))]
            )
    return table(["method", "pair", "setting", "right", "rumour", "over greedy", "same as greedy"], rows)


def means(entries: Iterable[Mapping[str, Any]], name: str) -> list[str]:
    """Return the pairs' mean share of right answers, of rumours, and mean gain over greedy decoding."""
    listed = list(entries)
    scores = [mean(one["scores"].get(score, {}).get("value") for one in listed) for score in ("correct", "rumour")]
    gain = mean(one["gain"]["value"] if "gain" in one else None for one in listed)
    return [*map(share, scores), "" if name == "greedy" else "–" if gain is None else f"{100 * gain:+.1f}"]
