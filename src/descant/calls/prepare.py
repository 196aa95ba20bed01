"""What one call decodes or scores: its prompts, encoded and checked against the models, as rows or as pairs."""

import secrets
from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerBase

from descant.calls.models import Models
from descant.calls.options import Options
from descant.calls.other_prompts import bound, encode_other_prompts
from descant.calls.prompts import (
    Prompts,
    check_pairs,
    check_rows,
    check_tokens,
    encode_pairs,
    encode_prompts,
    require_tokenizer,
)
from descant.errors import SettingsError
from descant.numerics.choose import row_generator
from descant.rows import Ending, Row, TextFollower
from descant.scoring import Scoring
from descant.strategies.given import Given
from descant.tokens import check_stops


def prepare_rows(
    models: Models,
    tokenizer: PreTrainedTokenizerBase | None,
    scoring: Scoring,
    prompts: Prompts,
    amateur_prompts: Prompts | None,
    options: Options,
    eos_token_ids: Sequence[int],
    *,
    follow: bool,
) -> tuple[list[Row], int | None]:
    """Return a row for each prompt, and the seed of their generators; None where they are not drawn from.

    Parameters
    ----------
    models, tokenizer
        Of the decoder.
    scoring
        What is read, resolved.
    prompts, amateur_prompts, options
        As `Decoder.generate` takes them.
    eos_token_ids
        What ends a row, unless the options ignore it.
    follow
        Whether every row's text is wanted as it grows.

    Raises
    ------
    PromptError, SettingsError
        As `Decoder.generate` does.
    """
    texts = encode_prompts(tokenizer, prompts, chat=options.chat, system=options.system)
    context, width = models.context(scoring), models.width(scoring)
    room = min(1, options.max_new_tokens)
    check_rows(texts, width=width, context=context, room=room)
    _check_strategy(options, len(texts))
    settings = models.other_prompts(scoring)
    others = encode_other_prompts(
        settings, tokenizer, prompts, texts, amateur_prompts,
        chat=options.chat, system=options.system, width=width, room=room,
    )  # fmt: skip
    ending = _resolve_ending(tokenizer, options, eos_token_ids)
    seed = _resolve_seed(options)
    contexts = {name: most for name, (_, most) in settings.items()}
    rows = []
    for index, (tokens, replaced) in enumerate(zip(texts, others, strict=True)):
        limit = len(tokens) + options.max_new_tokens
        most = bound(context, replaced, contexts)
        follower = None
        if tokenizer is not None and ((follow and options.strategy.text_as_it_grows) or ending.strings):
            follower = TextFollower(tokenizer, tokens, ending.strings)
        rows.append(
            Row(
                index=index,
                tokens=list(tokens),
                prompt_length=len(tokens),
                limit=limit if most is None else min(limit, most),
                ending=ending,
                generator=row_generator(seed or 0, index),
                follower=follower,
                other_prompts=replaced,
            )
        )
    return rows, seed


def prepare_pairs(
    models: Models,
    tokenizer: PreTrainedTokenizerBase | None,
    scoring: Scoring,
    prompts: Prompts,
    continuations: Prompts,
    amateur_prompts: Prompts | None,
) -> tuple[list[Row], Given]:
    """Return a row for each prompt, and the continuations that they are given.

    Parameters
    ----------
    models, tokenizer, scoring
        As `prepare_rows` takes them.
    prompts, continuations, amateur_prompts
        As `Decoder.score` takes them.

    Raises
    ------
    PromptError, SettingsError
        As `Decoder.score` does.
    """
    width, settings = models.width(scoring), models.other_prompts(scoring)
    pairs = encode_pairs(tokenizer, prompts, continuations)
    check_pairs(pairs, width=width, context=models.context(scoring))
    others = encode_other_prompts(
        settings, tokenizer, prompts, [prompt for prompt, _ in pairs], amateur_prompts,
        chat=False, system=None, width=width, room=1,
    )  # fmt: skip
    for (_, end), replaced in zip(pairs, others, strict=True):
        for name, (_, context) in settings.items():
            check_tokens(replaced[name].tokens, width=width, context=context, room=len(end))
    rows = [
        Row(
            index=index,
            tokens=list(prompt),
            prompt_length=len(prompt),
            limit=len(prompt) + len(end),
            ending=Ending(),
            generator=row_generator(0, index),
            other_prompts=replaced,
        )
        for index, ((prompt, end), replaced) in enumerate(zip(pairs, others, strict=True))
    ]
    return rows, Given(tuple(tuple(end) for _, end in pairs))


def _check_strategy(options: Options, prompts: int) -> None:
    """Refuse a batch size that the strategy has no room in."""
    strategy = options.strategy
    if strategy.whole_batch and prompts * strategy.rows > options.batch_size:
        raise SettingsError(
            f"{strategy} draws for all {prompts} prompts at once, but batch_size is {options.batch_size}; raise it "
            f"to {prompts * strategy.rows}"
        )
    if strategy.rows > options.batch_size:
        raise SettingsError(
            f"a prompt takes {strategy.rows} rows, one a {strategy.rows_are}, "
            f"but batch_size is {options.batch_size}; raise it"
        )


def _resolve_ending(
    tokenizer: PreTrainedTokenizerBase | None, options: Options, eos_token_ids: Sequence[int]
) -> Ending:
    eos = frozenset() if options.ignore_eos else frozenset(eos_token_ids)
    if not options.stop:
        return Ending(eos)
    require_tokenizer(tokenizer, "a stop string")
    check_stops(options.stop)
    return Ending(eos, tuple(dict.fromkeys(options.stop)))


def _resolve_seed(options: Options) -> int | None:
    """Return the seed of the rows' generators; None where they are not drawn from."""
    if options.strategy.whole_batch:  # draws from torch's global generator, which the caller may have seeded
        if options.seed is not None:
            torch.manual_seed(options.seed)
        return options.seed
    if options.seed is None and options.strategy.random:
        return secrets.randbits(32)
    return options.seed
