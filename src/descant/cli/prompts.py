"""Prompts from an argument, from standard input, or from a file."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from descant.errors import PromptError, UsageError


@dataclass(frozen=True)
class Line:
    """One prompt, or why a line of a file is none.

    Attributes
    ----------
    prompt
        The text; the raw line where there is an error.
    error
        What is wrong with the line; None if nothing is.
    truth
        The right answer, where it is known: of the bundled questions.
    """

    prompt: str
    error: str | None = None
    truth: str | None = None


def read_prompt(prompt: str | None) -> str:
    """Return the prompt of the command line, or standard input where that is `-` or piped."""
    if prompt is None and (sys.stdin is None or sys.stdin.isatty()):
        raise UsageError('no prompt; give it as an argument, pipe it in, or use --prompts FILE ("-" is stdin)')
    if prompt is None or prompt == "-":
        prompt = _read_stdin()
    if not prompt:
        raise PromptError("the prompt is empty; give at least one token of text")
    return prompt


def read_prompts(path: Path) -> list[Line]:
    """Return the prompts of a file: one a line, or JSONL if its name ends so."""
    rows = [_parse_json(line) if path.suffix == ".jsonl" else Line(line) for line in _lines(path)]
    return [Line(row.prompt, row.error or ("" if row.prompt else "the prompt is empty") or None) for row in rows]


def read_pairs(path: Path) -> list[tuple[str, str] | str]:
    """Return prompts and continuations of a JSONL file; a text in place of a pair says why a line is none."""
    pairs: list[tuple[str, str] | str] = []
    for line in _lines(path, skip_blank=True):
        value = _json(line)
        if isinstance(value, dict) and all(isinstance(value.get(key), str) for key in ("prompt", "continuation")):
            pairs.append((value["prompt"], value["continuation"]))
        else:
            pairs.append('the line is not a JSON object with the texts "prompt" and "continuation"')
    return pairs


def _parse_json(line: str) -> Line:
    value = _json(line)
    if isinstance(value, dict):
        value = value.get("prompt", value.get("text"))
    if isinstance(value, str):
        return Line(value)
    return Line(line, 'the line is neither a JSON string nor an object with a text "prompt"')


def _json(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _lines(path: Path, *, skip_blank: bool | None = None) -> Sequence[str]:
    """Return the lines of a file (`-`: standard input); blank ones are left out of JSONL."""
    try:
        text = _read_stdin() if str(path) == "-" else path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}; give another file") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text; convert it, for instance with iconv") from error
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []
    if skip_blank or (skip_blank is None and path.suffix == ".jsonl"):
        lines = [line for line in lines if line.strip()]
    if not lines:
        raise UsageError(f"{path} holds nothing; give one prompt a line")
    return lines


def _read_stdin() -> str:
    """Return standard input without the newline that ends it."""
    if sys.stdin is None:
        raise UsageError("standard input is closed; give the prompt as an argument")
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(encoding="utf-8")
    try:
        return sys.stdin.read().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise UsageError("standard input is not UTF-8 text; convert it, for instance with iconv") from error
