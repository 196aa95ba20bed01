"""The framework of experiments: measurements are kept, records become pages, the command line runs both."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from descant import Contrastive, Decoder, EarlyExit, Likelihood
from descant.errors import LoadError
from descant.lab.experiments import EXPERIMENTS, Cells, Pair, report
from descant.lab.experiments.plotting import heatmap, panels
from descant.lab.experiments.questions import Prompts
from descant.lab.experiments.tables import methods_table, points, share, table, with_interval
from descant.lab.studies.identity import identify
from descant.lab.worlds.rumour import Rumour


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return Decoder.demo()


QUICK: Mapping[str, Mapping[str, Any]] = {
    "early-exit": {
        "most_exits": 1,
        "rounds": 2,
        "timed_prompts": 1,
        "timed_tokens": 2,
        "alphas": (0.1,),
        "taus": (1.0, 2.0),
    },
    "amateurs": {"taus": (1.0,), "windows": (2,)},
    "methods": {"alphas": (0.1,), "betas": (0.5,)},
    "faults": {"alphas": (0.1,), "taus": (1.0, 2.0), "betas": (0.5,), "open_alphas": (0.01,)},
    "repetition": {"repeats": 2, "length": 6},
    "sensitivity": {"alphas": (0.1,), "betas": (0.0, 1.0), "taus": (1.0,)},
}
"""Settings under which an experiment takes a moment."""

PAGES = Path(__file__).parents[3] / "docs" / "experiments"


@dataclass(frozen=True)
class Doubling:
    """An experiment on nothing."""

    factor: float = 2.0

    name = "doubling"
    title = "Doubling"
    question = "What is twice as much?"

    def run(self, pair: Pair) -> dict[str, Any]:
        return {"value": pair.cells.measure({"of": 0.1}, lambda: self.factor / 3)}

    def page(self, results: Mapping[str, Any]) -> str:
        return table(["pair", "value"], [[label, f"{data['value']:.3f}"] for label, data in results.items()])

    def figures(self, results: Mapping[str, Any]) -> Mapping[str, Any]:
        figure, axes = panels(1)
        heatmap(axes[0][0], [[0.1, 0.9]], ["row"], ["left", "right"], low=0, high=1)
        return {"values": figure}


def test_a_measurement_is_made_once_and_survives_the_process(tmp_path: Path) -> None:
    made: list[int] = []
    for _ in range(2):
        cells = Cells(tmp_path / "deep" / "cells.jsonl", {"seed": 0})
        for number in (1, 2, 1):
            value = cells.measure(
                {"number": number}, lambda number=number: made.append(number) or {"of": (number, 0.1)}
            )
            assert value == {"of": [number, 0.1]}  # as JSON has it, found or not
    assert made == [1, 2]


def test_a_measurement_belongs_to_all_its_settings(tmp_path: Path) -> None:
    path = tmp_path / "cells.jsonl"
    for settings in ((0, 0), (0, 1), (1, 0), (1, 1)):
        cells = Cells(path, {"seed": settings[0]})
        assert cells.measure({"n": settings[1]}, lambda settings=settings: settings) == list(settings)


def test_a_torn_line_is_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "cells.jsonl"
    Cells(path, {}).measure({"n": 1}, lambda: "kept")
    with path.open("a", encoding="utf-8") as file:
        file.write('{"key": "0", "val')
    cells = Cells(path, {})
    assert cells.measure({"n": 1}, lambda: "again") == "kept"
    assert cells.measure({"n": 2}, lambda: "new") == "new"
    assert Cells(path, {}).measure({"n": 2}, lambda: "again") == "new"


def test_answers_are_those_of_the_decoder_and_looked_up_by_amateur(decoder: Decoder, tmp_path: Path) -> None:
    notes: list[str] = []
    pair = Pair("bundled", decoder, Rumour(), Cells(tmp_path / "cells.jsonl", {}, notes.append), limit=3)
    tasks = pair.tasks("test", 100)
    assert len(tasks) == 3
    early = pair.with_amateur(EarlyExit(1))
    texts = [pair.answer(tasks, Contrastive()), early.answer(tasks, Contrastive()), pair.answer(tasks, Likelihood())]
    assert len(notes) == 3
    assert texts[0] == pair.answer(tasks, Contrastive())
    assert len(notes) == 3
    prompts = [task.prompt for task in tasks]
    assert texts[0] == [out.text for out in decoder.generate(prompts, Contrastive(), max_new_tokens=24)]
    assert texts[1] == [out.text for out in early.decoder.generate(prompts, Contrastive(), max_new_tokens=24)]


def test_the_judge_knows_truth_and_rumour() -> None:
    asked = Rumour()
    task = asked.tasks("dev", 1)[0]
    assert asked.judge(task, f" It was {task.facts['answer']}.") == {"correct": 1, "rumour": 0, "no_answer": 0}
    assert asked.judge(task, " Nobody knows.") == {"correct": 0, "rumour": 0, "no_answer": 1}


def test_prompts_are_split_and_judged_by_nothing() -> None:
    asked = Prompts([f"prompt {n}" for n in range(7)])
    dev, test = (asked.tasks(split) for split in ("dev", "test"))
    assert (len(dev), len(test)) == (3, 4)
    assert not {task.id for task in dev} & {task.id for task in test}
    assert asked.judge(test[0], "anything") == {}
    assert asked.tasks("test", 2) == test[:2]
    assert Prompts(["one"]).tasks("test") == Prompts(["one"]).tasks("dev")


def test_models_are_told_apart_by_their_weights(decoder: Decoder) -> None:
    assert identify(decoder.expert) == identify(Decoder.demo().expert)
    assert identify(decoder.expert)["weights"] != identify(decoder.amateur)["weights"]
    assert json.dumps(identify(EarlyExit(2)))


def test_a_record_becomes_a_page_and_figures_and_what_was_written_by_hand_stays(
    decoder: Decoder, tmp_path: Path
) -> None:
    pair = Pair("bundled", decoder, Rumour(), Cells(None, {}), facts={"training_seed": 0})
    record = report.run(Doubling(), [pair], "descant experiment doubling")
    assert record["pairs"][0]["data"] == {"value": 0.66667}
    assert record["settings"]["factor"] == 2
    report.write(tmp_path, Doubling(), record)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["doubling-values.svg", "doubling.json", "doubling.md"]
    page = (tmp_path / "doubling.md").read_text()
    for part in (
        "# Doubling",
        "What is twice as much?",
        "| bundled | 0.667 |",
        "descant experiment doubling",
        "3.48 M",
    ):
        assert part in page
    (tmp_path / "doubling.md").write_text(page + "\n## What it shows\n\nLittle.\n")
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    report.write(tmp_path, Doubling(), report.read(tmp_path, Doubling()))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before


def test_nothing_is_drawn_without_a_record(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="run the experiment"):
        report.read(tmp_path, Doubling())


def test_numbers_are_written_as_tables_have_them() -> None:
    interval = {"value": 0.5, "low": 0.25, "high": 1.0}
    assert (share(0.73249), share(1.0), share(0.0), share(None)) == (".732", "1.000", ".000", "–")
    assert with_interval(interval) == ".500 (.250–1.000)"
    assert points({"value": -0.012, "low": -0.03, "high": 0.01}) == "-1.2 (-3.0 to +1.0)"
    assert table(["a"], [["<b|c>"]]) == "| a |\n| --- |\n| &lt;b\\|c> |"


def test_several_pairs_are_averaged() -> None:
    entry = {"scores": {"correct": {"value": 0.5, "low": 0.4, "high": 0.6}}, "same": 1.0}
    other = {"scores": {"correct": {"value": 0.7, "low": 0.4, "high": 0.8}}, "same": 0.5}
    for one, gain in ((entry, 0.1), (other, 0.2)):
        one["gain"] = {"value": gain, "low": 0.0, "high": 0.3}
    lines = methods_table({"a": {"methods": {"contrast": entry}}, "b": {"methods": {"contrast": other}}}).splitlines()
    assert lines[-1] == "| contrast | mean |  | .600 | – | +15.0 | .750 |"


def test_every_experiment_has_a_name_and_asks_one_question() -> None:
    for name, experiment in EXPERIMENTS.items():
        assert experiment.name == name
        assert experiment.title
        assert experiment.question.endswith("?")


@pytest.mark.parametrize("name", sorted(EXPERIMENTS))
def test_each_experiment_runs_on_the_bundled_pair_and_on_bare_prompts(
    name: str, decoder: Decoder, tmp_path: Path
) -> None:
    experiment = replace(EXPERIMENTS[name], **QUICK.get(name, {}))
    for asked in (Rumour(), Prompts(["Who followed Lottie Dappleberry to church?"] * 3, max_new_tokens=8)):
        folder = tmp_path / asked.name
        cells = Cells(folder / "cells", {})
        pairs = [Pair(label, decoder, asked, cells, limit=2) for label in ("one", "two")]
        record = report.run(experiment, pairs, "descant experiment")
        assert record["pairs"][0]["data"] == record["pairs"][1]["data"]
        for path in report.write(folder, experiment, record):
            assert path.stat().st_size < 200_000
        page = (folder / f"{name}.md").read_text()
        assert ("Nobody knows the right answers" in page) == isinstance(asked, Prompts)
        assert "| mean |" in page or name not in ("early-exit", "sensitivity", "faults")
        assert set(folder.glob("*.svg")) == {folder / part.split(")")[0] for part in page.split("](")[1:]}


@pytest.mark.parametrize("name", sorted(path.stem for path in PAGES.glob("*.json")))
def test_committed_pages_are_what_their_records_say(name: str) -> None:
    record = json.loads((PAGES / f"{name}.json").read_text())
    page = (PAGES / f"{name}.md").read_text()
    generated, mark, written = page.partition(report.END)
    assert mark
    assert generated == report.markdown(EXPERIMENTS[name], record)
    assert "## What it shows" in written
    assert "/tmp" not in page + json.dumps(record)
    assert {path.name for path in PAGES.glob(f"{name}-*.svg")} == set(re.findall(r"!\[[^]]*\]\(([^)]+)\)", page))


def test_every_experiment_has_a_committed_page() -> None:
    assert {path.stem for path in PAGES.glob("*.json")} == set(EXPERIMENTS)
