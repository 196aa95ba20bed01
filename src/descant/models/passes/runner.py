"""How a forward pass runs: eagerly, through code compiled for its shape, or as a captured graph.

A decode pass (few tokens a row) of a small model is mostly dispatch: compiled it takes a third of the time or less.
One `Runner` belongs to one model and outlives its caches, so what is compiled or loaded once serves every call.

A bucket is *unknown* until its artefact has been looked for, then *compiled* or *eager*. Nothing is compiled unasked.
"""

import logging
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

from descant.errors import SettingsError, first_line
from descant.models.architecture import Architecture
from descant.models.passes import artefacts
from descant.models.passes.artefacts import CompiledStep, WrongPassError
from descant.models.passes.graph import CapturedStep, capture_on
from descant.models.passes.step import Bucket, Step

RunnerName = Literal["auto", "eager", "compiled", "graph"]
"""`"auto"` takes what was compiled before, and compiles only what `warm_up` asks for. `"compiled"` compiles a shape
when it first meets it, and has the pass wait. `"graph"` captures decode passes as CUDA graphs, and whole steps of plain
decoding (see `RunAhead`)."""

Compiler = Callable[[Architecture, Bucket, Path], CompiledStep]
"""Compiles a pass and keeps it at a path."""

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

_log = logging.getLogger(__name__)


class Runner:
    """Compiled decode passes of one model, by their shape.

    Parameters
    ----------
    architecture
        The model.
    mode
        `"auto"`, `"eager"`, `"compiled"` or `"graph"`.
    folder
        Where artefacts are kept; default: see `artefacts.cache_folder`.
    compiler
        What compiles; None: what was compiled before is taken, and no more. `open_runner` brings one.

    Raises
    ------
    SettingsError
        If there is no such mode, or none on the model's device.

    Attributes
    ----------
    capture
        How to capture passes, if they are to be.
    """

    def __init__(
        self,
        architecture: Architecture,
        mode: RunnerName = "auto",
        folder: Path | None = None,
        compiler: Compiler | None = None,
    ) -> None:
        if mode not in get_args(RunnerName):
            names = ", ".join(map(repr, get_args(RunnerName)))
            raise SettingsError(f"there is no runner {mode!r}; choose {names}: 'auto' takes what was compiled before")
        if mode == "compiled" and compiler is None:
            raise ValueError("a runner that is to compile needs a compiler: open_runner brings one")
        self.architecture = architecture
        self.mode = mode
        self._folder = folder
        self._compiler = compiler
        self._steps: dict[Bucket, CompiledStep | CapturedStep | None] = {}  # None: stays eager
        self._static: dict[int, Step] = {}
        self._passes: dict[Bucket, int] = {}
        self._buckets: dict[tuple[int, int, int, int], Bucket | None] = {}  # looked up in every pass
        self._key = ""
        self._broken = False
        self._able = mode != "eager" and _compilable(architecture, on_cpu=mode != "graph")
        self.capture = capture_on(architecture.model.device) if mode == "graph" else None
        self._lock = threading.Lock()

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
            if self.mode == "auto":
                self._passes[bucket] = self._passes.get(bucket, 0) + 1
                if self._passes[bucket] <= _PATIENCE:
                    return None
            self._prepare(bucket, compiling=self.mode == "compiled")
        step = self._steps[bucket]
        return None if step is None else (bucket, step)

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
                if step is None and compiling and not self._broken and self._compiler is not None:
                    step = self._compiler(self.architecture, bucket, self._path(bucket))
            except Exception as error:  # whatever a compiler raises, or a folder: decoding goes on without it
                self._broken = not isinstance(error, WrongPassError)  # another shape may be right
                _log.debug("compilation for %s failed", bucket, exc_info=error)
                shapes = "" if self._broken else f" for {bucket}"
                warnings.warn(
                    f"{type(self.architecture.model).__name__} is not compiled{shapes} and runs eagerly: "
                    f'{first_line(error)}; runner="eager" leaves the attempt out',
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
