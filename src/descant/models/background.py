"""Compilation in a process of its own, at the lowest priority, beside the one that decodes.

A process and no thread: tracing holds the interpreter for seconds, and the decoding would wait. It is sent the model
without its weights (see `skeleton`) and makes random ones, so it needs their memory again.

States: a `Compilation` runs, and then has *ended* by itself, with its outcome told once, or was *stopped* by us, with
nothing told. Invariants: one runs at a time for a cache folder, across processes, for it holds a lock on a file there
from before it starts until it is gone; it never outlives this process (see `compiling`); what it prints goes to a
file that has no name.
"""

import atexit
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

_log = logging.getLogger(__name__)

_COMMAND = ("-P", "-c", "from descant.models.compiling import main; main()")

Outcome = Callable[[str], None]
"""Told how a compilation ended: nothing to say if it succeeded, else the last line of what it printed."""


class Compilation:
    """A process that compiles, until it is told of.

    Parameters
    ----------
    job
        What it reads from its standard input.
    lock
        A file, locked, which it holds open.
    outcome
        Told, from another thread, how it ended, unless it is stopped before.
    command
        The program and its arguments.
    """

    def __init__(self, job: bytes, lock: IO[str], outcome: Outcome, command: Sequence[str]) -> None:
        self._outcome = outcome
        self._stopped = False
        self._owner = os.getpid()
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the process has ended
        try:
            # A process group of its own is spared the terminal's Ctrl-C, and ends together with the compiler it runs.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=self._printed,
                stderr=subprocess.STDOUT,
                pass_fds=(lock.fileno(),),
                process_group=0,
                env=_environment(),
            )
        except OSError:
            self._printed.close()
            raise
        _lower_priority(self._process.pid)
        atexit.register(self.stop)
        self._thread = threading.Thread(target=self._follow, args=(job,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it, silently, and wait until it is gone; for a process that was forked from its owner, do nothing."""
        if os.getpid() != self._owner:
            return
        self._stopped = True
        if self._process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):  # it has just ended by itself
                os.killpg(self._process.pid, signal.SIGKILL)
        self._thread.join()

    def _follow(self, job: bytes) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):  # it is gone: the return code says so
            self._process.stdin.write(len(job).to_bytes(8) + job)
            self._process.stdin.flush()
        code = self._process.wait()
        with suppress(OSError):
            self._process.stdin.close()
        with self._printed as file:
            file.seek(0)
            lines = file.read().decode(errors="replace").strip().splitlines()
        if not self._stopped:
            self._outcome((lines[-1] if lines else f"it ended with {code}") if code else "")
        atexit.unregister(self.stop)  # not before: a thread that loads code must end before the interpreter does


def start(job: Callable[[], bytes], folder: Path, outcome: Outcome) -> Compilation | None:
    """Start a compilation, or return None: one is running for this folder, nothing can be written there, or the like.

    Parameters
    ----------
    job
        Returns what the process is to read.
    folder
        Where artefacts are kept.
    outcome
        As for `Compilation`.
    """
    if getattr(sys, "frozen", False):  # the program that would be started is the application
        return None
    try:
        import fcntl

        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "compiling.lock", "a", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return Compilation(job(), lock, outcome, (sys.executable, *_COMMAND))
    except Exception as error:  # taken, read-only, no such locks here, a model that no pickle can hold
        _log.debug("nothing is compiled in the background: %s", error)
        return None


def _environment() -> dict[str, str]:
    """Return the environment of the process: it imports what this one can, and its threads wait without spinning."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        "OMP_WAIT_POLICY": "PASSIVE",
        "HF_HUB_OFFLINE": "1",
    }


def _lower_priority(pid: int) -> None:
    """Let decoding go first; Linux's SCHED_IDLE would starve it beside threads that wait spinning, as torch's do."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, 19)
