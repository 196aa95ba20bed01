"""A report as one HTML file that needs nothing else."""

import json
from importlib.resources import files
from typing import Any

from descant.lab.report.figures import figures
from descant.lab.report.record import Report
from descant.lab.report.tables import header, legend, rows


def html(report: Report) -> str:
    """Return the page.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    from jinja2 import Environment
    from markupsafe import Markup

    source = files("descant.lab.report").joinpath("template.html").read_text(encoding="utf-8")
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(source)
    sections: list[dict[str, Any]] = [
        {
            "name": task_set,
            "header": header(report, task_set),
            "rows": rows(report, task_set),
            "figures": [(caption, Markup(svg)) for caption, svg in figures(report, task_set)],
            "samples": report.samples[task_set],
        }
        for task_set in report.task_sets
    ]
    return template.render(
        report=report,
        sections=sections,
        legend=legend(report),
        settings=json.dumps(report.settings, indent=1, ensure_ascii=False),
    )
