"""A report as Markdown."""

import json

from descant.lab.report.record import Report
from descant.lab.report.tables import Entry, header, legend, listed, plain, rows


def markdown(report: Report) -> str:
    """Return the report: a table for each task set, samples, signatures, settings."""
    lines = [f"# {report.file.name}", ""]
    if report.file.description:
        lines += [report.file.description, ""]
    for task_set in report.task_sets:
        names = ["method", *header(report, task_set)]
        lines += [f"## {task_set}", "", listed(names), listed(["---"] * len(names))]
        lines += [listed([method, *map(_marked, entries)]) for method, entries in rows(report, task_set)]
        lines += [""]
    lines += [*(f"- {line}" for line in legend(report)), "", "## Samples", ""]
    for task_set in report.task_sets:
        for sample in report.samples[task_set]:
            lines += [f"{task_set}: {_code(sample['prompt'])}", "", listed(["method", "text"]), "| --- | --- |"]
            if sample["reference"]:
                lines.append(listed(["reference", _code(sample["reference"])]))
            lines += [listed([method, _code(text)]) for method, text in sample["texts"].items()]
            lines += [""]
    lines += ["## Signatures", ""]
    lines += [f"- `{score.signature}`" for score in report.scores]
    lines += ["", "## Settings", "", "```json", json.dumps(report.settings, indent=1, ensure_ascii=False), "```", ""]
    lines += ["Conditions: " + "; ".join(f"{name} {value}" for name, value in report.conditions.items()) + ".", ""]
    return "\n".join([*lines, f"Command: `{report.command}`"]) + "\n"


def _marked(entry: Entry) -> str:
    return f"**{plain(entry)}**" if entry.best else plain(entry)


def _code(text: str) -> str:
    """Return text in one line that Markdown leaves as it is."""
    line = " ".join(text.split())
    fence = "``" if "`" in line else "`"
    return f"{fence}{' ' if fence == '``' else ''}{line}{' ' if fence == '``' else ''}{fence}" if line else "(empty)"
