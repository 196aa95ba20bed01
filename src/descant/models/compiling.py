"""Compiling a decode pass, here or in a process of its own, which `descant.models.background` starts.

Such a process reads one job from its standard input, and lives no longer than the other end of that pipe: it cannot
outlive the process that started it, whatever ends that.
"""

import logging
import os
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from descant.errors import first_line
from descant.models import artefacts, skeleton
from descant.models.architecture import Architecture, inspect_model
from descant.models.artefacts import CompiledStep
from descant.models.probe import check_step, find_layout
from descant.models.step import Bucket

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What to compile.

    Attributes
    ----------
    model
        The model, or a copy with other weights.
    bucket
        The shape of the pass.
    folder
        Where artefacts are kept.
    key
        The fingerprint of the original, which that of the copy must equal.
    threads
        How many threads passes run with.
    """

    model: PreTrainedModel
    bucket: Bucket
    folder: Path
    key: str
    threads: int


def compile_bucket(architecture: Architecture, bucket: Bucket, path: Path) -> CompiledStep:
    """Compile a decode pass, compare it with an eager one, and keep it at `path`.

    Raises
    ------
    Exception
        Whatever a compiler raises, and RuntimeError if there is none or the pass is wrong.
    """
    if artefacts.find_compiler() is None:
        raise RuntimeError("there is no C++ compiler (g++ or clang++; CXX names another)")
    name = type(architecture.model).__name__
    _log.info("compiling a decode pass of %s for %s", name, bucket)
    start = time.perf_counter()
    step = artefacts.compile_step(
        architecture,
        find_layout(architecture),
        bucket,
        path,
        lambda compiled: check_step(architecture, bucket, compiled),
    )
    _log.info("compiled %s for %s in %.1f s: %s", name, bucket, time.perf_counter() - start, path)
    return step


def run(job: Job) -> None:
    """Compile what a job asks for; a failure that would occur again is noted beside its place.

    Raises
    ------
    Exception
        As `compile_bucket`; and RuntimeError if the copy differs from the original.
    """
    torch.set_num_threads(job.threads)
    architecture = inspect_model(job.model)
    if artefacts.fingerprint(architecture) != job.key:
        raise RuntimeError("its copy in another process is not the same model")
    path = artefacts.artefact_path(job.folder, job.key, job.bucket)
    try:
        compile_bucket(architecture, job.bucket, path)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        artefacts.note_failure(path, error)
        raise


def main() -> None:
    """Run the job that standard input holds, pickled by `skeleton`, after its length in 8 bytes."""
    with open(0, "rb", closefd=False) as file:
        size = int.from_bytes(file.read(8))
        data = file.read(size)
    if len(data) == size > 0:
        threading.Thread(target=_end_with_parent, daemon=True).start()
        try:
            run(skeleton.load(data))
        except Exception as error:
            traceback.print_exc()
            sys.exit(f"{type(error).__name__}: {first_line(error)}")


def _end_with_parent() -> None:
    """Wait for the end of standard input, and end this process and the compiler it runs."""
    with suppress(OSError):
        os.read(0, 1)
    os.killpg(0, signal.SIGKILL)
