"""Compilation beside decoding: when it starts, how its process ends, and that no token changes."""

import gc
import logging
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import psutil
import pytest
import torch
from test_ragged import best, prompts_of, reference

import architectures
from descant.models import Runner, artefacts, background, compiling, inspect_model, skeleton
from descant.models import runner as runner_module
from descant.models.architecture import Architecture
from descant.models.background import Compilation, Outcome
from descant.models.compiling import Job
from descant.models.huggingface import RaggedModel
from descant.models.probe import find_layout
from descant.models.step import Bucket

LIMIT = 300
"""Seconds after which a test gives up what it waits for; no test measures any."""


@pytest.fixture
def architecture() -> Architecture:
    return inspect_model(architectures.build("qwen2 windowed"))


class Ends:
    """Collects outcomes."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self._event = threading.Event()

    def __call__(self, reason: str) -> None:
        self.reasons.append(reason)
        self._event.set()

    def wait(self) -> str:
        assert self._event.wait(LIMIT)
        return self.reasons[-1]


def python(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Have processes run some code in place of the compiler."""
    monkeypatch.setattr(background, "_COMMAND", ("-c", code))


@pytest.fixture(autouse=True)
def ordinary_priority(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """The lowest one waits as long as other tests keep the cores busy."""
    lower = background._lower_priority
    monkeypatch.setattr(background, "_lower_priority", lambda pid: None)
    return lower


READ = "import sys; size = int.from_bytes(sys.stdin.buffer.read(8)); job = sys.stdin.buffer.read(size); "
SLEEP = "import time; time.sleep(600)"


def test_a_process_is_sent_its_job_and_its_end_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    python(monkeypatch, READ + f"open({str(tmp_path / 'sent')!r}, 'wb').write(job)")
    job, ends = bytes(range(256)) * 1000, Ends()  # more than a pipe holds
    assert background.start(lambda: job, tmp_path, ends) is not None
    assert ends.wait() == ""
    assert (tmp_path / "sent").read_bytes() == job
    python(monkeypatch, READ + "print('noise'); print('more', file=sys.stderr); sys.exit('the reason')")
    failing = Ends()
    assert background.start(lambda: job, tmp_path, failing) is not None
    assert failing.wait() == "the reason"
    python(monkeypatch, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")  # before it has read its job
    killed = Ends()
    assert background.start(lambda: job, tmp_path, killed) is not None
    assert killed.wait() == "it ended with -9"
    assert capfd.readouterr() == ("", "")


def test_one_process_runs_at_a_time_for_a_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    python(monkeypatch, SLEEP)
    ends = Ends()
    first = background.start(lambda: b"", tmp_path / "one", ends)
    assert first is not None
    assert background.start(lambda: b"", tmp_path / "one", ends) is None
    other = background.start(lambda: b"", tmp_path / "two", ends)
    assert other is not None
    first.stop()
    again = background.start(lambda: b"", tmp_path / "one", ends)
    assert again is not None
    for one in (other, again):
        one.stop()
    assert ends.reasons == [], "what is stopped has no outcome"


def test_a_stopped_process_takes_the_compiler_it_runs_with_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    python(monkeypatch, f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEP!r}])")
    one = background.start(lambda: b"", tmp_path, Ends())
    assert one is not None
    parent = psutil.Process(one._process.pid)
    while not (children := parent.children()):
        time.sleep(0.01)
    one.stop()
    gone, alive = psutil.wait_procs([*children], timeout=LIMIT)
    assert (len(gone), alive) == (1, [])
    assert not parent.is_running()


def test_decoding_goes_first(ordinary_priority: Callable[[int], None]) -> None:
    with subprocess.Popen([sys.executable, "-c", SLEEP]) as process:
        ordinary_priority(process.pid)
        assert psutil.Process(process.pid).nice() == 19
        process.kill()


def test_nothing_starts_where_nothing_can_be_written_or_sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    python(monkeypatch, SLEEP)
    (tmp_path / "file").touch()
    assert background.start(lambda: b"", tmp_path / "file", Ends()) is None

    def unsent() -> bytes:
        raise pickle.PicklingError("a hook")

    assert background.start(unsent, tmp_path, Ends()) is None
    monkeypatch.setattr(sys, "executable", "")
    assert background.start(lambda: b"", tmp_path, Ends()) is None


def test_an_application_with_python_inside_is_not_started_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    python(monkeypatch, SLEEP)
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert background.start(lambda: b"", tmp_path, Ends()) is None


class Endless:
    """A job that takes for ever to read."""

    def __reduce__(self) -> tuple[Callable[[float], None], tuple[float]]:
        return time.sleep, (600.0,)


PARENT = """
import os, pickle, signal, sys
from pathlib import Path
from descant.models import background
one = background.start(lambda: bytes.fromhex(sys.argv[2]), Path(sys.argv[1]), print)
print(one._process.pid, flush=True)
sys.stdin.readline()
if sys.argv[3] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[3] == "interrupt":
    signal.raise_signal(signal.SIGINT)
"""


@pytest.mark.parametrize("how", ["interrupt", "kill"])
def test_no_process_outlives_the_one_that_started_it(how: str, tmp_path: Path) -> None:
    """The real one runs, and reads a job that never ends."""
    command = [sys.executable, "-c", PARENT, str(tmp_path), pickle.dumps(Endless()).hex(), how]
    parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    out, err = parent.communicate("\n", timeout=LIMIT)
    assert out == ""
    assert err.strip().splitlines()[-1:] == (["KeyboardInterrupt"] if how == "interrupt" else [])
    gone, _ = psutil.wait_procs([child], timeout=LIMIT)
    assert gone == [child]


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pass pays for a compilation."""
    monkeypatch.setattr(runner_module, "_SECONDS", 0.0)
    monkeypatch.setattr(runner_module, "_SECONDS_OF_LAYER", 0.0)


class Started:
    """Stands in for `background.start`: notes what would be started, and its outcome."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.jobs: list[Job] = []
        self.outcomes: list[Outcome] = []
        monkeypatch.setattr(background, "start", self)

    def __call__(self, job: Callable[[], bytes], folder: Path, outcome: Outcome) -> None:
        self.jobs.append(skeleton.load(job()))
        self.outcomes.append(outcome)


@torch.inference_mode()
def decode(architecture: Architecture, runner: Runner, tokens: int = 8) -> list[list[int]]:
    """Greedy decoding of two rows."""
    model = RaggedModel(architecture, runner)
    model.add_rows(2)
    prompts = prompts_of((5, 3))
    texts = [[token] for token in best(model.forward(prompts))]
    while len(texts[0]) < tokens:
        for text, token in zip(texts, best(model.forward([[text[-1]] for text in texts])), strict=True):
            text.append(token)
    return texts


def expected(architecture: Architecture, tokens: int = 8) -> list[list[int]]:
    return [reference(architecture.model, prompt, tokens) for prompt in prompts_of((5, 3))]


def test_short_calls_start_nothing(monkeypatch: pytest.MonkeyPatch, architecture: Architecture, tmp_path: Path) -> None:
    started = Started(monkeypatch)
    decode(architecture, Runner(architecture, "auto", tmp_path))
    assert started.jobs == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("cheap")
def test_a_shape_that_has_cost_enough_is_compiled_and_only_if_asked_for(
    monkeypatch: pytest.MonkeyPatch, architecture: Architecture, tmp_path: Path
) -> None:
    started = Started(monkeypatch)
    for mode in ("cached", "eager"):
        decode(architecture, Runner(architecture, mode, tmp_path))  # type: ignore[arg-type]
    assert started.jobs == []
    runner = Runner(architecture, "auto", tmp_path)
    assert decode(architecture, runner) == expected(architecture)
    assert started.jobs != []
    key = artefacts.fingerprint(architecture)
    for job in started.jobs:
        assert (job.bucket, job.folder, job.key, job.threads) == (Bucket(2, 1, every=False), tmp_path, key, 1)


@pytest.mark.usefixtures("cheap")
def test_a_turn_is_asked_for_again_only_after_further_passes(
    monkeypatch: pytest.MonkeyPatch, architecture: Architecture, tmp_path: Path
) -> None:
    started = Started(monkeypatch)
    runner = Runner(architecture, "auto", tmp_path)
    for _ in range(6):
        runner.find(1, 1, 1)
    runner.note(1, 1, 1, 1.0)
    assert len(started.jobs) == 1
    for _ in range(4):
        runner.note(1, 1, 1, 0.4)
    assert len(started.jobs) == 1
    runner.note(1, 1, 1, 0.5)
    assert len(started.jobs) == 2
    runner.note_drafts(1, 1, 4)  # a shape that nobody has asked for
    assert len(started.jobs) == 2
    for _ in range(6):
        runner.find(1, 1, 1, drafts=4)
    runner.note_drafts(1, 1, 4)
    assert started.jobs[-1].bucket == Bucket(1, 1, every=False, drafts=4)


@pytest.mark.usefixtures("cheap")
def test_after_a_failure_nothing_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, architecture: Architecture, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    started = Started(monkeypatch)
    runner = Runner(architecture, "auto", tmp_path)
    decode(architecture, runner)
    count = len(started.jobs)
    started.outcomes[-1]("no such instruction")
    assert decode(architecture, runner) == expected(architecture)
    runner.find(1, 1, 1)
    runner.note(1, 1, 1, 1e9)
    assert len(started.jobs) == count
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        "Qwen2ForCausalLM is not compiled in the background and runs eagerly: no such instruction"
    ]


@pytest.mark.parametrize("why", ["no compiler", "too large", "no memory", "failed before"])
@pytest.mark.usefixtures("cheap")
def test_what_would_not_succeed_or_pay_is_not_started(
    why: str, monkeypatch: pytest.MonkeyPatch, architecture: Architecture, tmp_path: Path
) -> None:
    started = Started(monkeypatch)
    if why == "no compiler":
        monkeypatch.setattr(shutil, "which", lambda name: None)
    if why == "too large":
        monkeypatch.setattr(runner_module, "_MOST_WEIGHTS", 1000)
    if why == "no memory":
        monkeypatch.setattr(runner_module, "free_memory", lambda device: 1 << 20)
    if why == "failed before":
        path = artefacts.artefact_path(tmp_path, artefacts.fingerprint(architecture), Bucket(2, 1, every=False))
        path.parent.mkdir(parents=True)
        artefacts.note_failure(path, RuntimeError("a part that depends on lengths"))
    assert decode(architecture, Runner(architecture, "auto", tmp_path)) == expected(architecture)
    assert started.jobs == []


def test_what_a_decoder_left_behind_is_told_nothing(
    monkeypatch: pytest.MonkeyPatch, architecture: Architecture, tmp_path: Path, cheap: None
) -> None:
    started = Started(monkeypatch)
    runner = Runner(architecture, "auto", tmp_path)
    decode(architecture, runner)
    alive = weakref.ref(runner)
    del runner
    gc.collect()
    assert alive() is None
    started.outcomes[-1]("")


@pytest.mark.parametrize(("error", "noted"), [(RuntimeError("wrong"), True), (OSError("disk full"), False)])
def test_a_failure_that_would_occur_again_is_noted(
    error: Exception, noted: bool, monkeypatch: pytest.MonkeyPatch, architecture: Architecture, tmp_path: Path
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(compiling, "compile_bucket", fail)
    key, bucket = artefacts.fingerprint(architecture), Bucket(1, 1, every=False)
    path = artefacts.artefact_path(tmp_path, key, bucket)
    path.parent.mkdir(parents=True)
    with pytest.raises(type(error)):
        compiling.run(Job(architecture.model, bucket, tmp_path, key, 1))
    assert artefacts.failed_before(path) == noted


def test_what_killed_compilations_left_is_removed(
    monkeypatch: pytest.MonkeyPatch, architecture: Architecture, tmp_path: Path
) -> None:
    """A compilation is killed; a day later another one starts, beside one that runs."""
    path, names = tmp_path / "1x1.pt2", iter(["old", "running", "new"])
    make = tempfile.mkstemp

    def noting(**settings: Any) -> tuple[int, str]:
        handle, name = make(**settings)
        os.close(handle)
        kept = Path(name).replace(Path(name).with_name(Path(name).name.split("-")[0] + f"-{next(names)}.pt2"))
        return os.open(kept, os.O_RDWR), str(kept) + ".gone"  # what ends it cleans up nothing

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("killed")

    monkeypatch.setattr(tempfile, "mkstemp", noting)
    monkeypatch.setattr(artefacts, "_trace", lambda *_: None)
    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", fail)
    day_ago = time.time() - 86400
    for name in ("old", "running", "new"):
        with pytest.raises(RuntimeError, match="killed"):
            artefacts.compile_step(
                architecture, find_layout(architecture), Bucket(1, 1, every=False), path, lambda step: None
            )
        if name == "old":
            [left] = tmp_path.iterdir()
            for file in (left, path):
                file.touch()
                os.utime(file, (day_ago, day_ago))
    assert sorted(file.name.split("-")[-1] for file in tmp_path.iterdir()) == ["1x1.pt2", "new.pt2", "running.pt2"]


def test_a_copy_that_differs_is_not_compiled(architecture: Architecture, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="not the same model"):
        compiling.run(Job(architecture.model, Bucket(1, 1, every=False), tmp_path, "another key", 1))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ends]:
    """A real compilation."""
    ends = Ends()
    running: list[Compilation] = []

    class Watched(Compilation):
        def __init__(self, job: bytes, lock: IO[str], outcome: Outcome, command: tuple[str, ...]) -> None:
            def tell(reason: str) -> None:
                outcome(reason)
                ends(reason)

            super().__init__(job, lock, tell, command)
            running.append(self)

    monkeypatch.setattr(background, "Compilation", Watched)
    yield ends
    for one in running:
        one.stop()


@pytest.mark.usefixtures("cheap")
def test_no_token_changes_before_while_and_after_a_compilation_and_a_later_runner_finds_it(
    process: Ends, architecture: Architecture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, texts = Runner(architecture, "auto", tmp_path), expected(architecture)
    assert decode(architecture, runner, tokens=4) == [text[:4] for text in texts]
    assert process.reasons == []
    assert decode(architecture, runner) == texts
    assert process.wait() == ""
    bucket = Bucket(2, 1, every=False)
    assert runner.find(2, 1, 1) is not None
    assert decode(architecture, runner) == texts
    monkeypatch.setattr(shutil, "which", lambda name: None)  # nothing could be compiled now
    later = Runner(architecture, "cached", tmp_path)
    assert decode(architecture, later) == texts
    assert later.find(2, 1, 1) is not None
    held = sorted(path.name for path in artefacts.artefact_path(tmp_path, "", bucket).parent.rglob("*"))
    assert held == sorted([artefacts.fingerprint(architecture), "2x1.pt2"])
