"""`descant compare`: methods side by side on the same prompts."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from descant.cli.console import (
    DONE,
    INTERRUPTED,
    SOME_ROWS_FAILED,
    Progress,
    Stop,
    Writer,
    complain,
    data_writer,
    stop_on_interrupt,
)
from descant.cli.options import PROMPTS, Json, MethodOptions, ModelOptions, RunOptions, expand, option
from descant.cli.prompts import Line, read_prompt, read_prompts
from descant.errors import DecodingError, DescantError, PromptError, UsageError

if TYPE_CHECKING:
    from descant.cli.contenders import Competitor, Decoding
    from descant.cli.models import Plan

AMATEUR = "amateur"
"""The amateur by itself, greedily: a method of `compare` only."""


@expand
def compare(
    *,
    models: ModelOptions,
    method: MethodOptions,
    run: RunOptions,
    prompt: Annotated[
        str | None,
        typer.Argument(
            help='The prompt; "-" reads it from stdin. Without any, the bundled pair has its own.',
            show_default=False,
        ),
    ] = None,
    prompts: Annotated[Path | None, option("Options", PROMPTS, of="FILE")] = None,
    methods: Annotated[
        str | None,
        option(
            "Options",
            "Presets, separated by commas, and `amateur`: the amateur alone. The default is "
            "amateur,greedy,contrastive.",
            of="NAMES",
        ),
    ] = None,
    as_json: Json = False,
) -> int:
    """Show what several methods make of the same prompts, and how fast.

    Options act on every method that they can act on. Prompts are decoded one at a time; tokens/s is the rate
    at that. The last column tells whether transformers' own model.generate gives the same tokens, and its
    rate in the same run; "–" marks methods that it lacks. Sampling draws as it does, from one seed.

    --json prints one object for each prompt and method.
    """
    with data_writer() as writer:
        rows = _read(prompt, prompts, models)
        contenders, arguments = _prepare(models, method, run, methods)
        with stop_on_interrupt() as stop:
            return _Comparison(contenders, arguments, writer, as_json, batch=prompts is not None).run(rows, stop)


def _read(prompt: str | None, prompts: Path | None, models: ModelOptions) -> list[Line]:
    if prompt is not None and prompts is not None:
        raise UsageError("PROMPT and --prompts exclude each other; drop one of them")
    if prompts is not None:
        return read_prompts(prompts)
    if prompt is not None:
        return [Line(read_prompt(prompt))]
    if models.expert is not None or models.pair is not None:
        raise UsageError('no prompt; give it as an argument or use --prompts FILE ("-" is stdin)')
    from descant.demo import example_prompts, questions

    truths = {question.prompt: question.answer for question in questions("dev")}
    return [Line(text, truth=truths.get(text)) for text in example_prompts]


def _prepare(
    models: ModelOptions, method: MethodOptions, run: RunOptions, methods: str | None
) -> "tuple[list[Competitor], dict[str, Any]]":
    """Check all options, then load the models; return who competes, and the arguments that all share."""
    from descant.cli.contenders import Competitor, load_for, resolve_all
    from descant.cli.decoding import chat_settings
    from descant.cli.methods import settle_randomness
    from descant.cli.models import plan_models
    from descant.decoder import Decoder

    plan = plan_models(models)
    names = _names(plan, methods)
    found = resolve_all(["greedy" if name == AMATEUR else name for name in names], method.given())
    resolved, seed = settle_randomness(found, run, None, "transformers")
    decoder = load_for(plan, resolved, amateur=AMATEUR in names)
    alone: Decoder | None = None
    if AMATEUR in names:
        alone = Decoder(decoder.amateur, decoder.tokenizer)  # type: ignore[arg-type]
    contenders = [
        Competitor(name, alone if alone is not None and name == AMATEUR else decoder, entry.method, run, seed)
        for name, entry in zip(names, resolved, strict=True)
    ]
    arguments = {
        "max_new_tokens": run.max_new_tokens,
        "stop": run.stop or (),
        "ignore_eos": run.ignore_eos,
        "seed": seed,
        **chat_settings(decoder, run),
    }
    return contenders, arguments


def _names(plan: "Plan", methods: str | None) -> list[str]:
    """Return the methods that were asked for, or those that the models allow."""
    from descant.cli.contenders import split_names

    options = plan.options
    special = options.amateur_window is not None or options.amateur_prompt is not None or options.bridge_tokenizers
    is_model = plan.amateur is not None and not special
    if methods is None:
        alone = [AMATEUR] if is_model else []
        return [*alone, "greedy", *(["contrastive"] if plan.has_amateur else [])]
    names = split_names(methods)
    if AMATEUR in names and not is_model:
        raise UsageError("the amateur alone needs a model of its own; give --amateur NAME, or drop it from --methods")
    return names


class _Comparison:
    """All prompts under all methods."""

    def __init__(
        self,
        contenders: "list[Competitor]",
        arguments: dict[str, Any],
        writer: Writer,
        as_json: bool,
        *,
        batch: bool,
    ) -> None:
        self.contenders = contenders
        self.arguments = arguments
        self.writer = writer
        self.as_json = as_json
        self.batch = batch

    def run(self, rows: list[Line], stop: Stop) -> int:
        """Decode and print; return the exit code."""
        from descant.cli.tables import print_rates

        runs: list[Decoding] = []
        failed = False
        with Progress(len(rows) * len(self.contenders)) as progress:
            self._warm_up(rows)
            for index, row in enumerate(rows):
                found: list[Decoding] = []
                error: DescantError | None = None
                try:
                    for done in self._decode(row, stop):
                        found.append(done)
                        progress.advance()
                except (PromptError, DecodingError) as caught:
                    error, failed = caught, True
                with progress.hidden():
                    self._print(index, row, found, error)
                runs += found
                if stop.requested:
                    break
        if not self.as_json and runs:
            print_rates(self.writer, self.contenders, runs)
        if stop.requested:
            return INTERRUPTED
        return SOME_ROWS_FAILED if failed else DONE

    def _warm_up(self, rows: list[Line]) -> None:
        """Decode a few tokens, for the first ones of a process are slow."""
        for row in rows:
            if row.error is None:
                with contextlib.suppress(PromptError, DecodingError):  # said when it is the row's turn
                    for contender in self.contenders:
                        contender.warm_up(row.prompt, self.arguments)
                    return

    def _decode(self, row: Line, stop: Stop) -> "Iterator[Decoding]":
        """Decode one prompt under every method, until the user stops."""
        if row.error is not None:
            raise PromptError(row.error)
        for contender in self.contenders:
            if not stop.requested:
                yield contender.decode(row.prompt, self.arguments, stop)

    def _print(self, index: int, row: Line, runs: "list[Decoding]", error: DescantError | None) -> None:
        """Print what there is of a prompt; an error of the only prompt ends the program."""
        from descant.cli.tables import print_texts

        place = {"index": index, "prompt": row.prompt}
        if self.as_json:
            for run in runs:
                self.writer.write_json({**place, **run.describe()})
        elif runs:
            print_texts(self.writer, row.prompt, row.truth, runs)
        if error is None:
            return
        if not self.batch:
            raise error
        if self.as_json:
            self.writer.write_json({**place, "error": str(error)})
        else:
            complain(f"prompt {index + 1}: {error}")
