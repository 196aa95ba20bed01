"""How a forward pass runs: eagerly, through code compiled for its shape, or as a captured graph.

A decode pass (few tokens a row) of a small model is mostly dispatch: compiled it takes a third of the time or less.
One `Runner` belongs to one model and outlives its caches, so what is compiled or loaded once serves every call.

A bucket is *unknown* until its artefact has been looked for, then *compiled* or *eager*. In the mode `"auto"` an eager
one adds up what its passes take. When that comes to what a compilation is expected to cost, one is started in the
background (the ski-rental rule: at most about twice the better of the two is spent), so short calls start nothing. It
becomes compiled when another thread has loaded what came of that; passes wait for nothing.
"""

import logging
import threading
import warnings
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import torch

from descant.errors import SettingsError, first_line
from descant.models import artefacts, background, skeleton
from descant.models.architecture import Architecture
from descant.models.artefacts import CompiledStep
from descant.models.cache import free_memory
from descant.models.graph import CapturedStep, capture_on
from descant.models.step import Bucket, Step, weights_of

RunnerName = Literal["auto", "cached", "eager", "compiled", "graph"]
"""`"compiled"` compiles a shape when it first meets it, and has the pass wait. `"cached"` takes what is on disk and
compiles nothing. `"auto"` does too, and compiles in the background what has cost as much eagerly as that will:
in another process, one at a time, at the lowest priority; models on the CPU with at most 1 GiB of weights. `"graph"`
captures decode passes as CUDA graphs, and whole steps of plain decoding (see `RunAhead`)."""

ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64)
TOKEN_BUCKETS = (1, 2, 3, 5, 9)
"""Shapes that are compiled: one token, two and three for an amateur that catches up, and 4 or 8 drafts."""

DRAFT_BUCKETS = (2, 4, 8)
"""How many tokens a small model drafts in one compiled call."""

_DRAFT_LAYERS = 8
"""Layers up to which it does: a deeper model's passes cost much more than what lies between them, and as much more to
compile."""

_PATIENCE = 4
"""Passes of a bucket before its artefact is looked for unasked: loading one takes about that long."""

_SECONDS, _SECONDS_OF_LAYER = 8.0, 1.0
"""What a compilation is expected to take: 11, 13 and 29 s were measured for 4, 12 and 24 layers (2 cores). Each drafted
token is a pass."""

_MOST_WEIGHTS = 1 << 30
"""Bytes of weights up to which a model is compiled unasked. A larger one's passes mostly read weights, and gain little:
Qwen2.5-0.5B in bfloat16, 0.9 GiB, gains 16%."""

_MEMORY = 3 << 29
"""Bytes that a compilation needs beside the weights; up to 1.25 GiB were measured."""

_AGAIN = 2.0
"""Seconds of further eager passes before a bucket's turn is asked for again, while another one is compiled."""

_log = logging.getLogger(__name__)


class Runner:
    """Compiled decode passes of one model, by their shape.

    Parameters
    ----------
    architecture
        The model.
    mode
        `"auto"`, `"cached"`, `"eager"`, `"compiled"` or `"graph"`.
    folder
        Where artefacts are kept; default: see `artefacts.cache_folder`.

    Raises
    ------
    SettingsError
        If there is no such mode, or none on the model's device.

    Attributes
    ----------
    capture
        How to capture passes, if they are to be.
    """

    def __init__(self, architecture: Architecture, mode: RunnerName = "auto", folder: Path | None = None) -> None:
        if mode not in get_args(RunnerName):
            raise SettingsError(f"there is no runner {mode!r}; choose {', '.join(map(repr, get_args(RunnerName)))}")
        self.architecture = architecture
        self.mode = mode
        self._folder = folder
        self._steps: dict[Bucket, CompiledStep | CapturedStep | None] = {}  # None: stays eager
        self._static: dict[int, Step] = {}
        self._passes: dict[Bucket, int] = {}
        self._buckets: dict[tuple[int, int, int, int], Bucket | None] = {}  # looked up in every pass
        self._key = ""
        self._broken = False
        self._able = mode != "eager" and _compilable(architecture, on_cpu=mode != "graph")
        self.capture = capture_on(architecture.model.device) if mode == "graph" else None
        self._lock = threading.Lock()
        self._watching = mode == "auto" and self._able
        self._spent: dict[Bucket, float] = {}  # seconds of what ran eagerly
        self._passes_noted, self._seconds_noted = 0, 0.0

    def find(
        self, rows: int, tokens: int, keep: int, drafts: int = 0
    ) -> tuple[Bucket, CompiledStep | CapturedStep] | None:
        """Return the compiled or captured pass for a shape and what to pad to, or None if the pass is to run eagerly.

        Parameters
        ----------
        rows, tokens, keep
            The pass: its rows, the most new tokens of any, and for how many last tokens logits are wanted.
        drafts
            How many greedy tokens are to follow, if any.
        """
        if not self._able or tokens > TOKEN_BUCKETS[-1]:
            return None
        shape = rows, tokens, keep, drafts
        if shape not in self._buckets:
            self._buckets[shape] = self._bucket(*shape)
        bucket = self._buckets[shape]
        if bucket is None:
            return None
        if bucket not in self._steps:
            if self.mode in ("auto", "cached"):
                self._passes[bucket] = self._passes.get(bucket, 0) + 1
                if self._passes[bucket] <= _PATIENCE:
                    return None
            self._prepare(bucket, compiling=self.mode == "compiled")
        step = self._steps[bucket]
        return None if step is None else (bucket, step)

    def note(self, rows: int, tokens: int, keep: int, seconds: float, drafts: int = 0) -> None:
        """Take note of what ran eagerly for lack of compiled code, and perhaps have that made in the background.

        Parameters
        ----------
        rows, tokens, keep, drafts
            As they were given to `find`.
        seconds
            How long it took.
        """
        bucket = self._buckets.get((rows, tokens, keep, drafts)) if self._watching else None
        if bucket is None:
            return
        if not drafts:
            self._passes_noted, self._seconds_noted = self._passes_noted + 1, self._seconds_noted + seconds
        spent = self._spent[bucket] = self._spent.get(bucket, 0.0) + seconds
        price = _SECONDS + _SECONDS_OF_LAYER * self.architecture.layers * max(1, bucket.drafts)
        if spent >= price and self._steps.get(bucket) is None:
            self._spent[bucket] = price - _AGAIN
            self._compile_in_background(bucket)

    def note_drafts(self, rows: int, tokens: int, drafts: int) -> None:
        """Take note of drafts that take a pass each, for lack of compiled code for all of them in one call."""
        if self._passes_noted:
            self.note(rows, tokens, 1, drafts * self._seconds_noted / self._passes_noted, drafts)

    def warm_up(
        self, rows: Sequence[int] = (1,), tokens: Sequence[int] = (1,), *, every: bool = True, drafts: int = 0
    ) -> bool:
        """Load or compile the passes of some shapes now; return whether all of them will run compiled.

        Parameters
        ----------
        rows, tokens
            Rows of a pass and new tokens of each; every combination is made ready.
        every
            Whether logits of all new tokens are wanted (a verification of drafts), or of each row's last.
        drafts
            How many greedy tokens are to follow them, if any.
        """
        ready = self._able
        for count in rows if self._able else ():
            for length in tokens:
                bucket = self._bucket(count, length, length if every and not drafts else 1, drafts)
                if bucket is None:
                    ready = False
                    continue
                if self._steps.get(bucket) is None:
                    self._prepare(bucket, compiling=True)
                ready = ready and self._steps[bucket] is not None
        return ready

    def static_pass(self, rows: int) -> tuple[int, Step] | None:
        """Return a pass of one token a row, as a function that can be captured, and how many rows it takes at least."""
        bucket = bucket_of(rows, 1, 1) if self.capture is not None and self._able else None
        if bucket is None:
            return None
        if bucket.rows not in self._static:
            self._static[bucket.rows] = Step(self.architecture, bucket).eval()
        return bucket.rows, self._static[bucket.rows]

    def _bucket(self, rows: int, tokens: int, keep: int, drafts: int) -> Bucket | None:
        if drafts and self.architecture.layers > _DRAFT_LAYERS and self.capture is None:
            return None
        return bucket_of(rows, tokens, keep, drafts)

    def _prepare(self, bucket: Bucket, *, compiling: bool) -> None:
        """Load the artefact of a bucket, or compile it if allowed. After a failure it stays eager, with one warning."""
        with self._lock:
            if self._steps.get(bucket) is not None:
                return
            if self.capture is not None:
                self._steps[bucket] = CapturedStep(self.architecture, bucket, self.capture)
                return
            step = None
            try:
                step = self._load(bucket)
                if step is None and compiling and not self._broken:
                    step = self._compile(bucket)
            except Exception as error:  # whatever a compiler raises, or a folder: decoding goes on without it
                self._broken = True
                _log.debug("compilation for %s failed", bucket, exc_info=error)
                warnings.warn(
                    f"{type(self.architecture.model).__name__} is not compiled and runs eagerly: {first_line(error)}; "
                    'runner="eager" leaves the attempt out',
                    RuntimeWarning,
                    stacklevel=2,
                )
            self._steps[bucket] = step

    def _load(self, bucket: Bucket) -> CompiledStep | None:
        path = self._path(bucket)
        if not path.is_file():
            return None
        try:
            return CompiledStep(path, self.architecture)
        except Exception as error:  # a damaged file: torch's zip reader and the dynamic linker each have their own
            _log.warning("the artefact %s is damaged or foreign and is ignored: %s", path, first_line(error))
            return None

    def _compile(self, bucket: Bucket) -> CompiledStep:
        from descant.models.compiling import compile_bucket  # which runs eager passes, and so imports the model

        return compile_bucket(self.architecture, bucket, self._path(bucket))

    def _compile_in_background(self, bucket: Bucket) -> None:
        """Start a compilation, unless another process has made the artefact by now, or it cannot be made."""
        path = self._path(bucket)
        if path.is_file():
            self._prepare(bucket, compiling=False)
            if self._steps[bucket] is not None:
                return
        if artefacts.failed_before(path) or artefacts.find_compiler() is None or not _affordable(self.architecture):
            self._watching = False
            return
        runner = weakref.ref(self)  # it may have been dropped, with its model, when the compilation ends

        def end(reason: str) -> None:
            alive = runner()
            if alive is not None:
                alive._end_compilation(bucket, reason)

        background.start(lambda: self._job(bucket), self.folder, end)

    def _job(self, bucket: Bucket) -> bytes:
        """Return what the process that compiles is to read."""
        from descant.models.compiling import Job

        with self.architecture.lock:
            return skeleton.dump(Job(self.architecture.model, bucket, self.folder, self._key, torch.get_num_threads()))

    def _end_compilation(self, bucket: Bucket, reason: str) -> None:
        """Load what was compiled; after a failure nothing more is compiled unasked."""
        if not reason:
            self._prepare(bucket, compiling=False)
        if self._steps.get(bucket) is None:
            self._watching = False
            name = type(self.architecture.model).__name__
            _log.warning("%s is not compiled in the background and runs eagerly: %s", name, reason or "see above")

    @property
    def folder(self) -> Path:
        """Where artefacts are kept."""
        return self._folder or artefacts.cache_folder()

    def _path(self, bucket: Bucket) -> Path:
        if not self._key:
            self._key = artefacts.fingerprint(self.architecture)
        return artefacts.artefact_path(self.folder, self._key, bucket)


def bucket_of(rows: int, tokens: int, keep: int, drafts: int = 0) -> Bucket | None:
    """Return the smallest bucket that holds a pass, or None."""
    wide = next((bucket for bucket in ROW_BUCKETS if bucket >= rows), None)
    long = next((bucket for bucket in TOKEN_BUCKETS if bucket >= max(tokens, keep)), None)
    ahead = next((bucket for bucket in (0, *DRAFT_BUCKETS) if bucket >= drafts), None)
    if wide is None or long is None or ahead is None:
        return None
    return Bucket(wide, long, every=keep > 1, drafts=ahead)


def _compilable(architecture: Architecture, *, on_cpu: bool) -> bool:
    """Tell whether the passes of a model are functions of tensors that can be compiled (for a CPU) or captured."""
    model = architecture.model
    if on_cpu and model.device.type != "cpu":
        return False
    # BLOOM's bias is patched into its module for each pass.
    return architecture.cache == "ragged" and model.config.model_type != "bloom"


def _affordable(architecture: Architecture) -> bool:
    """Tell whether another process may hold such weights again, for the sake of what compiling gains."""
    weights = {id(weight): weight for weight in weights_of(architecture.model).values()}.values()
    size = sum(
        weight.numel() * weight.element_size()
        if weight.is_mkldnn
        else min(weight.nbytes, weight.untyped_storage().nbytes())
        for weight in weights
    )
    return size <= _MOST_WEIGHTS and size + _MEMORY <= free_memory(torch.device("cpu"))
