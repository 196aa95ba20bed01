"""`descant generate`: prompts in, text out."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
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
from descant.cli.options import (
    OUTPUT,
    PROMPTS,
    RUN,
    DraftOptions,
    ExitOptions,
    Json,
    MethodName,
    MethodOptions,
    ModelOptions,
    RunOptions,
    expand,
    option,
)
from descant.cli.prompts import Line, read_prompt, read_prompts
from descant.errors import DescantError, UsageError

if TYPE_CHECKING:
    from descant.cli.decoding import Result
    from descant.decoder import Decoder
    from descant.results import Output


@dataclass(frozen=True)
class OutputOptions:
    """What is printed, and where."""

    logprobs: Annotated[
        int | None,
        option(OUTPUT, "With --json: log-probabilities, with those of the N best tokens.", of="N", least=0),
    ] = None
    trace: Annotated[bool, option(OUTPUT, "With --json: why each token was chosen.", "--trace")] = False
    no_stream: Annotated[bool, option(OUTPUT, "Print whole texts to a terminal too.", "--no-stream")] = False
    output: Annotated[Path | None, option(OUTPUT, "Append to a file instead of printing, row by row.", of="FILE")] = (
        None
    )


@expand
def generate(
    *,
    models: ModelOptions,
    method: MethodOptions,
    draft: DraftOptions,
    exits: ExitOptions,
    run: RunOptions,
    out: OutputOptions,
    prompt: Annotated[
        str | None, typer.Argument(help='The prompt; "-" or nothing reads it from stdin.', show_default=False)
    ] = None,
    prompts: Annotated[Path | None, option("Options", PROMPTS, of="FILE")] = None,
    preset: MethodName = None,
    rng: Annotated[
        str | None,
        option(RUN, "seeded, the default, or transformers, which draws as model.generate does.", of="NAME"),
    ] = None,
    batch_size: Annotated[int, option(RUN, "Rows decoded at once; 64.", of="N", least=1)] = 64,
    as_json: Json = False,
) -> int:
    """Decode one prompt, or a file of them.

    Text goes to stdout: piece by piece to a terminal, whole to a pipe. With --json each prompt gives one
    object: text, token_ids, finish_reason, method (every setting), timing; of a beam search also its score and
    the other beams.

    Ctrl-C ends the rows where they are, prints them and exits with 130; a second one aborts. Exit codes:
    0 done, 1 error, 2 usage, 3 some prompts of a file failed, 130 interrupted, 141 the output was closed.
    """
    if not as_json and (out.logprobs is not None or out.trace):
        raise UsageError(f"{'--trace' if out.trace else '--logprobs'} needs --json: text has no place for it")
    if prompt is not None and prompts is not None:
        raise UsageError("PROMPT and --prompts exclude each other; drop one of them")
    with data_writer(out.output) as writer:
        rows = [Line(read_prompt(prompt))] if prompts is None else read_prompts(prompts)
        decoder, arguments = _prepare(models, method, draft, exits, run, preset, rng)
        arguments |= {"top_logprobs": out.logprobs or 0, "trace": out.trace, "batch_size": batch_size}
        job = _Job(decoder, rows, arguments, writer, out, as_json=as_json, batch=prompts is not None)
        with stop_on_interrupt() as stop:
            return job.run(stop)


def _prepare(
    models: ModelOptions,
    method: MethodOptions,
    draft: DraftOptions,
    exits: ExitOptions,
    run: RunOptions,
    preset: str | None,
    rng: str | None,
) -> "tuple[Decoder, dict[str, Any]]":
    """Check all options, then load the models; return the arguments of the library's call."""
    from descant.cli.decoding import chat_settings
    from descant.cli.methods import NEEDS_AMATEUR, choose, settle_randomness, speculate
    from descant.cli.models import choose_draft, choose_exit, load_draft, load_models, plan_models

    plan = plan_models(models)
    resolved = choose(preset, method.given(), has_amateur=plan.has_amateur)
    drafting = choose_draft(draft)
    resolved = speculate(resolved, draft.given(), drafting)
    if resolved.amateur_drafts and not plan.has_amateur:
        raise UsageError(f"speculation without --draft-model, --draft-layer or --draft-lookup {NEEDS_AMATEUR}")
    [resolved], seed = settle_randomness([resolved], run, rng)
    decoder = load_models(
        plan,
        reads_amateur=resolved.reads_amateur,
        reads=resolved.method.scoring.sources,
        confident_exit=choose_exit(exits),
    )
    if isinstance(drafting, str):
        resolved = speculate(resolved, draft.given(), load_draft(drafting, plan, decoder))
    arguments = {
        **resolved.method.arguments,
        "max_new_tokens": run.max_new_tokens,
        "stop": run.stop or (),
        "ignore_eos": run.ignore_eos,
        "seed": seed,
        **chat_settings(decoder, run),
    }
    return decoder, arguments


@dataclass(frozen=True)
class _Job:
    """All rows of one command, from prompts to print."""

    decoder: "Decoder"
    rows: list[Line]
    arguments: dict[str, Any]
    writer: Writer
    options: OutputOptions
    as_json: bool
    batch: bool

    def run(self, stop: Stop) -> int:
        """Decode and print; return the exit code."""
        if self.arguments["seed"] is not None:
            import torch

            torch.manual_seed(self.arguments["seed"])  # what rng="transformers" draws from
        if self.batch:
            failed = self._print_rows(stop)
        else:
            failed = False
            self._print_one(stop)
        if stop.requested:
            return INTERRUPTED
        return SOME_ROWS_FAILED if failed else DONE

    def _print_one(self, stop: Stop) -> None:
        live = self.writer.is_terminal and not (self.as_json or self.options.no_stream)
        text = ""
        try:
            for piece in self.decoder.stream(self.rows[0].prompt, **self.arguments, cancelled=stop):
                if live:
                    self.writer.write(piece.text)
                else:
                    text += piece.text
                if piece.output is not None and self.as_json:
                    self._print(0, piece.output)
        finally:  # what was decoded before an error is not lost
            if not self.as_json and (live or text):
                self.writer.write(text + "\n")

    def _print_rows(self, stop: Stop) -> bool:
        """Print results in the order of the prompts, each as soon as its turn has come."""
        results: dict[int, Result] = {}
        turn, failed = 0, False
        with Progress(len(self.rows)) as progress:
            for index, result in self._results(stop):
                results[index] = result
                failed |= isinstance(result, DescantError)
                progress.advance()
                while turn in results:
                    with progress.hidden():
                        self._print(turn, results.pop(turn))
                    turn += 1
        return failed

    def _results(self, stop: Stop) -> "Iterator[tuple[int, Result]]":
        from descant.cli.decoding import decode_rows
        from descant.errors import PromptError

        for index, row in enumerate(self.rows):
            if row.error is not None:
                yield index, PromptError(row.error)
        good = {index: row.prompt for index, row in enumerate(self.rows) if row.error is None}
        yield from decode_rows(self.decoder, good, self.arguments, stop)

    def _print(self, index: int, result: "Result") -> None:
        place = {"index": index} if self.batch else {}
        record = {**place, "prompt": self.rows[index].prompt}
        if isinstance(result, DescantError):
            if self.as_json:
                self.writer.write_json({**record, "error": str(result)})
            else:
                complain(f"prompt {index + 1}: {result}")
        elif self.as_json:
            self.writer.write_json({**record, **self._describe(result)})
        elif result.text or result.finish_reason != "cancelled":
            self.writer.write(result.text + "\n")

    def _describe(self, output: "Output") -> dict[str, Any]:
        record: dict[str, Any] = {
            "text": output.text,
            "token_ids": output.token_ids,
            "finish_reason": output.finish_reason,
            "method": output.method,
            "timing": dataclasses.asdict(output.timing),
        }
        if output.score is not None:
            record["score"] = output.score
            record["alternatives"] = [_describe_alternative(beam) for beam in output.alternatives]
        if self.options.logprobs is not None:
            record["logprobs"] = output.logprobs
        if output.top_logprobs is not None:
            record["top_logprobs"] = output.top_logprobs
        if output.exit_layers is not None:
            record["exit_layers"] = output.exit_layers
        if output.speculation is not None:
            count = output.speculation
            record["speculation"] = {**dataclasses.asdict(count), "acceptance_rate": count.acceptance_rate}
        if output.trace is not None:
            record["trace"] = [dataclasses.asdict(entry) for entry in output.trace]
        return record


def _describe_alternative(beam: "Output") -> dict[str, Any]:
    return {name: getattr(beam, name) for name in ("text", "token_ids", "finish_reason", "score", "logprobs")}
