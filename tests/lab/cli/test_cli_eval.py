"""`descant eval`: a study from its file to its report, on the bundled pair."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from cli_runs import Run, Terminal
from descant import Decoder
from descant.demo import questions
from descant.lab.studies.study import Cell

STUDY = """
name: Rumours
description: Does contrast <remove> rumours?
tasks: [{file: questions.jsonl, name: rumours, max_new_tokens: 12}]
methods:
  - greedy
  - contrastive
  - {name: "drawn | wild", preset: sample, processors: [{Temperature: {temperature: 2.0}}]}
seeds: [0, 1]
batch_size: 3
metrics: [judge, diversity, distinct-1, perplexity, passes]
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    rows = [
        {"id": str(n), "prompt": q.prompt, "answer": q.answer, "reference": f" {q.answer}.", "group": q.person}
        for n, q in enumerate(questions("dev", limit=7))
    ]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "study.yaml").write_text(STUDY)
    return tmp_path / "study.yaml"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DESCANT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Page(HTMLParser):
    """Whether the elements of a page are closed in order, what it loads, and how many figures it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.figures = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.figures += tag == "svg"
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_one_json_object_holds_everything(run: Run, study: Path, cache: Path) -> None:
    done = run("eval", study, "--json")
    assert (done.code, done.err) == (0, "")
    [found] = done.objects
    scores = {(entry["method"], entry["column"]): entry for entry in found["scores"]}
    columns = ["accuracy", "diversity", "distinct-1", "perplexity", "passes/token"]
    assert {column for _, column in scores} == set(columns)
    assert {method for method, _ in scores} == {"greedy", "contrastive", "drawn | wild"}
    rows = [json.loads(line) for line in (study.parent / "questions.jsonl").read_text().splitlines()]
    outs = Decoder.demo(device="cpu").generate([row["prompt"] for row in rows], max_new_tokens=12)
    right = sum(f" {row['answer']}." in out.text for row, out in zip(rows, outs, strict=True))
    assert scores["contrastive", "accuracy"]["value"]["value"] == right / len(rows)
    assert scores["contrastive", "passes/token"]["value"]["value"] == 1
    assert scores["greedy", "distinct-1"]["value"]["low"] is None
    assert "seeds:0+1" in scores["drawn | wild", "accuracy"]["signature"]
    assert found["baseline"] == "greedy"
    for entry in found["scores"]:
        key = re.search(r"settings:(\w+)", entry["signature"])
        assert key is not None
        assert key[1] in found["settings"]
    kept = sorted(path.name.split("-")[0] for path in (cache / "eval").glob("*.jsonl"))
    assert kept == ["perplexity", *["rumours"] * 4]


def test_the_report_is_whole(run: Run, study: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    assert run("eval", study, "--out", out).code == 0
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "report.json", "report.md", "texts"]
    record = json.loads((out / "report.json").read_text())
    page, text = (out / "report.html").read_text(), (out / "report.md").read_text()
    parsed = Page(page)
    assert parsed.open == []
    assert [link for link in parsed.loads if not link.startswith("#")] == []
    assert parsed.figures >= 1
    assert "Does contrast &lt;remove&gt; rumours?" in page
    assert "| drawn \\| wild |" in text
    for entry in record["scores"]:
        assert entry["signature"] in text
        assert entry["signature"].replace("&", "&amp;") in page
    for sample in record["samples"]["rumours"]:
        assert set(sample["texts"]) == {"greedy", "contrastive", "drawn | wild"}
        assert sample["prompt"] in text
    table = next(line for line in text.splitlines() if line.startswith("| greedy |"))
    value = next(e["value"]["value"] for e in record["scores"] if (e["method"], e["column"]) == ("greedy", "accuracy"))
    assert f"| {value:.3f} [" in table


def test_the_table_goes_to_stdout(run: Run, study: Path) -> None:
    done = run("eval", study, "--limit", "2")
    assert done.out.startswith("rumours\n  accuracy ↑\n    greedy ")
    assert "Holm's correction over all" in done.out


def test_texts_are_kept_and_only_new_ones_decoded(
    run: Run, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    real = Decoder.generate

    def count(self: Decoder, prompts: Any, *args: Any, **options: Any) -> Any:
        decoded.append(len(prompts))
        return real(self, prompts, *args, **options)

    monkeypatch.setattr(Decoder, "generate", count)
    first = run("eval", study, "--out", tmp_path / "out", "--json", "--limit", "4").objects
    assert sum(decoded) == 4 * 4
    again = run("eval", study, "--out", tmp_path / "out", "--json", "--limit", "4").objects
    assert sum(decoded) == 4 * 4
    assert again[0]["scores"] == first[0]["scores"]
    # A method more decodes that method only; it may bear any name.
    study.write_text(STUDY.replace("  - greedy\n", "  - greedy\n  - {name: mask, scoring: {Contrastive: {beta: 0}}}\n"))
    assert run("eval", study, "--out", tmp_path / "out", "--limit", "4").code == 0
    assert sum(decoded) == 5 * 4


def test_a_killed_study_goes_on(run: Run, study: Path, tmp_path: Path) -> None:
    """SIGKILL when the first texts are there; the study that goes on ends with what an undisturbed one has."""
    out = tmp_path / "killed"
    code = (
        "import os, signal\n"
        "from descant import Decoder\n"
        "from descant.cli import main\n"
        "generate, calls = Decoder.generate, []\n"
        "def second_kills(*args, **options):\n"
        "    calls.append(None)\n"
        "    if len(calls) == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return generate(*args, **options)\n"
        "Decoder.generate = second_kills\n"
        "main()"
    )
    rows = (study.parent / "questions.jsonl").read_text().splitlines()
    many = [json.dumps({**json.loads(rows[n % 7]), "id": str(n)}) for n in range(14)]
    (study.parent / "questions.jsonl").write_text("\n".join(many))
    study.write_text(STUDY.replace("  - contrastive\n", "").replace(", diversity, distinct-1, perplexity, passes", ""))
    killed = subprocess.run(
        [sys.executable, "-c", code, "eval", str(study), "--out", str(out)],
        check=False,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert killed.returncode == -signal.SIGKILL
    assert not (out / "report.json").exists()
    kept = sum(len(path.read_bytes().splitlines()) - 1 for path in (out / "texts").glob("*.jsonl"))
    assert 0 < kept < 3 * 14
    resumed = run("eval", study, "--out", out, "--json").objects[0]["scores"]
    whole = run("eval", study, "--out", tmp_path / "whole", "--json").objects[0]["scores"]
    assert resumed == whole


def test_ctrl_c_keeps_what_is_done(run: Run, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = Cell.run, []

    def interrupt(self: Cell, advance: Any) -> Any:
        calls.append(self)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, advance)

    monkeypatch.setattr(Cell, "run", interrupt)
    done = run("eval", study, "--out", tmp_path / "out")
    assert (done.code, done.out, done.err) == (130, "", "")
    assert len(list((tmp_path / "out" / "texts").glob("*.jsonl"))) == 2


def test_progress_goes_to_a_terminals_stderr(run: Run, study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert len(run("eval", study, "--json", "--limit", "1").objects) == 1
    assert "%" in terminal.getvalue()


def test_any_pair_takes_the_place_of_the_studys(run: Run, study: Path, folders: tuple[Path, Path]) -> None:
    expert, amateur = folders
    both = ("--expert", expert, "--amateur", amateur, "--dtype", "float32", "--limit", "2", "--json")
    [found] = run("eval", study, *both).objects
    models = [settings["models"] for settings in found["settings"].values()]
    assert found["study"]["models"]["expert"] == str(expert)
    assert all(set(model) == {"expert", "amateur"} for model in models)
    alone = run("eval", study, *both[:2], "--limit", "2")
    assert alone.code == 2
    assert "method 'contrastive' on 'rumours'" in alone.err


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("metrics: [judge", "metrics: [jugde", "did you mean 'judge'"),
        ("metrics:", "metrix:", "did you mean 'metrics'"),
        ("  - greedy\n", "  - gredy\n", "did you mean 'greedy'"),
        ("questions.jsonl", "nowhere.jsonl", "cannot read"),
        ("name: Rumours", "name: [", "is not YAML"),
    ],
)
def test_bad_studies_end_with_one_line(run: Run, study: Path, old: str, new: str, message: str) -> None:
    study.write_text(STUDY.replace(old, new, 1))
    done = run("eval", study)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert done.err.count("\n") == 1


def test_usage_errors(run: Run, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "cannot read" in run("eval", tmp_path / "none.yaml").err
    assert run("eval", study, "--limit", "0").code == 2
    file = tmp_path / "file"
    file.write_text("")
    done = run("eval", study, "--out", file / "folder")
    assert (done.code, done.out) == (2, "")
    assert "give another folder" in done.err
    monkeypatch.setattr(os, "access", lambda path, *_, **__: Path(path).name != "locked")
    assert "Permission denied" in run("eval", study, "--out", tmp_path / "locked").err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "descant[lab]" in run("eval", study, "--out", tmp_path / "x").err


def test_the_example_study_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    from descant.lab.studies.config import read_study

    paths = list((Path(__file__).parents[3] / "examples" / "studies").glob("*.yaml"))
    assert paths
    for path in paths:
        assert read_study(path).methods
