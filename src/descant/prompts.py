"""Prompts as callers give them, checked and turned into rows of token ids."""

from collections.abc import Iterable, Mapping, Sequence
from operator import index
from typing import cast

from transformers import PreTrainedTokenizerBase

from descant.errors import PromptError, SettingsError
from descant.tokens import Message, encode, encode_continuation

Prompt = str | Sequence[int] | Sequence[Message]
"""A text, a row of token ids, or the messages of a chat."""

Prompts = str | Sequence[str] | Sequence[Sequence[int]] | Sequence[Sequence[Message]]
"""One text, several texts, several rows of token ids, or several chats."""


def as_list(prompts: Prompts) -> list[Prompt]:
    """Return the prompts one by one.

    Raises
    ------
    PromptError
        If a row of token ids was given in place of a list of rows.
    """
    if isinstance(prompts, str):
        return [prompts]
    if not isinstance(prompts, Iterable):
        raise PromptError(f"{prompts!r} is neither text nor a list of prompts; give one of them")
    listed: list[Prompt] = list(prompts)
    if any(isinstance(prompt, (int, Mapping)) for prompt in listed):
        raise PromptError("prompts is one row of token ids, or one chat; give a list of them: [[…]]")
    return listed


def require_tokenizer(tokenizer: PreTrainedTokenizerBase | None, what: str) -> PreTrainedTokenizerBase:
    """Return the tokenizer, or raise `PromptError` because `what` needs one."""
    if tokenizer is None:
        raise PromptError(f"{what} needs a tokenizer; give Decoder(model, tokenizer), or token ids")
    return tokenizer


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase | None, prompt: Prompt, *, chat: bool, system: str | None
) -> list[int]:
    """Return a prompt's token ids.

    Raises
    ------
    PromptError
        If it is empty, or a text without a tokenizer.
    SettingsError
        If the chat template is asked for in part, or for token ids.
    """
    if system is not None and not chat:
        raise SettingsError("a system prompt is part of the chat template; give chat=True as well")
    if not isinstance(prompt, (str, Iterable)):
        raise PromptError(f"{prompt!r} is neither text nor a row of token ids; give one of them")
    if isinstance(prompt, str):
        return encode(require_tokenizer(tokenizer, "a prompt that is text"), prompt, chat=chat, system=system)
    if len(prompt) and isinstance(prompt[0], Mapping):
        chatting = require_tokenizer(tokenizer, "a chat")
        return encode(chatting, cast(Sequence[Message], prompt), chat=chat, system=system)
    if chat:
        raise SettingsError("the chat template takes texts, not token ids; give text or leave chat off")
    return _row(cast(Sequence[int], prompt))


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
    return _row(cast(Sequence[int], prompt)), _row(cast(Sequence[int], continuation))


def _row(tokens: Sequence[int]) -> list[int]:
    """Return token ids as integers, whatever holds them; a float is no token id."""
    try:
        return [index(token) for token in tokens]
    except TypeError as error:
        raise PromptError(
            f"a prompt is neither text nor a row of integer token ids ({error}); give one of them"
        ) from error


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
