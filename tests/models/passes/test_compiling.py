"""What compilations leave behind, those that end and those that are killed."""

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

import architectures
from descant.models import inspect_model
from descant.models.passes import artefacts
from descant.models.passes.probe import find_layout
from descant.models.passes.step import Bucket

LIMIT = 300
"""Seconds after which a test gives up what it waits for; no test measures any."""

COMPILES = "import architectures; from descant import Decoder; Decoder(architectures.build('llama')).warm_up()"

COMPILER = """#!/bin/sh
case "$1" in -v|--version) exec g++ "$@";; esac
echo $$ > {started}.new
mv {started}.new {started}
exec sleep 600
"""


def wait_for(file: Path, process: "subprocess.Popen[bytes]") -> int:
    end = time.monotonic() + LIMIT
    while not file.exists():
        assert process.poll() is None, "it ended before it had a compiler run"
        assert time.monotonic() < end
        time.sleep(0.02)
    return int(file.read_text())


def test_a_process_that_is_killed_while_it_compiles_holds_no_lock(tmp_path: Path) -> None:
    """The compiler that it runs is still there, and must not have inherited one either."""
    started, compiler, folder, inductor = (tmp_path / name for name in ("started", "g++", "descant", "inductor"))
    compiler.write_text(COMPILER.format(started=started))
    compiler.chmod(0o755)
    environment = {
        **os.environ,
        "CXX": str(compiler),
        "DESCANT_CACHE": str(folder),
        "TORCHINDUCTOR_CACHE_DIR": str(inductor),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, sys.path)]),
    }
    with subprocess.Popen([sys.executable, "-c", COMPILES], env=environment, stderr=subprocess.DEVNULL) as process:
        running = psutil.Process(wait_for(started, process))
        held = [lock for lock in tmp_path.rglob("*.lock") if not free(lock)]
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == -signal.SIGTERM
    try:
        assert running.is_running()
        assert held, "nothing was locked: nothing is tested"
        assert all(map(free, held))
    finally:
        running.kill()


def free(lock: Path) -> bool:
    with open(lock, "r+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_what_killed_compilations_left_is_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two are killed, one of them of another model; a day later another one starts, beside one that runs."""
    architecture = inspect_model(architectures.build("qwen2 windowed"))
    make = tempfile.mkstemp
    places: list[Path] = []

    def noting(**settings: Any) -> tuple[int, str]:
        handle, name = make(**settings)
        os.close(handle)
        places.append(Path(name))
        return os.open(name, os.O_RDWR), f"{name}.gone"  # what ends it cleans up nothing

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("killed")

    def compile_for(model: str) -> Path:
        with pytest.raises(RuntimeError, match="killed"):
            artefacts.compile_step(
                architecture,
                find_layout(architecture),
                Bucket(1, 1, every=False),
                tmp_path / model / "1x1.pt2",
                lambda step: None,
            )
        return places[-1]

    monkeypatch.setattr(tempfile, "mkstemp", noting)
    monkeypatch.setattr(artefacts, "_trace", lambda *_: None)
    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", fail)
    day_ago = time.time() - 86400
    old = [compile_for("one"), compile_for("other"), tmp_path / "one" / "1x1.pt2"]
    for file in old:
        file.touch()
        os.utime(file, (day_ago, day_ago))
    new = [compile_for("one"), compile_for("one")]
    assert sorted(tmp_path.glob("*/*")) == sorted([old[-1], *new])
