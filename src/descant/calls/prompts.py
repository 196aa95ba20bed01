"""Prompts as callers give them, checked and turned into rows of token ids."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import index
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from descant.checks import shown
from descant.errors import PromptError, SettingsError
from descant.tokens import Message, encode, encode_continuation

Prompt = str | Sequence[int] | Sequence[Message]
"""A text, a row of token ids, or the messages of a chat."""

Prompts = str | Sequence[str] | Sequence[Sequence[int]] | Sequence[Sequence[Message]]
"""One text, several texts, several rows of token ids, or several chats."""


def as_list(prompts: Prompts) -> list[Prompt]:
    """Return the prompts one by one; tensors and arrays of token ids as lists.

    Raises
    ------
    PromptError
        If they are no list of prompts: one row of token ids, one chat, a tokenizer's whole output.
    """
    plain = _plain(prompts)
    if isinstance(plain, (str, bytes, bytearray)):
        return [cast(Prompt, plain)]
    if isinstance(plain, Mapping):
        raise _mapping(plain)
    if not isinstance(plain, Iterable):
        raise PromptError(f"{shown(prompts)} is neither text nor a list of prompts; give one of them")
    listed: list[Any] = [_plain(prompt) for prompt in plain]
    if listed and all(isinstance(prompt, int) for prompt in listed):
        raise PromptError("prompts is one row of token ids; give a list of them: [[…]]")
    if listed and all(isinstance(prompt, Mapping) and "role" in prompt for prompt in listed):
        raise PromptError("prompts is one chat; give a list of them: [[…]]")
    return listed


def require_tokenizer(tokenizer: PreTrainedTokenizerBase | None, what: str) -> PreTrainedTokenizerBase:
    """Return the tokenizer, or raise `PromptError` because `what` needs one."""
    if tokenizer is None:
        raise PromptError(f"{what} needs a tokenizer; give Decoder(model, tokenizer), or token ids")
    return tokenizer


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase | None, prompts: Prompts, *, chat: bool, system: str | None
) -> list[list[int]]:
    """Return the token ids of each prompt.

    Raises
    ------
    PromptError
        If a prompt is empty or malformed, or a text without a tokenizer; of several, the message names which.
    SettingsError
        If the chat template is asked for in part, or for token ids.
    """
    listed = as_list(prompts)
    rows = []
    for place, prompt in enumerate(listed):
        with _naming(place, len(listed)):
            rows.append(encode_prompt(tokenizer, prompt, chat=chat, system=system))
    return rows


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase | None, prompt: Prompt, *, chat: bool, system: str | None
) -> list[int]:
    """Return a prompt's token ids, or raise as `encode_prompts` does."""
    if isinstance(prompt, str):
        return encode(require_tokenizer(tokenizer, "a prompt that is text"), prompt, chat=chat, system=system)
    if isinstance(prompt, Mapping):
        raise _mapping(prompt)
    if not isinstance(prompt, Iterable):
        raise PromptError(f"{shown(prompt)} is neither text nor a row of token ids; give one of them")
    parts = prompt if isinstance(prompt, (bytes, bytearray)) else list(prompt)
    if parts and all(isinstance(part, Mapping) for part in parts):
        chatting = require_tokenizer(tokenizer, "a chat")
        return encode(chatting, cast(Sequence[Message], parts), chat=chat, system=system)
    row = _row(parts)
    if chat:
        raise SettingsError("the chat template takes texts, not token ids; give text or leave chat off")
    return row


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase | None, prompts: Prompts, continuations: Prompts
) -> list[tuple[list[int], list[int]]]:
    """Return the token ids of each prompt and of what continues it.

    Raises
    ------
    PromptError
        If there are not as many of each, or a pair is unusable; of several, the message names which.
    """
    texts, ends = as_list(prompts), as_list(continuations)
    if len(texts) != len(ends):
        raise PromptError(f"{len(texts)} prompts and {len(ends)} continuations; give as many of each")
    pairs = []
    for place, (text, end) in enumerate(zip(texts, ends, strict=True)):
        with _naming(place, len(texts)):
            pairs.append(encode_pair(tokenizer, text, end))
    return pairs


def encode_pair(
    tokenizer: PreTrainedTokenizerBase | None, prompt: Prompt, continuation: Prompt
) -> tuple[list[int], list[int]]:
    """Return the token ids of a prompt and of the text that continues it.

    Raises
    ------
    PromptError
        If one is text and the other token ids, or text lacks a tokenizer.
    """
    if isinstance(prompt, str) and isinstance(continuation, str):
        return encode_continuation(require_tokenizer(tokenizer, "text to score"), prompt, continuation)
    if isinstance(prompt, str) or isinstance(continuation, str):
        raise PromptError("prompt and continuation must both be texts, or both token ids")
    return _row(prompt), _row(continuation)


def check_rows(rows: Sequence[Sequence[int]], *, width: int, context: int | None, room: int) -> None:
    """Check each row as `check_tokens` does; of several, the message names which."""
    for place, tokens in enumerate(rows):
        with _naming(place, len(rows)):
            check_tokens(tokens, width=width, context=context, room=room)


def check_pairs(pairs: Sequence[tuple[Sequence[int], Sequence[int]]], *, width: int, context: int | None) -> None:
    """Check prompts with their continuations as `check_tokens` does; of several, the message names which."""
    for place, (prompt, end) in enumerate(pairs):
        with _naming(place, len(pairs)):
            check_tokens(prompt, width=width, context=context, room=max(0, len(end) - 1))  # the last one is not read
            check_tokens(end, width=width, context=None, room=0)


def check_tokens(tokens: Sequence[int], *, width: int, context: int | None, room: int) -> None:
    """Check a row of token ids against the model that will read it.

    Parameters
    ----------
    tokens
        The row.
    width
        Size of the vocabulary.
    context
        The most tokens a row may hold, or None.
    room
        How many of them must stay free.

    Raises
    ------
    PromptError
        If it is empty, holds ids that are not in the vocabulary, or is too long.
    """
    if not tokens:
        raise PromptError("a prompt or continuation has no tokens; give at least one")
    if min(tokens) < 0 or max(tokens) >= width:
        raise PromptError(
            f"token ids {min(tokens)} to {max(tokens)} do not fit a vocabulary of {width}; encode the prompt with the "
            "expert's tokenizer"
        )
    if context is not None and len(tokens) + room > context:
        raise PromptError(
            f"a text of {len(tokens)} tokens is longer than the context allows, which holds {context} with any new "
            "ones; shorten it"
        )


@contextmanager
def _naming(place: int, count: int) -> Iterator[None]:
    """Say in errors which prompt is meant, where the call had more than one."""
    try:
        yield
    except (PromptError, SettingsError) as error:
        if count == 1:
            raise
        raise type(error)(f"prompt {place}: {error}") from error


def _plain(value: Any) -> Any:
    """Return a tensor or an array, or one of its numbers, as Python's own; anything else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def _mapping(mapping: Mapping[Any, Any]) -> PromptError:
    return PromptError(
        f"a {type(mapping).__name__} is no prompt; give texts, chats [[{{…}}]], or rows of token ids: "
        'tokenizer(texts)["input_ids"]'
    )


def _row(tokens: Any) -> list[int]:
    """Return token ids as integers, whatever holds them; a float, a bool or a byte is no token id."""
    if isinstance(tokens, (bytes, bytearray)):
        raise PromptError("a prompt is bytes, which is neither text nor token ids; decode it: prompt.decode()")
    try:
        ids = [_plain(token) for token in _plain(tokens)]
        if any(isinstance(token, bool) for token in ids):
            raise TypeError("a bool is none")
        return [index(token) for token in ids]
    except TypeError as error:
        raise PromptError(
            f"a prompt is neither text nor a row of integer token ids ({error}); give one of them"
        ) from error
