"""Whole texts to token ids and back.

`decode` is the only place where ids become text: the incremental detokenizer is defined by it, and every
result's text comes from it.
"""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from descant.errors import PromptError, SettingsError
from descant.tokens.chat import Message, write_chat


def encode(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | Sequence[Message],
    *,
    chat: bool,
    system: str | None = None,
) -> list[int]:
    """Turn a prompt into token ids.

    Parameters
    ----------
    tokenizer
        Any transformers tokenizer.
    prompt
        Text, or (with `chat`) a list of messages.
    chat
        Whether the prompt goes through the tokenizer's chat template, which opens the assistant's turn; one that ends
        the messages is continued.
        Otherwise it is encoded as it stands, with the special tokens that the tokenizer adds by itself.
    system
        A system message before the prompt; needs `chat`.

    Raises
    ------
    PromptError
        The prompt is empty, or the tokenizer's chat template cannot express it.
    SettingsError
        `system` was given where it would be ignored.
    """
    if prompt == "":  # a tokenizer's own special tokens make no prompt
        raise PromptError("the prompt is empty: give at least one token of text")
    if not chat:
        if system is not None:
            raise SettingsError("a system message needs the chat template: set chat=True, or leave system out")
        if not isinstance(prompt, str):
            raise PromptError("a list of messages needs the chat template: set chat=True, or give one text")
        ids = _encode_text(tokenizer, prompt, special=True)
    else:
        # The template writes the special tokens, bos included, so none are added; a template may still write one
        # bos before a message that brings its own.
        ids = _encode_text(tokenizer, write_chat(tokenizer, prompt, system), special=False)
        while len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos_token_id:
            ids = ids[1:]
    if not ids:
        raise PromptError("the prompt is empty: give at least one token of text")
    return ids


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], *, special: bool = False) -> str:
    """Turn token ids into text, with or without special tokens.

    No spaces are cleaned up afterwards: clean-up rewrites text that was already streamed. Ids that the
    tokenizer does not know (the padding of a model's vocabulary) stand for no text.
    """
    known = list(ids)
    if not tokenizer.is_fast:
        # Fast tokenizers pass over unknown ids themselves; slow ones fail on them or write "<unk>".
        size = len(tokenizer)
        known = [token for token in known if token < size]
    if not known:  # some decoders fail on nothing
        return ""
    return str(tokenizer.decode(known, skip_special_tokens=not special, clean_up_tokenization_spaces=False))


def encode_continuation(
    tokenizer: PreTrainedTokenizerBase, prompt: str, continuation: str
) -> tuple[list[int], list[int]]:
    """Tokenise a prompt and its continuation for scoring.

    Law: the two lists together are the tokens of `prompt + continuation`, the sequence that a model meets in
    its training data, and the split lies where the prompt's own tokens end. If a token straddles the border
    (the prompt "Hello wor" before "ld"), the prompt's tokens are no prefix of the whole. The prompt then
    keeps the tokens which both have in common, and the straddling ones are scored with the continuation:
    dropping them would score less than the continuation, and keeping the prompt's own tokens would score a
    spelling that no text has. Where nothing would be left to condition on, both parts are tokenised apart.

    This agrees with lm-evaluation-harness wherever the prompt's tokens are a prefix of the whole. The harness
    moves spaces at the prompt's end to the continuation beforehand; here the border stays where the caller
    put it.

    An empty prompt stands for the beginning-of-sequence token.

    Raises
    ------
    PromptError
        The continuation is empty, or the prompt is and the tokenizer has no beginning-of-sequence token.
    """
    head, whole = encode_open(tokenizer, prompt + continuation)
    ids = head + whole
    if prompt:
        prompt_ids = [*head, *encode_open(tokenizer, prompt)[1]]
        split = common_prefix(prompt_ids, ids)
        if split == 0:
            return _encode_apart(tokenizer, prompt, continuation)
        # Straddling tokens move over only if there are any: a prompt that is a prefix keeps all of its
        # tokens.
        prompt_ids, continuation_ids = ids[:split], ids[split:]
    else:
        prompt_ids, continuation_ids = head or _bos(tokenizer), whole
    if not continuation_ids:
        raise PromptError("the continuation is empty: give at least one token of text to score")
    return prompt_ids, continuation_ids


def _encode_text(tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool) -> list[int]:
    """Encode text, refusing what no tokenizer can encode; `verbose=False` silences the notice on length."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PromptError(f"the prompt is not valid Unicode ({error.reason}): pass it as UTF-8 text") from error
    return list(tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])


def encode_open(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[int]]:
    """Encode text that may go on: the special tokens put before it, and its own; none put after it."""
    plain = _encode_text(tokenizer, text, special=False)
    special = _encode_text(tokenizer, text, special=True)
    for start in range(len(special) - len(plain) + 1):
        if special[start : start + len(plain)] == plain:
            return special[:start], plain
    return [], special


def _encode_apart(tokenizer: PreTrainedTokenizerBase, prompt: str, continuation: str) -> tuple[list[int], list[int]]:
    """Tokenise prompt and continuation on their own, if their tokens still spell the text."""
    first = encode_open(tokenizer, prompt)[1]
    second = encode_open(tokenizer, continuation)[1]
    whole = encode_open(tokenizer, prompt + continuation)[1]
    if not first or not second or decode(tokenizer, first + second) != decode(tokenizer, whole):
        raise PromptError(
            "prompt and continuation cannot be told apart in tokens: let the prompt end at the end of a word"
        )
    return first, second


def common_prefix(first: Sequence[object], second: Sequence[object]) -> int:
    """Count the leading items that are equal."""
    if first == second[: len(first)]:  # the usual case of a text that goes on, without a loop
        return len(first)
    for count, (left, right) in enumerate(zip(first, second, strict=False)):
        if left != right:
            return count
    return min(len(first), len(second))


def _bos(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return what stands for an empty prompt."""
    if tokenizer.bos_token_id is None:
        raise PromptError(
            "the prompt is empty and this tokenizer has no beginning-of-sequence token to stand for it: "
            "give a prompt of at least one token"
        )
    return [int(tokenizer.bos_token_id)]
