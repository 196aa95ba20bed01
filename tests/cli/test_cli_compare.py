"""`descant compare`: methods side by side, and whether transformers agrees."""

from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig

from cli_runs import Run
from descant import Contrastive, Decoder, Likelihood, Sample, TopK
from descant.cli.options import RunOptions
from descant.cli.parity import generation_config, transformers_tokens
from descant.presets import preset

PROMPT = "Hello world"
OPTIONS = ("--max-tokens", "10", "--no-chat-template")


def test_the_default_methods(run: Run, models: tuple[str, ...], decoder: Decoder) -> None:
    done = run("compare", PROMPT, *models, *OPTIONS, "--json")
    rows = {row["name"]: row for row in done.objects}
    amateur = Decoder(decoder.amateur, decoder.tokenizer)  # type: ignore[arg-type]
    expected = {
        "amateur": amateur.generate(PROMPT, max_new_tokens=10),
        "greedy": decoder.generate(PROMPT, Likelihood(), max_new_tokens=10),
        "contrastive": decoder.generate(PROMPT, Contrastive(), max_new_tokens=10),
    }
    assert done.code == 0
    assert list(rows) == list(expected)
    for name, [output] in expected.items():
        assert rows[name]["token_ids"] == output.token_ids
    assert rows["greedy"]["transformers"]["same_tokens"] is True
    assert rows["amateur"]["transformers"]["same_tokens"] is True
    assert rows["contrastive"]["transformers"] is None


def test_sampling_agrees_with_transformers(run: Run, folders: tuple[Path, Path], decoder: Decoder) -> None:
    methods = "sample,top-k,top-p,min-p,typical,epsilon,eta,top-n-sigma"
    options = ("--seed", "5", "--temperature", "1.5", "--repetition-penalty", "1.1", "--no-repeat-ngram", "2")
    done = run("compare", PROMPT, "--expert", folders[0], *OPTIONS, "--methods", methods, *options, "--json")
    verdicts = {row["name"]: (row["transformers"] or {}).get("same_tokens") for row in done.objects}
    assert verdicts == {name: name != "top-n-sigma" or None for name in methods.split(",")}
    plain = run("compare", PROMPT, "--expert", folders[0], *OPTIONS, "--methods", "top-k", "--seed", "5", "--json")
    torch.manual_seed(5)
    [expected] = decoder.generate(PROMPT, Likelihood(), (TopK(50),), Sample(rng="transformers"), max_new_tokens=10)
    assert plain.objects[0]["token_ids"] == expected.token_ids


def test_beams_agree_with_transformers(run: Run, folders: tuple[Path, Path]) -> None:
    options = ("--beams", "3", "--length-penalty", "0.5", "--early-stopping", "never", "--no-repeat-ngram", "2")
    methods = ("--methods", "beam,diverse-beam,contrastive-search")
    done = run("compare", PROMPT, "--expert", folders[0], *OPTIONS, *methods, *options[:-2], "--json")
    assert done.code == 2  # groups of 4 do not divide 3 beams
    done = run("compare", PROMPT, "--expert", folders[0], *OPTIONS, *methods, *options[2:], "--json")
    verdicts = {row["name"]: (row["transformers"] or {}).get("same_tokens") for row in done.objects}
    assert verdicts == {"beam": True, "diverse-beam": None, "contrastive-search": None}
    assert all(row["score"] < 0 for row in done.objects[:2])


def test_the_checkpoints_own_settings_do_not_leak(decoder: Decoder) -> None:
    config = generation_config(preset("greedy"), RunOptions(max_new_tokens=10), decoder.eos_token_ids)
    assert config is not None
    [expected] = decoder.generate(PROMPT, Likelihood(), max_new_tokens=10)
    before = decoder.expert.generation_config
    decoder.expert.generation_config = GenerationConfig(repetition_penalty=5.0, min_new_tokens=9)
    try:
        ids = transformers_tokens(decoder.expert, decoder.tokenizer, expected.prompt_token_ids, config, lambda: False)
        assert decoder.expert.generation_config.repetition_penalty == 5.0
    finally:
        decoder.expert.generation_config = before
    assert ids == expected.token_ids


def test_transformers_stops_with_the_user(decoder: Decoder) -> None:
    config = generation_config(preset("greedy"), RunOptions(max_new_tokens=30, ignore_eos=True), ())
    assert config is not None
    asked = iter([False, False, True])
    assert len(transformers_tokens(decoder.expert, None, [1, 2], config, lambda: next(asked))) == 3


def test_the_context_ends_both(run: Run, folders: tuple[Path, Path]) -> None:
    done = run("compare", "hello " * 150, "--expert", folders[0], "--ignore-eos", "--no-chat-template", "--json")
    [found] = done.objects
    assert len(found["token_ids"]) < 256
    assert found["transformers"]["same_tokens"] is True


@pytest.mark.parametrize("stop", [None, ["e"]])
def test_stops_are_handed_over(decoder: Decoder, stop: list[str] | None) -> None:
    options = RunOptions(max_new_tokens=30, stop=stop, ignore_eos=True)
    config = generation_config(preset("greedy"), options, decoder.eos_token_ids)
    assert config is not None
    [expected] = decoder.generate(PROMPT, Likelihood(), max_new_tokens=30, stop=stop or (), ignore_eos=True)
    found = transformers_tokens(decoder.expert, decoder.tokenizer, expected.prompt_token_ids, config, lambda: False)
    assert found == expected.token_ids
    assert expected.finish_reason == ("length" if stop is None else "stop")


def test_the_table_fits_a_pipe(run: Run, models: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = run("compare", PROMPT, *models, *OPTIONS)
    assert done.code == 0
    assert "\x1b" not in done.out
    assert max(len(line) for line in done.out.splitlines()) <= 80
    rows = done.out.splitlines()
    assert rows[0] == PROMPT
    header = next(place for place, line in enumerate(rows) if "tokens/s" in line)
    rates = [line.split() for line in rows[header + 2 :] if line]
    assert [row[0] for row in rates] == ["amateur", "greedy", "contrastive"]
    assert [row[-1] == "–" for row in rates] == [False, False, True]
    assert "same," in rates[1]


def test_bad_rows_and_early_exits(run: Run, folders: tuple[Path, Path], tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("hello " * 600 + "\n\nHello\n", encoding="utf-8")
    done = run("compare", "--prompts", file, "--expert", folders[0], "--amateur-layer", "1", *OPTIONS)
    assert done.code == 3
    assert [line.split(": ")[2] for line in done.err.splitlines()] == ["prompt 1", "prompt 2"]
    assert "contrastive" in done.out
    assert "amateur" not in done.out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([PROMPT, "--top-k", "3"], "--top-k would have no effect"),
        ([PROMPT, "--methods", "greedy", "--beta", "3"], "--beta would have no effect"),
        ([PROMPT, "--methods", "amateur", "--amateur-layer", "1"], "needs a model of its own"),
        ([PROMPT, "--methods", " ,"], "names none"),
        ([PROMPT, "--methods", "greedy,best"], "no method 'best'"),
        ([PROMPT, "--methods", "contrastive", "--expert", "x"], "one of the methods needs an amateur"),
        ([PROMPT, "--seed", "1"], "nothing is drawn"),
        ([PROMPT, "--prompts", "x"], "exclude each other"),
        (["--expert", "x"], "no prompt"),
    ],
)
def test_usage_errors(run: Run, args: list[str], message: str) -> None:
    if "--top-k" in args:
        args = [*args, "--methods", "greedy"]
    done = run("compare", *args)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
