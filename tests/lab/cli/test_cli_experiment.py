"""`descant experiment`: what it lists, runs, draws and refuses."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from cli_runs import Run
from descant.demo import demo_paths
from descant.lab.experiments import EXPERIMENTS


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DESCANT_CACHE", str(tmp_path / "cache"))
    quick = replace(EXPERIMENTS["repetition"], repeats=1, prefix=2, length=2)
    monkeypatch.setitem(EXPERIMENTS, "repetition", quick)
    return tmp_path / "cache" / "experiments"


def test_lists_what_there_is(run: Run) -> None:
    done = run("experiment")
    assert done.code == 0
    assert [line.split("\t")[0] for line in done.out.splitlines()] == list(EXPERIMENTS)
    assert [entry["name"] for entry in run("experiment", "--json").objects] == list(EXPERIMENTS)


def test_runs_once_draws_again_and_measures_each_pair(run: Run, tmp_path: Path, cache: Path) -> None:
    seed = tmp_path / "seed-1"
    seed.mkdir()
    for folder in demo_paths():
        shutil.copytree(folder, seed / folder.name)
    out = tmp_path / "out"
    arguments = ("experiment", "repetition", "--seed-pair", seed, "--limit", "2", "--out", out)
    first = run(*arguments)
    assert first.code == 0, first.err
    assert "bundled: repeat" in first.err
    assert "seed-1" not in first.err  # the same weights: nothing new
    record = json.loads((out / "repetition.json").read_text())
    assert [pair["label"] for pair in record["pairs"]] == ["bundled", "seed-1"]
    assert record["pairs"][0]["training_seed"] == 0
    assert first.out in (out / "repetition.md").read_text()
    assert len(list(cache.iterdir())) == 1
    assert "bundled: repeat" not in run(*arguments).err
    record = json.loads((out / "repetition.json").read_text())
    again = run("experiment", "repetition", "--out", out, "--render", "--json")
    assert again.objects == [record]
    assert "bundled: repeat" in run("experiment", "repetition", "--limit", "2", "--fresh").err


def test_another_pair_is_asked_prompts(run: Run, models: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a b c d e f\nb c d e f a\nc d e f a b\n")
    done = run("experiment", "repetition", *models, "--prompts", tmp_path / "prompts.txt", "--json")
    assert done.code == 0, done.err
    assert done.objects[0]["asked"]["name"] == "prompts"


def test_a_pair_is_asked_what_it_was_trained_on(run: Run, tmp_path: Path) -> None:
    pair = tmp_path / "pair"
    for folder in demo_paths():
        shutil.copytree(folder, pair / folder.name)
    world = {"world": "arithmetic", "rho": 0.1}
    (pair / "training.json").write_text(json.dumps({"spec": {"seed": 7, "world": world}}))
    record = run("experiment", "repetition", "--seed-pair", pair, "--limit", "1", "--json").objects[0]
    assert [asked["name"] for asked in record["asked"]] == ["rumour", "arithmetic"]
    assert record["asked"][1]["rho"] == 0.1
    assert [entry["training_seed"] for entry in record["pairs"]] == [0, 7]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "choose from"),
        (["repetition", "--render"], "--out"),
        (["repetition", "--world", "flat"], "choose from rumour"),
        (["repetition", "--world", "rumour", "--prompts", "FILE"], "exclude each other"),
        (["repetition", "--prompts", "FILE"], "cannot read"),
        (["repetition", "--expert", str(demo_paths()[0])], "--amateur"),
        (["repetition", "--out", __file__], "is a file"),
        (["--limit", "3"], "no effect"),
        (["repetition", "--render", "--out", ".", "--limit", "3"], "no effect"),
        (["repetition", "--seed-pair", "a/one", "--seed-pair", "b/one"], "called alike"),
    ],
)
def test_refuses(run: Run, arguments: list[str], message: str) -> None:
    done = run("experiment", *arguments)
    assert done.code == 2
    assert message in done.err
