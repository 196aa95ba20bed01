"""Bad input ends in one line on stderr and an exit code; nothing reaches stdout."""

import errno
import io
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoints import sentencepiece_tokenizer, write_checkpoint
from cli_runs import Done, Run
from descant import Decoder
from descant.cli.console import Writer, report, stop_on_interrupt
from descant.errors import DescantError

PROMPT = "Hello world"


def check(done: Done, code: int, *messages: str) -> None:
    """Check that a command failed as it should."""
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith("descant: error: ")
    assert done.err.count("\n") == 1
    for message in messages:
        assert message in done.err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["generate"], "no prompt"),
        (["generate", ""], "the prompt is empty"),
        (["generate", PROMPT, "--alpha", "0"], "alpha is 0.0"),
        (["generate", PROMPT, "--alpha", "1.5"], "alpha is 1.5"),
        (["generate", PROMPT, "--tau-amateur", "0"], "amateur_temperature is 0.0"),
        (["generate", PROMPT, "--top-p", "1.5"], "TopP.p is 1.5"),
        (["generate", PROMPT, "--max-tokens", "-1"], "--max-new-tokens"),
        (["generate", PROMPT, "--amateur-window", "0"], "--amateur-window"),
        (["generate", PROMPT, "--beams", "2", "--draft-tokens", "2"], "cannot draft for a beam search"),
        (["generate", PROMPT, "--trace"], "--trace needs --json"),
        (["generate", PROMPT, "--logprobs", "1"], "--logprobs needs --json"),
        (["generate", PROMPT, "--prompts", "x"], "exclude each other"),
        (["generate", "--prompts", "/nowhere"], "cannot read /nowhere"),
        (["generate", PROMPT, "--output", "/nowhere/x"], "cannot write to /nowhere/x"),
        (["generate", PROMPT, "--rng", "transformers"], "--rng would have no effect"),
        (["sing"], "No such command 'sing'"),
        ([], "Missing command"),
    ],
)
def test_usage_errors(run: Run, args: list[str], message: str) -> None:
    check(run(*args), 2, message)


def test_unreadable_prompts(run: Run, tmp_path: Path) -> None:
    binary, empty = tmp_path / "binary", tmp_path / "empty"
    binary.write_bytes(b"\xff\xfe\x00")
    empty.write_text("")
    check(run("generate", "--prompts", binary), 2, "not UTF-8")
    check(run("generate", "--prompts", empty), 2, "holds nothing")
    check(run("generate", stdin=""), 2, "the prompt is empty")


def test_prompts_that_do_not_fit(run: Run, models: tuple[str, ...]) -> None:
    check(run("generate", "hello " * 600, *models), 2, "longer than the context")


def test_settings_the_models_refuse(run: Run, models: tuple[str, ...], folders: tuple[Path, Path]) -> None:
    check(run("generate", PROMPT, "--expert", folders[0], "--amateur-layer", "9"), 2, "layer 9", "1 to 2")
    check(run("generate", PROMPT, *models, "--dtype", "int3"), 2, "unknown dtype 'int3'")
    check(run("generate", PROMPT, *models, "--device", "abacus"), 2, "unknown device 'abacus'")
    check(run("generate", PROMPT, *models, "--method", "greedy"), 2, "--amateur would have no effect")
    check(run("generate", PROMPT, *models, "--system", "x", "--no-chat-template"), 2, "--system")


def test_broken_checkpoints(run: Run, folders: tuple[Path, Path], tmp_path: Path) -> None:
    check(run("generate", PROMPT, "--expert", "/nowhere/model"), 1, "/nowhere/model")
    corrupt = shutil.copytree(folders[1], tmp_path / "corrupt")
    weights = sorted(corrupt.glob("*.safetensors"))[0]
    weights.write_bytes(weights.read_bytes()[:-40])
    check(run("generate", PROMPT, "--expert", corrupt), 1, "corrupt")
    other = shutil.copytree(folders[1], tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    config |= {"model_type": "vit", "architectures": ["ViTModel"]}
    (other / "config.json").write_text(json.dumps(config))
    check(run("generate", PROMPT, "--expert", other), 1, "no causal language model")


def test_other_tokens(run: Run, folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = sentencepiece_tokenizer()
    tokenizer.add_tokens(["<|im_end|>", "<|endoftext|>"])
    stranger = write_checkpoint(tmp_path / "stranger", tokenizer, 416)
    capsys.readouterr()  # the progress of writing it
    done = run("generate", PROMPT, "--expert", folders[0], "--amateur", stranger)
    check(done, 2, "'<unk>' to the amateur")


@pytest.mark.parametrize("as_json", [(), ("--json",)])
def test_nan_logits(run: Run, folders: tuple[Path, Path], tmp_path: Path, as_json: tuple[str, ...]) -> None:
    broken = shutil.copytree(folders[1], tmp_path / "nan")
    for file in broken.glob("*.safetensors"):
        weights = {name: torch.full_like(value, torch.nan) for name, value in load_file(file).items()}
        save_file(weights, file, metadata={"format": "pt"})
    check(run("generate", PROMPT, "--expert", broken, *as_json), 1, "expert", "step 0", "not finite")
    done = run("generate", PROMPT, "--expert", folders[0], "--amateur", broken, *as_json)
    check(done, 1, "amateur", "not finite", "step 1")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("tried to\nallocate 2 GiB"), "out of memory (tried to allocate 2 GiB)"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out of memory"),
        (MemoryError(), "out of memory"),
        (DescantError("broken"), "broken"),
        (ZeroDivisionError("a\nb"), "unexpected ZeroDivisionError: a b (DESCANT_TRACEBACK=1"),
    ],
)
def test_failures_inside(
    run: Run,
    models: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    message: str,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Decoder, "from_pretrained", fail)
    check(run("generate", PROMPT, *models), 1, message)
    monkeypatch.setenv("DESCANT_TRACEBACK", "1")
    assert "Traceback" in run("generate", PROMPT, *models).err


def test_ctrl_c_while_loading(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Decoder, "from_pretrained", interrupt)
    done = run("generate", PROMPT)
    assert (done.code, done.out, done.err) == (130, "", "")


def test_one_ctrl_c_asks_and_two_abort() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with stop_on_interrupt() as stop:
            assert not stop()
            signal.raise_signal(signal.SIGINT)
            assert stop()
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with stop_on_interrupt() as stop:
            signal.raise_signal(signal.SIGINT)
            assert not stop()
    finally:
        signal.signal(signal.SIGINT, before)


def test_chatter_stays_off_stdout(run: Run, models: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    load = Decoder.from_pretrained

    def talk(*args: Any, **settings: Any) -> Decoder:
        print("chatter")
        return load(*args, **settings)

    monkeypatch.setattr(Decoder, "from_pretrained", talk)
    done = run("generate", PROMPT, *models, "--max-tokens", "2", "--json")
    assert len(done.objects) == 1
    assert done.err == "chatter\n"


class FullDisk(io.StringIO):
    """A file on a disk with no room."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_stdout_that_cannot_be_written(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", FullDisk())
    check(run("methods"), 1, "cannot write to standard output: No space left on device")
    monkeypatch.setattr(sys, "stdout", None)
    check(run("methods"), 1, "standard output is closed")


def test_json_is_plain() -> None:
    file = io.StringIO()
    Writer(file, "here").write_json({"a": [float("-inf"), float("nan"), 1.5], "é": None})
    assert json.loads(file.getvalue()) == {"a": [None, None, 1.5], "é": None}


def test_help_version_and_methods(run: Run) -> None:
    assert run("--help").code == 0
    assert run("--version").out.startswith("descant 0.")
    assert "contrastive-beta" in run("methods").out
    names = [row["name"] for row in run("methods", "--json").objects]
    assert names[:2] == ["greedy", "sample"]


def test_errors_are_reported_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(DescantError("one\n  two")) == 1
    assert capsys.readouterr().err == "descant: error: one two\n"
