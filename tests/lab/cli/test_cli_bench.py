"""`descant bench`: what it prints and writes, on the bundled pair with a tiny budget."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from cli_runs import Run, Terminal
from descant import Contrastive, Decoder, Likelihood
from descant.cli.console import Progress

BUDGET = ("--max-new-tokens", "6", "--rounds", "2", "--draft-tokens", "1,3")
PLAIN = ["greedy", "contrastive"]
DESCANT = [*PLAIN, "speculative", "speculative contrastive"]


def spread(value: Any) -> bool:
    return set(value) == {"median", "low", "high"} and 0 < value["low"] <= value["median"] <= value["high"]


def test_one_json_object_holds_everything(run: Run) -> None:
    done = run("bench", *BUDGET, "--batch", "2", "--without-cache", "--json")
    assert (done.code, done.err) == (0, "")
    [found] = done.objects
    assert found["models"]["expert"]["name"] == "bundled expert"
    assert found["models"]["expert"]["weight_bytes"] == 4 * found["models"]["expert"]["parameters"]
    assert found["models"]["amateur"]["layers"] == 2
    settings = found["settings"]
    assert (settings["batch"], settings["max_new_tokens"], settings["rounds"]) == (2, 6, 2)
    assert settings["draft_tokens"] == [1, 3]
    assert settings["scorings"]["contrastive"]["alpha"] == 0.1
    assert {"device", "threads", "cpu", "commit", "torch", "transformers", "descant", "python"} <= set(
        found["conditions"]
    )
    assert found["missing"] == []
    assert spread(found["bandwidth"])
    figures = {(entry["engine"], entry["name"]): entry for entry in found["figures"]}
    theirs = ["greedy", "assisted", "contrastive", "contrastive, no cache"]
    assert list(figures) == [("descant", name) for name in DESCANT] + [("transformers", name) for name in theirs]
    for (engine, name), entry in figures.items():
        assert (entry["same_tokens"], entry["same_share"]) == (True, 1)
        for key in ("first_token_seconds", "tokens_per_second", "over_generate", "limit_tokens_per_second"):
            assert spread(entry[key]), key
        assert 0 < entry["share_of_limit"]["median"] < 2
        assert (entry["draft_tokens"] is not None) == (engine == "descant" and name not in PLAIN)
    assert figures["transformers", "greedy"]["over_generate"]["median"] == 1
    for name in DESCANT[2:]:
        entry = figures["descant", name]
        assert entry["draft_tokens"] in (1, 3)
        assert 0 <= entry["acceptance_rate"] <= 1
    assert [(entry["name"], entry["draft_tokens"]) for entry in found["drafts"]] == [
        (name, tokens) for name in DESCANT[2:] for tokens in (1, 3)
    ]


def test_files_are_written(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    done = run("bench", "What animal did Hugo Goldley keep?", *BUDGET, "--prompt-tokens", "20", "--out", folder)
    assert done.code == 0
    record = json.loads((folder / "bench.json").read_text(encoding="utf-8"))
    assert record["settings"]["prompt_tokens"] == {"least": 20, "most": 20}
    text = (folder / "bench.md").read_text(encoding="utf-8")
    for entry in record["figures"]:
        assert f"| {entry['engine']} | {entry['name']} |" in text
    assert record["command"] in text
    picture = imread(folder / "bench.png")
    assert min(picture.shape[:2]) > 300
    assert picture.std() > 0.05  # not one colour


def test_the_table_fits_a_pipe(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = run("bench", *BUDGET)
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split("  ")[0].strip() for line in lines if line.rstrip().endswith(" yes")] == [
        *DESCANT,
        "greedy",
        "assisted",
        "contrastive",
    ]


def test_an_expert_alone_and_its_own_amateurs(run: Run, folders: tuple[Path, Path]) -> None:
    plain = ("--expert", folders[0], *BUDGET, "--no-chat-template", "--json")
    [alone] = run("bench", *plain).objects
    assert [(entry["engine"], entry["name"]) for entry in alone["figures"]] == [
        ("descant", "greedy"),
        ("transformers", "greedy"),
    ]
    assert alone["models"]["amateur"] is None
    [early] = run("bench", *plain, "--amateur-layer", "1").objects
    assert [entry["name"] for entry in early["figures"]] == [*DESCANT, "greedy"]
    assert "EarlyExit" in early["models"]["amateur"]["name"]
    # Its drafts run a part of the expert, which no pass counts: the limit is not known.
    assert [entry["share_of_limit"] is None for entry in early["figures"]] == [False, False, True, True, False]
    [window] = run("bench", *plain, "--amateur-window", "3").objects
    assert all(entry["same_tokens"] and entry["share_of_limit"] for entry in window["figures"])


def test_the_usual_draft_lengths_are_those_that_fit(run: Run) -> None:
    [found] = run("bench", "--max-new-tokens", "4", "--rounds", "2", "--json").objects
    assert found["settings"]["draft_tokens"] == [1, 2, 3]


def test_the_plain_tokens_are_descants_own(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the others are compared with is what `generate` gives, an end of sequence notwithstanding."""
    from descant.lab.bench import contenders

    decoder = Decoder.demo()
    prompts = [decoder.tokenizer(text).input_ids for text in ("Who followed Lottie Dappleberry to church?", "Where")]
    for contender, scoring in zip(contenders.plain(decoder, 20), (Likelihood(), Contrastive()), strict=True):
        outputs = decoder.generate(prompts, scoring, max_new_tokens=20, ignore_eos=True)
        assert contender.run(prompts).tokens == [output.token_ids for output in outputs]


def test_progress_goes_to_a_terminals_stderr(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    done = run("bench", *BUDGET, "--json")
    assert len(done.objects) == 1
    assert "%" in terminal.getvalue()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--draft-tokens", "1,x"], "--draft-tokens holds 'x'"),
        (["--draft-tokens", ""], "--draft-tokens holds ''"),
        (["--draft-tokens", "0"], "--draft-tokens holds '0'"),
        (["--max-new-tokens", "8", "--draft-tokens", "8"], "below the 8 new tokens"),
        (["--max-new-tokens", "1"], "--max-new-tokens"),
        (["--rounds", "1"], "--rounds"),
        (["--batch", "0"], "--batch"),
        (["--threads", "0"], "--threads"),
        (["--out", __file__], "is a file"),
        (["x", "--prompts", "y"], "exclude each other"),
        (["--prompts", "/no/such/file"], "cannot read"),
        (["--max-new-tokens", "5000"], "context"),
        (["--prompt-tokens", "5000"], "context"),
        (["--amateur", "a", "--amateur-layer", "1"], "drop one"),
    ],
)
def test_usage_errors(run: Run, args: list[str], message: str) -> None:
    done = run("bench", *args)
    assert (done.code, done.out) == (2, "")
    assert message in done.err


def test_a_bad_line_is_refused_with_its_number(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('"Hello"\n17\n', encoding="utf-8")
    done = run("bench", "--prompts", file)
    assert done.code == 2
    assert "prompt 2 of" in done.err


def test_a_plot_needs_matplotlib(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    done = run("bench", "--out", tmp_path / "x")
    assert done.code == 2
    assert "pip install 'descant[lab]'" in done.err


def test_matplotlib_is_not_imported_without_need() -> None:
    code = "import descant.lab.bench, descant.lab.bench.report, sys; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_ctrl_c_ends_it_without_a_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[None] = []

    def interrupt(_: Progress) -> None:
        calls.append(None)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Progress, "advance", interrupt)
    done = run("bench", *BUDGET)
    assert (done.code, done.out, done.err) == (130, "", "")
    assert len(calls) == 3
