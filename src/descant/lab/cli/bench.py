"""`descant bench`: how fast a pair decodes on this machine, beside transformers."""

import contextlib
import dataclasses
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from descant.cli.console import DONE, Progress, Writer, data_writer
from descant.cli.options import OUTPUT, PROMPTS, RUN, Json, ModelOptions, RunOptions, expand, option
from descant.cli.prompts import read_prompt, read_prompts
from descant.errors import DescantError, UsageError
from descant.lab.cli import require

if TYPE_CHECKING:
    from descant.decoder import Decoder
    from descant.lab.bench import Measurements, Settings

_DRAFT_TOKENS = (1, 2, 3, 4, 6, 8)


@expand
def bench(
    *,
    models: ModelOptions,
    prompt: Annotated[
        str | None,
        typer.Argument(
            help='The prompt; "-" reads it from stdin. Without any: the bundled questions, or a few of every kind.',
            show_default=False,
        ),
    ] = None,
    prompts: Annotated[Path | None, option("Options", PROMPTS, of="FILE")] = None,
    batch: Annotated[
        int, option(RUN, "Rows decoded together; 1. Every round takes further prompts, in turn.", of="N", least=1)
    ] = 1,
    prompt_tokens: Annotated[
        int | None, option(RUN, "Cut or fill every prompt to N tokens; else as they are.", of="N", least=1)
    ] = None,
    max_new_tokens: Annotated[
        int, option(RUN, "New tokens of every row; 64.", "--max-new-tokens", "--max-tokens", of="N", least=2)
    ] = 64,
    rounds: Annotated[int, option(RUN, "How often each is timed; 5.", of="N", least=2)] = 5,
    draft_tokens: Annotated[
        str | None, option(RUN, "Draft lengths to try, separated by commas; 1,2,3,4,6,8. auto is one too.", of="LIST")
    ] = None,
    threads: Annotated[int | None, option(RUN, "CPU threads; else what torch takes.", of="N", least=1)] = None,
    without_cache: Annotated[
        bool, option(RUN, "Time contrast through transformers without a cache too: 16 tokens.", "--without-cache")
    ] = False,
    no_chat_template: Annotated[
        bool, option(RUN, "Send prompts as plain text in spite of a chat template.", "--no-chat-template")
    ] = False,
    out: Annotated[
        Path | None, option(OUTPUT, "Write bench.md, bench.json and bench.png to a folder too.", of="FOLDER")
    ] = None,
    as_json: Json = False,
) -> int:
    """Measure how fast a pair decodes here, beside transformers in the same run.

    Greedy, contrastive, speculative and speculative contrastive decoding, beside model.generate: greedy, assisted,
    and contrastive through a LogitsProcessor. Every row decodes to --max-new-tokens, in rounds that time each in
    turn; draft lengths are tried first, in rounds of their own. All tokens are compared with plain decoding.
    """
    if prompt is not None and prompts is not None:
        raise UsageError("PROMPT and --prompts exclude each other; drop one of them")
    _check_folder(out)
    with data_writer() as writer:
        texts = _read(prompt, prompts)
        lengths = _lengths(draft_tokens, max_new_tokens)

        from descant.lab.bench import Bench, Settings
        from descant.lab.bench.prompts import fill
        from descant.lab.bench.report import write

        settings = Settings(max_new_tokens, rounds, lengths, without_cache)
        decoder = _load(models, threads)
        rows = fill(_encode(decoder, texts, models, no_chat_template), batch * rounds, prompt_tokens)
        record = _conditions(decoder, rows, batch, settings)
        study = Bench(decoder, [rows[start : start + batch] for start in range(0, len(rows), batch)], settings)
        with Progress(study.calls) as progress, _quiet_transformers():
            results = study.run(progress.advance)
        record |= dataclasses.asdict(results)
        if as_json:
            writer.write_json(record)
        else:
            _print_study(writer, results)
        if out is not None:
            try:
                write(out, results, record)
            except OSError as error:
                raise DescantError(f"cannot write to {out}: {error.strerror}; give another folder") from error
    return DONE


def _check_folder(out: Path | None) -> None:
    """Refuse before minutes of measuring what would fail after them."""
    if out is None:
        return
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; give a folder")
    require("--out", "matplotlib")


def _read(prompt: str | None, prompts: Path | None) -> list[str] | None:
    """Return the prompts that were given; a bad line of a file ends the program."""
    if prompts is None:
        return None if prompt is None else [read_prompt(prompt)]
    rows = read_prompts(prompts)
    for place, row in enumerate(rows, start=1):
        if row.error is not None:
            raise UsageError(f"prompt {place} of {prompts}: {row.error}; mend the line, or leave it out")
    return [row.prompt for row in rows]


def _lengths(text: str | None, max_new_tokens: int) -> "tuple[int | Literal['auto'], ...]":
    """Return the draft lengths that were given, or those of the usual ones that fit."""
    if text is None:
        return tuple(tokens for tokens in _DRAFT_TOKENS if tokens < max_new_tokens)
    lengths: list[int | Literal["auto"]] = []
    for word in (part.strip() for part in text.split(",")):
        if word == "auto":
            lengths.append("auto")
        elif word.isdecimal() and 1 <= int(word) < max_new_tokens:
            lengths.append(int(word))
        else:
            raise UsageError(
                f"--draft-tokens holds {word!r}; give whole numbers from 1 to below the {max_new_tokens} new tokens, "
                "or auto, separated by commas"
            )
    return tuple(dict.fromkeys(lengths))


def _load(models: ModelOptions, threads: int | None) -> "Decoder":
    import torch

    from descant.cli.models import load_models, plan_models

    if models.amateur_prompt is not None:
        raise UsageError(
            "--amateur-prompt makes no amateur that drafts for plain decoding, as bench has it do; drop it"
        )
    if threads is not None:
        torch.set_num_threads(threads)
    plan = plan_models(models)
    if models.bridge_tokenizers:
        raise UsageError("transformers has nothing to measure --bridge-tokenizers beside; drop it")
    return load_models(plan, reads_amateur=plan.has_amateur)


def _encode(decoder: "Decoder", texts: list[str] | None, models: ModelOptions, plain: bool) -> list[list[int]]:
    """Return the token ids of the prompts, or of those that suit the models."""
    from descant.calls.prompts import encode_prompts
    from descant.cli.decoding import chat_settings
    from descant.demo import questions
    from descant.lab.bench.prompts import TEXTS

    if texts is None:
        bundled = models.pair is None and models.expert is None
        texts = [question.prompt for question in questions("dev")] if bundled else list(TEXTS)
    return encode_prompts(decoder.tokenizer, texts, **chat_settings(decoder, RunOptions(no_chat_template=plain)))


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep transformers from complaining of how its own assisted generation calls itself."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _conditions(decoder: "Decoder", rows: list[list[int]], batch: int, settings: "Settings") -> dict[str, Any]:
    """Return all that the figures depend on, taken before the measuring loads the machine."""
    from transformers import PreTrainedModel

    from descant.describe import describe
    from descant.lab.bench.contenders import SCORINGS
    from descant.lab.bench.measure import conditions
    from descant.lab.bench.weights import facts

    expert, amateur = decoder.expert, decoder.amateur
    other = facts(amateur) if isinstance(amateur, PreTrainedModel) else amateur and {"name": repr(amateur)}
    lengths = sorted(map(len, rows))
    return {
        "command": shlex.join(["descant", *sys.argv[1:]]),
        "models": {"expert": facts(expert), "amateur": other},
        "settings": {
            "batch": batch,
            "prompt_tokens": {"least": lengths[0], "most": lengths[-1]},
            **dataclasses.asdict(settings),
            "scorings": {name: describe(scoring) for name, scoring in SCORINGS.items()},
        },
        "conditions": {"device": str(expert.device), **conditions(expert.device)},
    }


def _print_study(writer: Writer, study: "Measurements") -> None:
    """Print what `descant bench` measured, and how to read it."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from descant.cli.tables import print_parts
    from descant.lab.bench.report import HEADER, cells, legend

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for place, name in enumerate(HEADER):
        table.add_column(name, style=None if place else "cyan", justify="right" if place else "left", no_wrap=True)
    for engine in dict.fromkeys(entry.engine for entry in study.figures):
        table.add_row(Text(engine, style="bold"))
        for entry in study.figures:
            if entry.engine == engine:
                table.add_row(*cells(entry))
        table.add_section()
    print_parts(writer, table, *(Text(line, style="dim") for line in legend(study)))
