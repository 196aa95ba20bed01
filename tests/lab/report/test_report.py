"""Figures of a report: what is drawn, and what is left out because there is nothing to see."""

import math
import xml.etree.ElementTree as ET

from descant.lab.metrics.base import Better
from descant.lab.report import Report
from descant.lab.report.figures import figures
from descant.lab.report.tables import Entry, figure, rows
from descant.lab.studies.config import parse_study
from descant.lab.studies.scores import Estimate
from descant.lab.studies.statistics import Interval

FILE = parse_study({"tasks": [{"file": "q"}], "methods": ["greedy"], "metrics": ["length"]})


def entry(
    method: str, column: str, value: float, spread: float, better: Better | None, corrected: float | None = None
) -> Estimate:
    interval = Interval(value, value - spread, value + spread)
    difference = None if corrected is None else Interval(value - 0.5, 0, 1)
    return Estimate("set", method, column, interval, 10, better, "signed", difference, corrected, corrected)


def report(*scores: Estimate) -> Report:
    methods = list(dict.fromkeys(score.method for score in scores))
    return Report(FILE, methods[0], ["set"], methods, scores, {"set": []}, {}, {}, "descant eval x")


MIXED = report(
    entry("greedy", "right", 0.5, 0.1, "higher"),
    entry("a", "right", 0.7, 0.1, "higher", 0.01),
    entry("b", "right", 0.9, 0.1, "higher", 0.5),
    entry("c", "right", 0.2, 0.1, "higher", 0.001),
    entry("greedy", "diversity", 0.3, 0.05, "higher"),
    entry("a", "diversity", 0.8, 0.05, "higher", 0.2),
    entry("b", "diversity", 0.8, 0.05, "higher", 0.2),
    entry("c", "diversity", math.nan, math.nan, "higher"),
    entry("greedy", "zipf", 1.0, math.nan, None),
    entry("a", "zipf", 1.1, math.nan, None),
)


def test_only_figures_that_show_something_are_drawn() -> None:
    captions = [caption for caption, _ in figures(MIXED, "set")]
    assert captions[0] == "set: right against diversity"
    assert [caption.split(",")[0] for caption in captions[1:]] == ["set: right", "set: diversity"]
    same = report(entry("greedy", "diversity", 1.0, 0.0, "higher"), entry("a", "diversity", 1.0, 0.0, "higher"))
    assert figures(same, "set") == []


def test_figures_are_svg_in_the_pages_ink_with_names_of_their_own() -> None:
    drawn = [svg for _, svg in figures(MIXED, "set")]
    names: list[str] = []
    for svg in drawn:
        tree = ET.fromstring(svg)
        labels = [node.text for node in tree.iter("{http://www.w3.org/2000/svg}text")]
        assert "greedy" in labels
        assert "currentColor" in svg
        assert "#010203" not in svg
        names += {node.get("id", "") for node in tree.iter() if node.tag.endswith("clipPath")}
    assert len(set(names)) == len(names)
    assert [svg for _, svg in figures(MIXED, "set")] == drawn  # the same every time


def test_marks_are_for_what_survives_the_correction() -> None:
    table = {method: entries[0] for method, entries in rows(MIXED, "set")}
    assert {method: cell.mark for method, cell in table.items()} == {"greedy": "", "a": "▲", "b": "", "c": "▼"}
    assert not any(cell.best for cell in table.values())  # b is the best, and may be so by luck
    assert dict(rows(MIXED, "set"))["c"][1] == Entry("–")
    sure = report(*(s for s in MIXED.scores if s.method != "b"))
    assert [method for method, entries in rows(sure, "set") if entries[0].best] == ["a"]


def test_numbers_are_short() -> None:
    assert [figure(value) for value in (0.0, 0.12345, 12.345, 1234.5, 0.00012)] == [
        "0.000",
        "0.123",
        "12.3",
        "1234",
        "1.2e-04",
    ]
