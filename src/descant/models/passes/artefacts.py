"""Compiled decode passes: made by torch's ahead-of-time Inductor, kept on disk, loaded by later processes.

An artefact holds code and no weights. The weights it reads are the model's own tensors, handed over when it is
loaded: so many artefacts share one copy, and one artefact serves every checkpoint of a configuration.
"""

import contextlib
import hashlib
import json
import os
import platform
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
import transformers
from torch import Tensor

from descant.models.architecture import Architecture
from descant.models.passes.step import Bucket, DraftStep, Step, make_step, weights_of

_FORMAT = 2
"""Raised when `Step` changes what its graph computes or takes."""

_LEAST_CAPACITY, _MOST_CAPACITY = 8, 1 << 24
_TRACED_CAPACITY = 48

_UNFINISHED = "unfinished-"
"""How the names of files begin that a compilation is writing."""

_ABANDONED = 3600.0
"""Seconds after which nobody writes to one any more."""


@dataclass(frozen=True)
class Layout:
    """Shapes and dtype of a model's key and value buffers.

    Attributes
    ----------
    shapes
        Heads and width of a head: of every layer's keys, then of every layer's values.
    dtype
        Their dtype.
    """

    shapes: tuple[tuple[int, int], ...]
    dtype: torch.dtype

    def buffers(self, rows: int, capacity: int) -> list[Tensor]:
        """Allocate such buffers."""
        return [torch.zeros(rows, heads, capacity, dim, dtype=self.dtype) for heads, dim in self.shapes]


class WrongPassError(RuntimeError):
    """A compiled pass that is not what the eager one is."""


class CompiledStep:
    """A loaded artefact over a model's weights.

    Parameters
    ----------
    path
        The artefact.
    architecture
        The model it was made for.

    Raises
    ------
    RuntimeError
        If the file is no artefact, or not one of this model.
    """

    def __init__(self, path: Path, architecture: Architecture) -> None:
        from torch._C._aoti import AOTIModelPackageLoader

        weights = _weights(architecture)
        # Without torch._inductor's own loader, whose import takes longer than a short text.
        self._loader = AOTIModelPackageLoader(str(path), "model", False, 1, -1)
        names = self._loader.get_constant_fqns()
        missing = [name for name in names if name not in weights]
        if missing:
            raise RuntimeError(f"{path} reads {missing[0]}, which is no weight of {type(architecture.model).__name__}")
        self._held = {name: weights[name] for name in names}  # the artefact has their addresses
        self._loader.load_constants(self._held, False, True, True)

    def __call__(self, plan: Tensor, buffers: Sequence[Tensor]) -> list[Tensor]:
        """Do what `Step.forward` or `DraftStep.forward` does."""
        results: list[Tensor] = self._loader.boxed_run([plan, *buffers])
        return results


def cache_folder() -> Path:
    """Return where artefacts are kept: `$DESCANT_CACHE`, else `descant` in `$XDG_CACHE_HOME` or `~/.cache`."""
    named = os.environ.get("DESCANT_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "descant"


def fingerprint(architecture: Architecture) -> str:
    """Return what tells apart everything that compiled code depends on, but the bucket."""
    config = architecture.model.config.to_dict()
    for name in ("_name_or_path", "name_or_path", "transformers_version"):
        config.pop(name, None)
    facts = {
        "format": _FORMAT,
        "versions": [version("descant"), torch.__version__, transformers.__version__],
        "model": [type(architecture.model).__module__, type(architecture.model).__qualname__],
        "config": config,
        "attention": architecture.model.config.get_text_config()._attn_implementation,
        "windows": architecture.windows,
        "context": architecture.context,
        "weights": sorted(
            (name, list(w.shape), str(w.dtype), w.is_mkldnn) for name, w in _weights(architecture).items()
        ),
        "cpu": [platform.machine(), torch.backends.cpu.get_cpu_capability(), _cpu_flags()],
        "threads": torch.get_num_threads(),  # Inductor writes the number into its loops
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def artefact_path(folder: Path, key: str, bucket: Bucket) -> Path:
    """Return where the artefact of a bucket is or would be."""
    name = f"{bucket.rows}x{bucket.tokens}{'-every' if bucket.every else ''}"
    return folder / "steps" / key / (f"{name}-draft{bucket.drafts}.pt2" if bucket.drafts else f"{name}.pt2")


def find_compiler() -> str | None:
    """Return the C++ compiler that Inductor would call, or None."""
    named = os.environ.get("CXX")
    return next((found for name in (named, "g++", "clang++") if name and (found := shutil.which(name))), None)


def compile_step(
    architecture: Architecture, layout: Layout, bucket: Bucket, path: Path, check: Callable[[CompiledStep], None]
) -> CompiledStep:
    """Compile a decode pass and keep it at `path`, if it passes the check.

    Parameters
    ----------
    check
        Raises `WrongPassError` if the compiled pass is wrong; nothing is then kept.
    """
    import torch._inductor

    path.parent.mkdir(parents=True, exist_ok=True)
    _clear(path.parent.parent)
    traced = _trace(make_step(architecture, bucket), layout, bucket)
    handle, name = tempfile.mkstemp(suffix=".pt2", prefix=_UNFINISHED, dir=path.parent)
    os.close(handle)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # torch's own, about its own
            torch._inductor.aoti_compile_and_package(
                traced,
                package_path=name,
                inductor_configs={"aot_inductor.package_constants_in_so": False, "compile_threads": 1},
            )
        step = CompiledStep(Path(name), architecture)
        check(step)
        Path(name).replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
    return step


def _clear(folder: Path) -> None:
    """Remove what compilations that were killed have left, of any model."""
    for left in folder.glob(f"*/{_UNFINISHED}*"):
        with contextlib.suppress(OSError):  # another process removes it, or owns it
            if time.time() - left.stat().st_mtime > _ABANDONED:
                left.unlink()


def _trace(step: Step | DraftStep, layout: Layout, bucket: Bucket) -> torch.export.ExportedProgram:
    """Export a step whose buffers may have any capacity, and nothing else about it may vary."""
    capacity = torch.export.Dim("capacity", min=_LEAST_CAPACITY, max=_MOST_CAPACITY)
    rows, tokens = bucket.rows, bucket.tokens
    example = (
        torch.tensor([[0] * tokens + [0, tokens]] * rows),
        layout.buffers(rows, _TRACED_CAPACITY),
    )
    shapes = (None, [{2: capacity} for _ in layout.shapes])
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        return torch.export.export(step, example, dynamic_shapes=shapes, strict=False)


def _weights(architecture: Architecture) -> dict[str, Tensor]:
    """Return all weights by the names they have inside a `Step`, and inside a `DraftStep`."""
    held = {f"model.{name}": weight.detach() for name, weight in weights_of(architecture.model).items()}
    return held | {f"step.{name}": weight for name, weight in held.items()}


def _cpu_flags() -> str:
    """Return the instruction sets of the processor, which code is compiled for."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next((line for line in file if line.startswith(("flags", "Features"))), "")
    except OSError:
        return platform.processor()
