"""A study as tables of text, and as files in a folder."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from descant.files import write_whole
from descant.lab.bench.figures import Figures, Measurements
from descant.lab.bench.measure import Spread

HEADER = ("method", "first", "tokens/s", "×", "limit", "draft", "same")


def cells(figures: Figures) -> list[str]:
    """Return one contender's line under `HEADER`; a dash where there is no figure."""
    draft = "–"
    if figures.draft_tokens is not None:
        accepted = "" if figures.acceptance_rate is None else f", {figures.acceptance_rate:.0%}"
        draft = f"{figures.draft_tokens}{accepted}"
    return [
        figures.name,
        f"{figures.first_token_seconds.median * 1e3:.3g} ms",
        str(figures.tokens_per_second),
        "–" if figures.over_generate is None else f"{figures.over_generate.median:.2f}",
        "–" if figures.share_of_limit is None else f"{figures.share_of_limit.median:.0%}",
        draft,
        "yes" if figures.same_tokens else f"no, {figures.same_share:.0%}",
    ]


def legend(study: Measurements) -> list[str]:
    """Return what a reader needs to understand the table, one sentence a line."""
    lines = [
        "first: until every row has its first token. tokens/s: all rows together, after the first ones; median "
        "(quartiles) over rounds, each with prompts of its own where there are enough. ×: over transformers' greedy "
        "model.generate, round by round. draft: the best length tried, and the share of drafted tokens taken. same: "
        "every token that of descant's plain decoding, or else the share of a row before the first that differs.",
        f"limit: the rate over what {study.bandwidth.median / 1e9:.3g} GB/s allow, the bandwidth at which this run "
        "reads memory, if nothing but weights is read; above 100% they come from a cache.",
    ]
    for name in dict.fromkeys(entry.name for entry in study.drafts):
        rates = [
            f"{entry.draft_tokens}: {entry.tokens_per_second.median:.3g}"
            for entry in study.drafts
            if entry.name == name
        ]
        lines.append(f"{name}, tokens/s by draft length: {', '.join(rates)}.")
    lines += [f"{entry.engine}, {entry.name}: {entry.note}." for entry in study.figures if entry.note]
    lines += [f"{entry.engine}, {entry.name} did not run: {entry.reason}" for entry in study.missing]
    return lines


def markdown(study: Measurements, record: Mapping[str, Any]) -> str:
    """Return the report as Markdown: the table, the draft lengths, the conditions."""
    rows = [[figures.engine, *cells(figures)] for figures in study.figures]
    lines = ["# Decoding speed", "", *_table(["engine", *HEADER], rows), ""]
    counterparts = [
        [figures.name, _spread(figures.over_generate), _spread(figures.over_counterpart)]
        for figures in study.figures
        if figures.engine == "descant"
    ]
    header = ["descant's rate over that of", "greedy model.generate", "transformers' way to the same tokens"]
    lines += [*_table(header, counterparts), ""]
    if study.drafts:
        drafts = [
            [entry.name, str(entry.draft_tokens), str(entry.tokens_per_second), _share(entry.acceptance_rate)]
            for entry in study.drafts
        ]
        lines += [*_table(["method", "draft length", "tokens/s", "accepted"], drafts), ""]
    lines += [f"- {line}" for line in legend(study)]
    for name in ("models", "settings", "conditions"):
        lines += ["", f"{name.capitalize()}: {_listed(record[name])}."]
    return "\n".join([*lines, "", f"Command: `{record['command']}`"]) + "\n"


def write(folder: Path, study: Measurements, record: Mapping[str, Any]) -> None:
    """Write `bench.md`, `bench.json` and `bench.png` into a folder, which is made if it is missing.

    Raises
    ------
    OSError
        If that cannot be done.
    ImportError
        If matplotlib is not installed.
    """
    from descant.lab.bench.plot import draw

    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "bench.md", markdown(study, record))
    write_whole(folder / "bench.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    draw(study, folder / "bench.png", title=_title(record))


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *rows)]


def _share(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"


def _spread(spread: Spread | None) -> str:
    return "–" if spread is None else str(spread)


def _listed(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key} {_listed(entry)}" for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_listed, value))
    return str(value)


def _title(record: Mapping[str, Any]) -> str:
    names = [Path(model["name"]).name for model in record["models"].values() if model]
    settings = record["settings"]
    return f"{' with '.join(names)}, batch {settings['batch']}, {settings['max_new_tokens']} new tokens"
