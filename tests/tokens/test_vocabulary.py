"""Which pairs of tokenizers share their vocabulary."""

from contextlib import suppress
from functools import partial

import pytest
from tokenizers import AddedToken, Tokenizer, models
from transformers import PreTrainedTokenizerFast

from checkpoints import AMATEUR_WIDTH, EXPERT_WIDTH, qwen_tokenizer, sentencepiece_tokenizer
from counting import calls_of
from descant.errors import VocabularyError
from descant.tokens import check_same_vocabulary


def with_added(*tokens: str, special: bool = True) -> PreTrainedTokenizerFast:
    tokenizer = qwen_tokenizer()
    tokenizer.add_tokens([AddedToken(token, special=special) for token in tokens])
    return tokenizer


def words(*names: str) -> PreTrainedTokenizerFast:
    vocabulary = {name: index for index, name in enumerate(names)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token=names[0])))


def test_same_map_with_other_padding_is_accepted() -> None:
    pair = qwen_tokenizer(), qwen_tokenizer()
    assert check_same_vocabulary(*pair, EXPERT_WIDTH, AMATEUR_WIDTH) == EXPERT_WIDTH
    assert check_same_vocabulary(*pair, 152_064, 151_936) == 151_936
    assert check_same_vocabulary(pair[0], pair[0], 416, 416) == 416


def test_unknown_tokenizers_are_taken_at_their_word() -> None:
    assert check_same_vocabulary(None, None, 100, 90) == 90
    assert check_same_vocabulary(qwen_tokenizer(), None, 100, 110) == 100


@pytest.mark.parametrize("special", [True, False])
def test_extra_added_tokens_are_accepted_on_either_side(special: bool) -> None:
    more = with_added("<think>", "</think>", special=special)
    assert check_same_vocabulary(more, qwen_tokenizer(), EXPERT_WIDTH, AMATEUR_WIDTH) == EXPERT_WIDTH
    assert check_same_vocabulary(qwen_tokenizer(), more, EXPERT_WIDTH, AMATEUR_WIDTH) == EXPERT_WIDTH


def test_extra_token_beyond_the_other_models_logits_is_refused_unless_it_is_padding() -> None:
    more = with_added("<think>")
    size = len(more)
    with pytest.raises(
        VocabularyError, match=rf"differ in 1 ids .*id {size - 1} is '<think>' to the expert and nothing"
    ):
        check_same_vocabulary(more, qwen_tokenizer(), size, size - 1)
    more.pad_token = "<think>"
    assert check_same_vocabulary(more, qwen_tokenizer(), size, size - 1) == size - 1


def test_many_extra_tokens_are_refused() -> None:
    many = with_added(*(f"<extra_{index}>" for index in range(300)))
    with pytest.raises(VocabularyError, match="differ in 300 ids"):
        check_same_vocabulary(many, qwen_tokenizer(), 1000, 1000)


def test_different_tokenizers_are_refused_with_count_example_and_remedy() -> None:
    expected = r"differ in 2 ids \(for example, id 1 is 'b' to the expert and 'c' to the amateur\): use an amateur"
    with pytest.raises(VocabularyError, match=expected):
        check_same_vocabulary(words("a", "b", "c"), words("a", "c", "b"), 3, 3)
    with pytest.raises(VocabularyError, match="bridge"):
        check_same_vocabulary(qwen_tokenizer(), sentencepiece_tokenizer(), 416, 416)


def test_a_plain_word_only_one_knows_is_refused() -> None:
    with pytest.raises(VocabularyError, match="differ in 1 ids"):
        check_same_vocabulary(words("a", "b"), words("a", "b", "c"), 3, 3)


def test_a_token_with_two_ids_is_refused_even_if_both_ids_are_free() -> None:
    expert, amateur = with_added("<a>"), with_added("<b>", "<a>")
    amateur_only = {"<b>"}
    assert amateur_only <= set(amateur.get_vocab())
    with pytest.raises(VocabularyError, match="differ in 2 ids"):
        check_same_vocabulary(expert, amateur, 1000, 1000)


def test_comparing_takes_no_more_calls_for_more_tokens() -> None:
    def compare(expert: PreTrainedTokenizerFast, amateur: PreTrainedTokenizerFast) -> None:
        with suppress(VocabularyError):
            check_same_vocabulary(expert, amateur, len(expert), len(expert))

    counts = []
    for size in (10, 1_000, 20_000):  # the first makes what is made once
        names = [f"token{index}" for index in range(size)]
        others = words(*names), words(*names[:-2], names[-1], names[-2])
        counts.append([calls_of(partial(compare, words(*names), other)) for other in others])
    assert counts[2] == pytest.approx(counts[1], abs=100)
