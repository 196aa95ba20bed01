"""`descant score`: how probable a text is under a method."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from descant.cli.console import DONE, SOME_ROWS_FAILED, Progress, Writer, complain, data_writer
from descant.cli.options import Json, MethodName, MethodOptions, ModelOptions, expand, option
from descant.cli.prompts import read_pairs
from descant.errors import DecodingError, DescantError, PromptError, UsageError

if TYPE_CHECKING:
    from descant.decoder import Decoder
    from descant.results import Score

Pair = tuple[str, str]


@expand
def score(
    *,
    models: ModelOptions,
    method: MethodOptions,
    prompt: Annotated[str | None, typer.Argument(help="What comes before.", show_default=False)] = None,
    continuations: Annotated[
        list[str] | None,
        typer.Argument(metavar="CONTINUATION...", help="Texts to score after it.", show_default=False),
    ] = None,
    pairs: Annotated[
        Path | None,
        option("Options", 'Pairs from a file: JSON objects with "prompt" and "continuation".', of="FILE"),
    ] = None,
    preset: MethodName = None,
    batch_size: Annotated[int, option("Options", "Pairs read at once; 16.", of="N", least=1)] = 16,
    as_json: Json = False,
) -> int:
    """Print the log-probability of text under a method, natural and in total.

    One line a continuation: the figure, a tab, the text. -inf is what the method would never write. With
    --json each gives one object, with the figure of every token too; null stands for -inf.
    """
    with data_writer() as writer:
        rows = _read(prompt, continuations, pairs)
        decoder, arguments = _prepare(models, method, preset)
        job = _Pairs(decoder, arguments, writer, as_json)
        return job.run(rows, batch_size, batch=pairs is not None)


def _read(prompt: str | None, continuations: list[str] | None, pairs: Path | None) -> list[Pair | str]:
    if pairs is not None:
        if prompt is not None:
            raise UsageError("PROMPT and --pairs exclude each other; drop one of them")
        return read_pairs(pairs)
    if prompt is None or not continuations:
        raise UsageError("give PROMPT and at least one CONTINUATION, or --pairs FILE")
    return [(prompt, continuation) for continuation in continuations]


def _prepare(models: ModelOptions, method: MethodOptions, preset: str | None) -> "tuple[Decoder, dict[str, Any]]":
    from descant.cli.methods import choose
    from descant.cli.models import load_models, plan_models

    if method.given().get("temperature") == 0:
        raise UsageError("--temperature 0 leaves no distribution to score under; give one above 0")
    plan = plan_models(models)
    resolved = choose(preset, method.given(), has_amateur=plan.has_amateur)
    decoder = load_models(plan, reads_amateur=resolved.contrasts, reads=resolved.method.scoring.sources)
    return decoder, {"scoring": resolved.method.scoring, "processors": resolved.method.processors}


class _Pairs:
    """All pairs of one command."""

    def __init__(self, decoder: "Decoder", arguments: Mapping[str, Any], writer: Writer, as_json: bool) -> None:
        from descant.describe import describe

        self.decoder = decoder
        self.arguments = arguments
        self.writer = writer
        self.as_json = as_json
        self.record = {name: describe(part) for name, part in arguments.items()}

    def run(self, rows: Sequence[Pair | str], batch_size: int, *, batch: bool) -> int:
        """Score and print; return the exit code."""
        failed = False
        with Progress(len(rows)) as progress:
            for start in range(0, len(rows), batch_size):
                part = rows[start : start + batch_size]
                for place, result in enumerate(self._score(part, alone=not batch), start=start):
                    failed |= isinstance(result, DescantError)
                    progress.advance()
                    with progress.hidden():
                        self._print(rows[place], result, place if batch else None)
        return SOME_ROWS_FAILED if failed else DONE

    def _score(self, rows: Sequence[Pair | str], *, alone: bool) -> "Iterator[Score | DescantError]":
        """Score pairs together; where that fails one by one, so that only the bad ones are lost."""
        good = [row for row in rows if not isinstance(row, str)]
        try:
            scores = iter(self._call(good) if good else [])
            yield from (PromptError(row) if isinstance(row, str) else next(scores) for row in rows)
        except (PromptError, DecodingError) as error:
            if alone:
                raise
            if len(rows) == 1:
                yield error
                return
            for row in rows:
                yield from self._score([row], alone=False)

    def _call(self, pairs: Sequence[Pair]) -> "list[Score]":
        prompts, continuations = zip(*pairs, strict=True)
        return self.decoder.score(list(prompts), list(continuations), **self.arguments, batch_size=len(pairs))

    def _print(self, row: Pair | str, result: "Score | DescantError", index: int | None) -> None:
        record: dict[str, Any] = {} if index is None else {"index": index}
        if not isinstance(row, str):
            record |= {"prompt": row[0], "continuation": row[1]}
        if isinstance(result, DescantError):
            if self.as_json:
                self.writer.write_json({**record, "error": str(result)})
            else:
                complain(f"pair {(index or 0) + 1}: {result}")
        elif self.as_json:
            parts = {"logprob": float(result), "token_ids": result.token_ids, "logprobs": result.logprobs}
            self.writer.write_json({**record, **parts, "method": self.record})
        else:
            text = row[1].replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")
            self.writer.write(f"{float(result):.6f}\t{text}\n")
