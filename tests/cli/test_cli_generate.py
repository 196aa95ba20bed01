"""`descant generate` prints what the library returns for the same call."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli_runs import Run, Terminal
from descant import (
    Beam,
    Contrastive,
    Decoder,
    EarlyExit,
    Guidance,
    Likelihood,
    OtherPrompt,
    Output,
    Piece,
    ProxyTuning,
    Sample,
    Temperature,
    Timing,
    TopK,
    Window,
)
from descant.cli.decoding import decode_rows
from descant.errors import DecodingError

PROMPT = "Hello world"


def text(decoder: Decoder, prompt: str = PROMPT, **settings: Any) -> str:
    return decoder.generate(prompt, max_new_tokens=12, **settings)[0].text


def test_the_text_is_the_librarys(run: Run, models: tuple[str, ...], decoder: Decoder) -> None:
    done = run("generate", PROMPT, *models, "--max-tokens", "12")
    assert (done.code, done.out, done.err) == (0, text(decoder, chat=True) + "\n", "")


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        (["--no-chat-template"], {}),
        (["--system", "Be brief."], {"chat": True, "system": "Be brief."}),
        (["--no-chat-template", "--method", "greedy"], {"scoring": Likelihood()}),
        (["--no-chat-template", "--alpha", "0.5", "--beta", "1"], {"scoring": Contrastive(0.5, 1.0)}),
        (
            ["--no-chat-template", "--temperature", "2", "--top-k", "9", "--seed", "4"],
            {"processors": (Temperature(2.0), TopK(9)), "strategy": Sample(), "seed": 4},
        ),
        (
            ["--no-chat-template", "--stop", "e", "--stop", "o", "--ignore-eos"],
            {"stop": ["e", "o"], "ignore_eos": True},
        ),
    ],
)  # fmt: skip
def test_options_reach_the_library(
    run: Run, folders: tuple[Path, Path], decoder: Decoder, options: list[str], settings: dict[str, Any]
) -> None:
    amateur = () if "greedy" in options else ("--amateur", folders[1])
    done = run("generate", PROMPT, "--expert", folders[0], *amateur, "--max-new-tokens", "12", *options)
    assert (done.code, done.out) == (0, text(decoder, **settings) + "\n")


@pytest.mark.parametrize("option", ["--amateur-layer", "--amateur-window"])
def test_amateurs_made_from_the_expert(run: Run, folders: tuple[Path, Path], decoder: Decoder, option: str) -> None:
    source = EarlyExit(2) if option == "--amateur-layer" else Window(decoder.expert, 2)
    done = run("generate", PROMPT, "--expert", folders[0], option, "2", "--max-tokens", "12", "--json")
    [found] = done.objects
    expected = Decoder(decoder.expert, decoder.tokenizer, source).generate(PROMPT, chat=True, max_new_tokens=12)
    assert found["token_ids"] == expected[0].token_ids
    assert found["method"]["amateur"]["name"] == type(source).__name__


@pytest.mark.parametrize("reader", ["expert", "amateur"])
def test_an_amateur_reads_another_prompt(run: Run, folders: tuple[Path, Path], decoder: Decoder, reader: str) -> None:
    named = ("--amateur", folders[1]) if reader == "amateur" else ()
    done = run(
        *("generate", PROMPT, "--expert", folders[0], *named, "--method", "guidance", "--amateur-prompt", "Hello"),
        *("--guidance-scale", "2", "--max-tokens", "12", "--json"),
    )
    [found] = done.objects
    part = OtherPrompt("Hello", decoder.amateur if named else None)  # type: ignore[arg-type]
    own = Decoder(decoder.expert, decoder.tokenizer, part)
    [expected] = own.generate(PROMPT, Guidance(2.0), chat=True, max_new_tokens=12)
    assert found["token_ids"] == expected.token_ids
    assert found["method"]["amateur"]["prompt"] == "Hello"


def test_further_models_are_named_by_their_role(run: Run, folders: tuple[Path, Path], decoder: Decoder) -> None:
    expert, amateur = folders
    base = ("generate", PROMPT, "--expert", expert, "--max-tokens", "12")
    tuned, untuned = ("--source", f"tuned={amateur}"), ("--source", f"untuned={expert}")
    done = run(*base, "--method", "proxy-tuning", *tuned, *untuned, "--alpha", "0.5")
    sources: Any = {"tuned": decoder.amateur, "untuned": decoder.expert}
    own = Decoder(decoder.expert, decoder.tokenizer, sources=sources)
    assert (done.code, done.out) == (0, text(own, scoring=ProxyTuning(0.5), chat=True) + "\n")
    for arguments, message in (
        (("--method", "proxy-tuning", *tuned), "needs --source untuned=NAME"),
        (("--method", "greedy", *tuned), "would have no effect"),
        (("--method", "proxy-tuning", "--source", "tuned"), "give ROLE=NAME"),
        (("--method", "guidance"), "--amateur-prompt TEXT"),
        (("--method", "greedy", "--amateur-prompt", "x"), "--amateur-prompt would have no effect"),
    ):
        failed = run(*base, *arguments)
        assert failed.code == 2
        assert message in failed.err


def test_transformers_draws(run: Run, models: tuple[str, ...]) -> None:
    args = (
        "generate",
        PROMPT,
        *models,
        "--top-k",
        "9",
        "--rng",
        "transformers",
        "--max-tokens",
        "12",
        "--json",
    )
    first, second = run(*args, "--seed", "3").objects[0], run(*args, "--seed", "3").objects[0]
    assert first["token_ids"] == second["token_ids"]
    assert (first["method"]["seed"], first["method"]["strategy"]["rng"]) == (3, "transformers")


def test_json_holds_everything(run: Run, models: tuple[str, ...], decoder: Decoder) -> None:
    done = run("generate", PROMPT, *models, "--max-tokens", "3", "--json", "--logprobs", "2", "--trace")
    [found] = done.objects
    [expected] = decoder.generate(PROMPT, chat=True, max_new_tokens=3, top_logprobs=2, trace=True)
    assert expected.top_logprobs is not None
    assert expected.trace is not None
    assert found["prompt"] == PROMPT
    assert (found["text"], found["token_ids"], found["finish_reason"]) == (
        expected.text, expected.token_ids, expected.finish_reason,
    )  # fmt: skip
    assert found["method"] == json.loads(json.dumps(expected.method))
    assert set(found["timing"]) == {"time_to_first_token", "total", "tokens_per_second"}
    assert found["logprobs"] == pytest.approx(expected.logprobs)
    assert [[token for token, _ in step] for step in found["top_logprobs"]] == [
        [token for token, _ in step] for step in expected.top_logprobs
    ]
    assert [step["expert_rank"] for step in found["trace"]] == [step.expert_rank for step in expected.trace]
    bare = run("generate", PROMPT, *models, "--max-tokens", "3", "--json").objects[0]
    assert set(found) - set(bare) == {"logprobs", "top_logprobs", "trace"}


@pytest.mark.parametrize("args", [(), ("-",)])
def test_piped_prompts(run: Run, models: tuple[str, ...], decoder: Decoder, args: tuple[str, ...]) -> None:
    done = run("generate", *args, *models, "--max-tokens", "12", "--no-chat-template", stdin=PROMPT + "\n")
    assert done.out == text(decoder) + "\n"


class Recorder(Terminal):
    """A terminal that keeps its pieces apart."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []

    def write(self, piece: str) -> int:
        self.pieces.append(piece)
        return len(piece)


@pytest.mark.parametrize("option", [(), ("--no-stream",)])
def test_a_terminal_gets_pieces(
    run: Run,
    models: tuple[str, ...],
    decoder: Decoder,
    monkeypatch: pytest.MonkeyPatch,
    option: tuple[str, ...],
) -> None:
    screen = Recorder()
    monkeypatch.setattr(sys, "stdout", screen)
    run("generate", PROMPT, *models, "--max-tokens", "12", "--no-chat-template", *option)
    assert "".join(screen.pieces) == text(decoder) + "\n"
    assert (len(screen.pieces) == 1) == bool(option)


@pytest.fixture
def batch(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join([PROMPT, "", "The dog", "hello " * 600, "world"]) + "\n", encoding="utf-8")
    return file


def test_bad_rows_are_reported_and_the_others_decoded(
    run: Run, models: tuple[str, ...], decoder: Decoder, batch: Path
) -> None:
    args = ("generate", "--prompts", batch, *models, "--max-tokens", "12", "--no-chat-template")
    expected = [text(decoder, prompt) for prompt in (PROMPT, "The dog", "world")]
    done = run(*args)
    assert done.code == 3
    assert done.out == "".join(line + "\n" for line in expected)
    errors = done.err.splitlines()
    assert len(errors) == 2
    assert errors[0].startswith("descant: error: prompt 2: the prompt is empty")
    assert "prompt 4" in errors[1]
    assert "longer than the context" in errors[1]
    found = run(*args, "--json", "--batch-size", "1").objects
    assert [row["index"] for row in found] == [0, 1, 2, 3, 4]
    assert ["error" in row for row in found] == [False, True, False, True, False]
    assert [row["text"] for row in found if "text" in row] == expected


def test_json_holds_the_beams(run: Run, models: tuple[str, ...], decoder: Decoder) -> None:
    [found] = run("generate", PROMPT, *models, "--max-tokens", "5", "--json", "--beams", "3").objects
    [expected] = decoder.generate(PROMPT, strategy=Beam(3), max_new_tokens=5, chat=True)
    assert (found["text"], found["score"]) == (expected.text, expected.score)
    assert [beam["token_ids"] for beam in found["alternatives"]] == [x.token_ids for x in expected.alternatives]
    assert [beam["score"] for beam in found["alternatives"]] == [x.score for x in expected.alternatives]
    printed = run("generate", PROMPT, *models, "--max-tokens", "5", "--beams", "3")
    assert (printed.code, printed.out) == (0, expected.text + "\n")


def test_jsonl_prompts(run: Run, models: tuple[str, ...], tmp_path: Path, decoder: Decoder) -> None:
    file = tmp_path / "prompts.jsonl"
    rows = ['{"prompt": "Hello world"}', "", '"The dog"', '{"text": "world"}', "{oops", '{"prompt": 3}']
    file.write_text("\n".join(rows), encoding="utf-8")
    done = run("generate", "--prompts", file, *models, "--max-tokens", "12", "--no-chat-template")
    expected = [text(decoder, prompt) for prompt in (PROMPT, "The dog", "world")]
    assert (done.code, done.out) == (3, "".join(line + "\n" for line in expected))
    assert [line.split(": ")[2] for line in done.err.splitlines()] == ["prompt 4", "prompt 5"]


def test_output_appends_to_a_file(run: Run, models: tuple[str, ...], tmp_path: Path, decoder: Decoder) -> None:
    file = tmp_path / "out.txt"
    file.write_text("before\n")
    done = run("generate", PROMPT, *models, "--max-tokens", "12", "--no-chat-template", "--output", file)
    assert (done.code, done.out) == (0, "")
    assert file.read_text() == "before\n" + text(decoder) + "\n"


class BreaksOn(Decoder):
    """A decoder whose call breaks once a certain prompt is in it; others end first."""

    def __init__(self) -> None:
        pass

    def stream(self, prompts: Any, *, seed: int | None, **_: Any) -> Iterator[Piece]:  # type: ignore[override]
        for index, prompt in enumerate(prompts):
            if prompt == "bad":
                raise DecodingError("not finite")
            yield Piece(index, "", [], self.output(prompt, seed))

    def generate(self, prompt: Any, **settings: Any) -> list[Output]:  # type: ignore[override]
        return [piece.output for piece in self.stream([prompt], **settings) if piece.output is not None]

    @staticmethod
    def output(prompt: str, seed: int | None) -> Output:
        return Output(prompt, [], "stop", [], {"seed": seed}, Timing(None, 0.0, 0.0), [])


def test_a_step_that_fails_loses_its_row_only() -> None:
    prompts = {0: "a", 2: "bad", 3: "c", 5: "d"}
    found = dict(decode_rows(BreaksOn(), prompts, {"seed": 10}, lambda: False))
    assert isinstance(found.pop(2), DecodingError)
    outputs = {place: output for place, output in found.items() if isinstance(output, Output)}
    assert {place: (output.text, output.method["seed"]) for place, output in outputs.items()} == {
        0: ("a", 10), 3: ("c", 13), 5: ("d", 15),
    }  # fmt: skip


SPECULATING: dict[str, list[str]] = {
    "amateur": ["--draft-tokens", "3"],
    "auto": ["--draft-tokens", "auto"],
    "layers": ["--draft-layer", "1", "--draft-confidence", "0"],
    "lookup": ["--draft-lookup", "2"],
    "model": ["--draft-model"],
    "preset": ["--method", "speculative-contrastive"],
}


@pytest.mark.parametrize("options", SPECULATING)
def test_speculation_prints_the_same_text_and_counts(run: Run, folders: tuple[Path, Path], options: str) -> None:
    expert, amateur = map(str, folders)
    common = ("--expert", expert, "--amateur", amateur, "--json", "--max-new-tokens", "12", "--ignore-eos")
    common = (*common, "--dtype", "float64")
    given = [*SPECULATING[options], *([amateur] if options == "model" else [])]
    [plain] = run("generate", PROMPT, *common).objects
    [done] = run("generate", PROMPT, *common, *given).objects
    assert done["token_ids"] == plain["token_ids"]
    assert done["method"]["strategy"]["name"] == "Speculative"
    count = done["speculation"]
    assert count["rounds"] + count["accepted"] in (12, 13)
    assert "speculation" not in plain


def test_tokens_exit_early_where_they_are_told_to(run: Run, folders: tuple[Path, Path]) -> None:
    common = ("--expert", str(folders[0]), "--json", "--max-new-tokens", "6", "--ignore-eos", "--exit-threshold")
    [done] = run("generate", PROMPT, *common, "0", "--exit-measure", "state", "--exit-layer", "2").objects
    assert done["exit_layers"] == [3, 2, 2, 2, 2, 2]
    settings = {"measure": "state", "threshold": 0.0, "layers": [2], "decay": None}
    assert done["method"]["confident_exit"] == {"name": "ConfidentExit", **settings}
    [never] = run("generate", PROMPT, *common, "1").objects
    [plain] = run("generate", PROMPT, *common[:-1]).objects
    assert never["token_ids"] == plain["token_ids"]
    assert "exit_layers" not in plain
    failed = run("generate", PROMPT, *common[:-1], "--exit-measure", "state")
    assert (failed.code, "give --exit-threshold" in failed.err) == (2, True)


def test_drafts_that_cannot_be_made_are_refused(run: Run, folders: tuple[Path, Path]) -> None:
    expert, amateur = map(str, folders)
    pair = ["--expert", expert, "--amateur", amateur]
    for options, said in (
        ([*pair, "--draft-tokens", "0"], "at least 1"),
        ([*pair, "--draft-tokens", "x"], "whole number from 1, or auto"),
        ([*pair, "--draft-layer", "1", "--draft-lookup", "2"], "drop all but one"),
        ([*pair, "--draft-tokens", "2", "--rng", "transformers", "--temperature", "1"], "own pace"),
        (["--expert", expert, "--draft-tokens", "2"], "needs an amateur"),
        ([*pair, "--draft-model", "nowhere/at-all"], "nowhere/at-all"),
    ):
        failed = run("generate", PROMPT, *options)
        assert failed.code in (1, 2)
        assert said in failed.err
