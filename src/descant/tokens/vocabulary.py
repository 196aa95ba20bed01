"""Whether two models mean the same tokens by the same ids."""

from collections.abc import Mapping

from transformers import PreTrainedTokenizerBase

from descant.errors import VocabularyError

_MOST_EXTRA_TOKENS = 256
"""Bound on the added tokens that only one of two tokenizers may have."""

_REMEDY = (
    "use an amateur of the same model family, or bridge the tokenizers at a cost: amateur=OtherTokenizer(…), "
    "--bridge-tokenizers"
)


def check_same_vocabulary(
    expert: PreTrainedTokenizerBase | None,
    amateur: PreTrainedTokenizerBase | None,
    expert_width: int,
    amateur_width: int,
) -> int:
    """Check that the logits of two models can be compared id by id.

    The token-to-id maps are compared, added tokens included; sizes say nothing, because models pad their
    logits (Qwen2.5 is 151,936 wide up to 3B and 152,064 from 7B, with one and the same map of 151,665
    tokens). Two maps fit if no token has two ids and no id two tokens. What only one of them has must be
    added tokens (chat markers, tool tags), few, and among the ids both models have logits for; a padding
    token may lie beyond, since no model writes it.

    Parameters
    ----------
    expert, amateur
        The tokenizers; where one is not known, the maps are taken to fit.
    expert_width, amateur_width
        The widths of the models' logits.

    Returns
    -------
    int
        The number of ids that both models have logits for.

    Raises
    ------
    VocabularyError
        The tokenizers differ; the message counts the ids and shows one.
    """
    width = min(expert_width, amateur_width)
    if expert is None or amateur is None or expert is amateur:
        return width
    expert_map, amateur_map = expert.get_vocab(), amateur.get_vocab()
    if expert_map == amateur_map:
        return width
    conflicts = _conflicts(expert_map, amateur_map)
    extra = _extra(expert, expert_map, amateur_map, width) | _extra(amateur, amateur_map, expert_map, width)
    unfit = sorted(conflicts | {token_id for token_id, allowed in extra.items() if not allowed})
    if not unfit and len(extra) > _MOST_EXTRA_TOKENS:
        unfit = sorted(extra)
    if unfit:
        raise VocabularyError(
            f"the expert's and the amateur's tokenizers differ in {len(unfit)} ids "
            f"({_example(unfit[0], expert_map, amateur_map)}): {_REMEDY}"
        )
    return width


def same_vocabulary(
    expert: PreTrainedTokenizerBase | None,
    amateur: PreTrainedTokenizerBase | None,
    expert_width: int,
    amateur_width: int,
) -> bool:
    """Tell whether `check_same_vocabulary` holds."""
    try:
        check_same_vocabulary(expert, amateur, expert_width, amateur_width)
    except VocabularyError:
        return False
    return True


def _conflicts(expert: Mapping[str, int], amateur: Mapping[str, int]) -> set[int]:
    """Return the ids that name another token in the other map, or whose token has another id there."""
    differing = expert.items() ^ amateur.items()
    tokens: dict[str, int] = {}
    names: dict[int, str] = {}
    conflicts: set[int] = set()
    for token, token_id in differing:
        # Each pair occurs in one map only: meeting its token or its id again means that the maps disagree on
        # it.
        if token in tokens:
            conflicts |= {token_id, tokens[token]}
        if token_id in names:
            conflicts.add(token_id)
        tokens[token], names[token_id] = token_id, token
    return conflicts


def _extra(
    tokenizer: PreTrainedTokenizerBase, own: Mapping[str, int], other: Mapping[str, int], width: int
) -> dict[int, bool]:
    """Return the ids whose tokens the other map lacks, and whether that is allowed."""
    added = tokenizer.added_tokens_decoder
    lacking = (token_id for token, token_id in own.items() if token not in other)
    return {
        token_id: token_id in added and (token_id < width or token_id == tokenizer.pad_token_id) for token_id in lacking
    }


def _example(token_id: int, expert: Mapping[str, int], amateur: Mapping[str, int]) -> str:
    """Show what an id means to each tokenizer."""

    def meaning(vocabulary: Mapping[str, int]) -> str:
        token = next((token for token, other in vocabulary.items() if other == token_id), None)
        return "nothing" if token is None else repr(token)

    return f"for example, id {token_id} is {meaning(expert)} to the expert and {meaning(amateur)} to the amateur"
