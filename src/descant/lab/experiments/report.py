"""An experiment's record, and the page and figures that are drawn from it."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from descant.describe import describe
from descant.errors import LoadError
from descant.files import write_whole
from descant.lab.bench.measure import conditions
from descant.lab.bench.weights import facts
from descant.lab.experiments.base import Experiment, Pair
from descant.lab.experiments.tables import table
from descant.sources.amateur import describe_model

Record = dict[str, Any]
"""All that a page tells, as JSON holds it."""

END = "<!-- End of what is generated; what stands below is kept. -->"

_UNJUDGED = (
    " Nobody knows the right answers to these prompts, so what needs them is left out, and no setting is chosen."
)

_DIGITS = 5
"""Significant digits of numbers that are kept: more than any page shows."""


def run(experiment: Experiment, pairs: Iterable[Pair], command: str) -> Record:
    """Run an experiment on pairs, one after another, and return its record.

    Parameters
    ----------
    experiment
        What is measured.
    pairs
        On what: several training seeds of one pair, say. Each is asked for when its turn has come.
    command
        What repeats it.
    """
    entries: list[dict[str, Any]] = []
    every: list[dict[str, Any]] = []
    for pair in pairs:
        asked = {"name": pair.asked.name, **pair.asked.settings, "max_new_tokens": pair.asked.max_new_tokens}
        asked["limit"] = pair.limit
        every += [asked] if asked not in every else []
        models = {"expert": _model(pair.decoder.expert), "amateur": _model(pair.decoder.amateur)}
        data = experiment.run(pair)
        entries.append({"label": pair.label, **models, **(pair.facts or {}), "judged": _judged(pair), "data": data})
    record = {
        "experiment": experiment.name,
        "command": command,
        "date": datetime.now(UTC).date().isoformat(),
        "conditions": conditions(),
        "asked": every[0] if len(every) == 1 else every,
        "settings": describe(experiment),
        "pairs": entries,
    }
    rounded: Record = _rounded(record)
    return rounded


def read(folder: Path, experiment: Experiment) -> Record:
    """Return the record that an earlier run has written into a folder.

    Raises
    ------
    LoadError
        If there is none.
    """
    source = folder / f"{experiment.name}.json"
    try:
        record: Record = json.loads(source.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LoadError(f"{source} cannot be read ({error}); run the experiment with --out {folder} first") from error
    return record


def write(folder: Path, experiment: Experiment, record: Record) -> list[Path]:
    """Write `NAME.json`, `NAME.md` and the figures into a folder, and return the files.

    What stands in the page below what is generated is kept.

    Raises
    ------
    OSError
        If that cannot be done.
    ImportError
        If matplotlib is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / f"{experiment.name}.md"
    old = page.read_text(encoding="utf-8") if page.exists() else ""
    kept = old.partition(END)[2] or "\n"
    texts = {folder / f"{experiment.name}.json": json.dumps(record, indent=1, ensure_ascii=False) + "\n"}
    for name, figure in experiment.figures(_results(record)).items():
        texts[folder / f"{experiment.name}-{name}.svg"] = to_svg(figure)
    texts[page] = markdown(experiment, record) + END + kept
    for path, text in texts.items():
        write_whole(path, text)
    return list(texts)


def markdown(experiment: Experiment, record: Record) -> str:
    """Return the generated part of a page: question, setup, tables and figures."""
    parts = (f"# {experiment.title}", experiment.question, _setup(record), experiment.page(_results(record)).strip())
    return "\n\n".join(parts) + "\n\n"


def to_svg(figure: Any) -> str:
    """Return a picture, the same for the same numbers."""
    import io

    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    FigureCanvasSVG(figure)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "descant"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return re.sub(r"[ \t]+$", "", buffer.getvalue(), flags=re.MULTILINE)


def _results(record: Record) -> dict[str, Any]:
    return {entry["label"]: entry["data"] for entry in record["pairs"]}


def _setup(record: Record) -> str:
    """Return what a reader needs to repeat the numbers."""
    header = ["pair", "expert", "amateur", "training seed"]
    rows = [
        [entry["label"], _shape(entry["expert"]), _shape(entry["amateur"]), str(entry.get("training_seed", "–"))]
        for entry in record["pairs"]
    ]
    settings = {name: value for name, value in record["settings"].items() if name != "name"}
    judged = all(entry["judged"] for entry in record["pairs"])
    lines = [
        "## Setup",
        "",
        table(header, rows),
        "",
        f"- Tasks: {_listed(record['asked'])}.{'' if judged else _UNJUDGED}",
        f"- Settings: {_listed(settings)}.",
        f"- {record['date']}; {_listed(record['conditions'])}.",
        f"- Command: `{record['command']}`",
    ]
    return "\n".join(lines)


def _judged(pair: Pair) -> bool:
    """Tell whether it is known what is right."""
    tasks = pair.tasks("test", 1)
    return bool(pair.judge(tasks, ["" for _ in tasks]))


def _model(model: Any) -> Any:
    return facts(model) if isinstance(model, PreTrainedModel) else describe_model(model)


def _shape(model: Mapping[str, Any]) -> str:
    if "layers" not in model:
        return _listed(model)
    millions = model["parameters"] / 1e6
    return f"{model['layers']} × {model['hidden']}, {millions:.3g} M parameters, {model['dtype']}"


def _listed(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key.replace('_', ' ')} {_listed(entry)}" for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_listed, value))
    return "none" if value is None else str(value)


def _rounded(value: Any) -> Any:
    """Return plain data with fewer digits; what JSON has no number for becomes None."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _rounded(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(entry) for entry in value]
    return value
