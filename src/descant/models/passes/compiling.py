"""Compiling a decode pass, comparing it with an eager one, and keeping it."""

import logging
import time
from pathlib import Path

from descant.models.architecture import Architecture
from descant.models.passes import artefacts
from descant.models.passes.artefacts import CompiledStep
from descant.models.passes.probe import check_step, find_layout
from descant.models.passes.step import Bucket

_log = logging.getLogger(__name__)


def compile_bucket(architecture: Architecture, bucket: Bucket, path: Path) -> CompiledStep:
    """Compile a decode pass, compare it with an eager one, and keep it at `path`.

    Raises
    ------
    Exception
        Whatever a compiler raises; RuntimeError if there is none; `WrongPassError` if the pass is wrong.
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
