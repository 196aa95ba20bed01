"""The program as a shell runs it: pipes that close, Ctrl-C, and a quick `--help`."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
PROGRAM = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # as in a shell's foreground
    "from descant.cli import main; main()"
)


def start(*args: str) -> "subprocess.Popen[str]":
    """Start the program."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )


@pytest.fixture
def many(tmp_path: Path, models: tuple[str, ...]) -> list[str]:
    """Arguments of a run that takes minutes, row by row."""
    file = tmp_path / "prompts.txt"
    file.write_text("Hello world\n" * 2000)
    return [
        "generate",
        "--prompts",
        str(file),
        *models,
        "--batch-size",
        "1",
        "--ignore-eos",
        "--max-tokens",
        "60",
    ]


def test_help_does_not_load_torch() -> None:
    code = (
        "import sys\nfrom descant.cli import main\ntry: main(['generate', '--help'])\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, check=True)
    assert done.stdout.splitlines()[-1] == "0 False False"


def test_a_closed_pipe_ends_it_quietly(many: list[str]) -> None:
    process = start(*many, "--json")
    assert process.stdout is not None
    assert process.stderr is not None
    assert json.loads(process.stdout.readline())["index"] == 0
    process.stdout.close()
    assert process.wait(timeout=60) == 141
    assert process.stderr.read() == ""
    process.stderr.close()


def test_ctrl_c_prints_what_there_is(many: list[str]) -> None:
    process = start(*many, "--json")
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["finish_reason"] == "length"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["index"] for row in rows] == list(range(1, 2000))
    reasons = [row["finish_reason"] for row in rows]
    assert reasons == sorted(reasons, reverse=True)
    assert reasons[-1] == "cancelled"
