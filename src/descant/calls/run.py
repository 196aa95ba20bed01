"""One call: its rows driven through the engine, its text handed out piece by piece."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from descant.engine.loop import Engine
from descant.results import Output, Piece
from descant.rows import Row
from descant.tokens import decode_after


class Run:
    """The rows of one call and the engine that decodes them.

    Parameters
    ----------
    engine
        Without rows.
    rows
        The call's rows, in order.
    record
        The settings of the call, for its outputs.
    tokenizer
        Gives the outputs their text; None leaves it empty.
    """

    def __init__(
        self,
        engine: Engine,
        rows: Sequence[Row],
        record: Mapping[str, Any],
        tokenizer: PreTrainedTokenizerBase | None,
    ) -> None:
        self.engine = engine
        self.rows = rows
        self.record = record
        self.tokenizer = tokenizer
        self._shown = {row.index: (0, 0) for row in rows}  # characters and tokens handed out

    def pieces(self, cancelled: Callable[[], bool] | None) -> Iterator[Piece]:
        """Decode, and yield what each step made certain; the last piece of a row carries its output."""
        self.engine.add(self.rows)
        yield from self._new(row for row in self.rows if row.finish_reason is not None)
        while self.engine.busy:
            if cancelled is not None and cancelled():
                yield from self._new(self.engine.cancel())
                return
            yield from self._new(self.engine.step())

    def _new(self, rows: Iterator[Row] | Sequence[Row]) -> Iterator[Piece]:
        for row in rows:
            characters, tokens = self._shown[row.index]
            output = self._output(row) if row.finish_reason is not None else None
            text = row.follower.text[characters:] if row.follower is not None else output.text if output else ""
            if row.follower is not None and not text and output is None:
                continue
            new = row.tokens[row.prompt_length + tokens :]
            self._shown[row.index] = (characters + len(text), tokens + len(new))
            yield Piece(row.index, text, new, output)

    def _output(self, row: Row) -> Output:
        assert row.finish_reason is not None
        new = row.new_tokens
        text = ""
        if row.follower is not None:
            text = row.follower.text
        elif self.tokenizer is not None:
            text = decode_after(self.tokenizer, row.tokens[: row.prompt_length], new)
        return Output(
            text=text,
            token_ids=new,
            finish_reason=row.finish_reason,
            logprobs=row.logprobs,
            method=self.record,
            timing=row.timing(),
            prompt_token_ids=row.tokens[: row.prompt_length],
            top_logprobs=row.top_logprobs if self.engine.top_logprobs else None,
            score=row.score,
            alternatives=tuple(map(self._output, row.alternatives)),
            trace=row.trace if self.engine.trace is not None else None,
            exit_layers=row.exit_layers if self.engine.sources.layers_run is not None else None,
            speculation=row.speculation if self.engine.method.strategy.drafting is not None else None,
            other_prompt_token_ids={name: list(other.tokens) for name, other in row.other_prompts.items()},
        )
