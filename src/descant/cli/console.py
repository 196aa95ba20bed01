"""What the command line prints and how it ends: data to stdout, all else to stderr, an error in one line."""

import contextlib
import json
import math
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, runtime_checkable

import typer

from descant.errors import DescantError, UsageError

DONE = 0
ERROR = 1
USAGE = 2
SOME_ROWS_FAILED = 3
INTERRUPTED = 130
CLOSED_PIPE = 141
"""As a shell reports a program that SIGPIPE ended."""

_ParserError: type[Exception] = typer.BadParameter.__mro__[2]
"""The base of what the option parser raises; its module differs between versions of typer."""


@runtime_checkable
class Stream(Protocol):
    """What a text stream must be able to do."""

    def write(self, text: str, /) -> Any:
        """Take text."""

    def flush(self) -> None:
        """Pass it on."""

    def isatty(self) -> bool:
        """Tell whether this is a terminal."""

    def fileno(self) -> int:
        """Return the number of the file."""


class ClosedPipeError(Exception):
    """Whoever read the output has left."""


class Writer:
    """Where the data go: standard output or a file. Every piece is flushed at once."""

    def __init__(self, file: Stream, name: str) -> None:
        self.file = file
        self.name = name

    @property
    def is_terminal(self) -> bool:
        """Whether a person reads along."""
        return self.file.isatty()

    def write(self, text: str) -> None:
        """Write and flush.

        Raises
        ------
        ClosedPipeError
            If nobody reads any more.
        DescantError
            If the data cannot be written.
        """
        try:
            self.file.write(text)
            self.file.flush()
        except BrokenPipeError as error:
            raise ClosedPipeError from error
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise DescantError(f"cannot write to {self.name}: {reason}; write somewhere else") from error

    def write_json(self, value: Any) -> None:
        """Write one JSON object and end the line; what JSON has no number for (−∞, NaN) becomes null."""
        unicode = (getattr(self.file, "encoding", None) or "utf-8").lower().replace("-", "") == "utf8"
        self.write(json.dumps(_plain(value), ensure_ascii=not unicode, allow_nan=False) + "\n")


@contextlib.contextmanager
def data_writer(path: Path | None = None) -> Iterator[Writer]:
    """Open the way for data, and send to stderr whatever else is printed meanwhile.

    Parameters
    ----------
    path
        A file to append to, in place of standard output.
    """
    stdout = sys.stdout
    with contextlib.ExitStack() as stack:
        if path is not None:
            try:
                file = stack.enter_context(path.open("a", encoding="utf-8", errors="backslashreplace"))
            except OSError as error:
                raise UsageError(f"cannot write to {path}: {error.strerror}; give another file") from error
            writer = Writer(file, str(path))
        elif stdout is None:
            raise DescantError("standard output is closed; give it somewhere to go, or use --output FILE")
        else:
            if hasattr(stdout, "reconfigure"):
                stdout.reconfigure(errors="backslashreplace")
            writer = Writer(stdout, "standard output")
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield writer


def report(error: BaseException) -> int:
    """Tell the user what ended the program, in one line, and return the exit code.

    `DESCANT_TRACEBACK=1` shows the traceback too.
    """
    if os.environ.get("DESCANT_TRACEBACK") and isinstance(error, Exception):
        traceback.print_exception(error)
    _drop_unwritable(sys.stdout)
    if isinstance(error, (ClosedPipeError, BrokenPipeError)):
        return CLOSED_PIPE
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return INTERRUPTED
    if isinstance(error, _ParserError):
        complain(_parser_message(error))
        return USAGE
    if isinstance(error, DescantError):
        complain(str(error))
        return USAGE if isinstance(error, UsageError) else ERROR
    if _is_out_of_memory(error):
        complain(f"out of memory ({error}); lower --batch-size or --max-new-tokens, or choose a smaller model")
        return ERROR
    complain(f"unexpected {type(error).__name__}: {error} (DESCANT_TRACEBACK=1 shows where)")
    return ERROR


def complain(message: str) -> None:
    """Print one line to stderr."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print("descant: error:", " ".join(message.split()), file=sys.stderr, flush=True)


class Stop:
    """Whether the user asked to stop; callable, as `cancelled` of the library wants it."""

    def __init__(self) -> None:
        self.requested = False

    def __call__(self) -> bool:
        return self.requested

    def handle(self, _number: int, _frame: FrameType | None) -> None:
        """Note the first Ctrl-C; a second one aborts at once."""
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


@contextlib.contextmanager
def stop_on_interrupt() -> Iterator[Stop]:
    """Let Ctrl-C end rows between steps, so that what they have is printed.

    Where SIGINT is ignored (a job in the background), it stays ignored.
    """
    stop = Stop()
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is signal.SIG_IGN:
        yield stop
        return
    signal.signal(signal.SIGINT, stop.handle)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


class Progress:
    """A bar on stderr, if that is a terminal and there is more than one thing to do."""

    def __init__(self, total: int, doing: str = "decoding") -> None:
        self._bar: Any = None
        if total > 1 and sys.stderr is not None and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress as Bar

            self._bar = Bar(
                *Bar.get_default_columns(),
                console=Console(stderr=True),
                transient=True,
                redirect_stdout=False,
            )
            self._bar.add_task(doing, total=total)

    def __enter__(self) -> "Progress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self) -> None:
        """Count one thing as done."""
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0])

    @contextlib.contextmanager
    def hidden(self) -> Iterator[None]:
        """Clear the line of the bar while something else is printed."""
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value


def _drop_unwritable(stream: Stream | None) -> None:
    """Empty a stream; what it cannot write is dropped, or Python would complain of it at exit."""
    if stream is None:
        return
    try:
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def _parser_message(error: Any) -> str:
    context = getattr(error, "ctx", None)
    hint = f" (see '{context.command_path} --help')" if context is not None else ""
    return f"{error.format_message()}{hint}"


def _is_out_of_memory(error: BaseException) -> bool:
    """Tell torch's and Python's complaints about memory, without importing torch."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "allocate" in str(error) and "memory" in str(error)
