"""The command line run within the process: arguments in; exit code, stdout and stderr out. Fixtures and helpers."""

import io
import json
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from checkpoints import write_pair
from descant import Decoder
from descant.cli import main


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def objects(self) -> list[dict[str, Any]]:
        """What it printed, if that is JSON."""
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Done]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    def call(*args: str | Path, stdin: str | None = None) -> Done:
        monkeypatch.setattr(sys, "stdin", Terminal() if stdin is None else io.StringIO(stdin))
        with pytest.raises(SystemExit) as end:
            main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return Done(int(end.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture(autouse=True)
def foreground() -> Iterator[None]:
    """Let Ctrl-C interrupt, as in a shell's foreground: whatever runs behind `&` inherits that it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="session")
def models(folders: tuple[Path, Path]) -> tuple[str, ...]:
    expert, amateur = map(str, folders)
    return ("--expert", expert, "--amateur", amateur)


@pytest.fixture(scope="session")
def decoder(folders: tuple[Path, Path]) -> Decoder:
    expert, amateur = map(str, folders)
    return Decoder.from_pretrained(expert, amateur=amateur)
