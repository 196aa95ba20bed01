"""Rows of prompts through the library: bad ones are set aside, and the others still are decoded."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from descant.cli.options import RunOptions
from descant.decoder import Decoder
from descant.errors import DecodingError, DescantError, PromptError, UsageError
from descant.results import Output, Piece

Result = Output | DescantError
"""What became of a row."""


def chat_settings(decoder: Decoder, run: RunOptions) -> dict[str, Any]:
    """Return how prompts become tokens: through the chat template where there is one.

    Raises
    ------
    UsageError
        If there is a system prompt and no template for it.
    """
    has_template = bool(getattr(decoder.tokenizer, "chat_template", None))
    if run.system is not None and (run.no_chat_template or not has_template):
        cause = "--no-chat-template leaves it out" if run.no_chat_template else "the tokenizer has no chat template"
        raise UsageError(f"--system would have no effect: {cause}; put that text at the head of the prompt")
    return {"chat": has_template and not run.no_chat_template, "system": run.system}


def decode_rows(
    decoder: Decoder, prompts: Mapping[int, str], arguments: Mapping[str, Any], stop: Callable[[], bool]
) -> Iterator[tuple[int, Result]]:
    """Decode prompts together and yield each row's result as soon as it has one, in no order.

    Rows that the library refuses are yielded with their error first. If a step fails, which ends the whole
    call, the unfinished rows are decoded each in a call of its own, so that only the broken ones are lost;
    their seed is the call's plus their place.
    """
    good = prompts
    try:
        pieces = decoder.stream(list(good.values()), **arguments, cancelled=stop)
    except PromptError:
        refused = dict(_refused(decoder, prompts, arguments))
        yield from refused.items()
        good = {index: prompt for index, prompt in prompts.items() if index not in refused}
        pieces = decoder.stream(list(good.values()), **arguments, cancelled=stop) if good else iter(())
    unfinished = dict(good)
    try:
        for index, output in _finished(pieces, list(good)):
            del unfinished[index]
            yield index, output
    except DecodingError as error:
        if len(good) == 1:
            yield next(iter(good)), error
            return
        for index, prompt in unfinished.items():
            yield index, _decode_alone(decoder, prompt, index, arguments, stop)


def _refused(
    decoder: Decoder, prompts: Mapping[int, str], arguments: Mapping[str, Any]
) -> Iterator[tuple[int, PromptError]]:
    for index, prompt in prompts.items():
        try:
            decoder.stream(prompt, **arguments)
        except PromptError as error:
            yield index, error


def _finished(pieces: Iterator[Piece], indices: Sequence[int]) -> Iterator[tuple[int, Output]]:
    for piece in pieces:
        if piece.output is not None:
            yield indices[piece.index], piece.output


def _decode_alone(
    decoder: Decoder, prompt: str, index: int, arguments: Mapping[str, Any], stop: Callable[[], bool]
) -> Result:
    seed = arguments["seed"]
    own = {**arguments, "seed": None if seed is None else seed + index}
    try:
        return decoder.generate(prompt, **own, cancelled=stop)[0]
    except DecodingError as error:
        return error
