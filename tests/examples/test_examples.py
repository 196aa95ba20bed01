"""The examples run on checkpoints as the hub has them, and print what the library gives for the same settings."""

import runpy
from pathlib import Path

import pytest

from checkpoints import write_pair
from descant import Contrastive, Decoder, Likelihood

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_pair(tmp_path_factory.mktemp("pair"))


def run(name: str, *arguments: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", [name, *map(str, arguments)])
    monkeypatch.setenv("COLUMNS", "4000")  # a table then wraps no line
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_main_streams_contrastive_text(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expert, amateur = pair
    length = ("--max-new-tokens", 12)
    run("main.py", "Hello", "--expert", expert, "--amateur", amateur, *length, monkeypatch=monkeypatch)
    decoder = Decoder.from_pretrained(expert, amateur=amateur)
    [output] = decoder.generate("Hello", Contrastive(alpha=0.1), max_new_tokens=12, chat=True)
    assert capsys.readouterr().out == output.text + "\n"
    assert len((EXAMPLES / "main.py").read_text().splitlines()) <= 30


def test_side_by_side_shows_three_texts_of_two_prompts(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expert, amateur = pair
    length = ("--max-new-tokens", 12)
    run("side_by_side.py", "--expert", expert, "--amateur", amateur, *length, monkeypatch=monkeypatch)
    printed = capsys.readouterr().out
    assert printed.count("contrastive") == 2
    [alone] = Decoder.from_pretrained(amateur).generate("Write a haiku about rain. Answer with the haiku alone.",
                                                        Likelihood(), max_new_tokens=12, chat=True)  # fmt: skip
    assert alone.text.split("\n")[0].strip() in printed


def test_early_exit_tries_the_layers(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expert, _ = pair
    options = ("--expert", expert, "--every", 1, "--max-new-tokens", 12)
    run("early_exit.py", "Hello", *options, monkeypatch=monkeypatch)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in lines] == ["plain", "layer 1", "layer 2"]
    [plain] = Decoder.from_pretrained(expert).generate("Hello", Likelihood(), max_new_tokens=12, chat=True)
    assert lines[0] == f"plain\t{plain.text!r}"
