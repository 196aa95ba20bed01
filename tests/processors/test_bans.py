import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from processor_cases import Case, cases, make_case
from transformers import (
    MinNewTokensLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    SequenceBiasLogitsProcessor,
)

import oracle
from descant import SettingsError
from descant.processors import BadWords, History, LogitBias, MinNewTokens, NoRepeatNGram


@given(case=cases(vocab=4, width=20), n=st.integers(1, 5))
def test_no_repeat_ngram_is_that_of_transformers(case: Case, n: int) -> None:
    expected = case.expected(lambda _: NoRepeatNGramLogitsProcessor(n))
    assert torch.equal(NoRepeatNGram(n)(case.history, case.scores), expected)


def test_no_repeat_ngram_by_hand() -> None:
    #                                     1 2 was followed by 3 and by 0; the padding 1 2 1 is no text
    history = History(torch.tensor([[1, 2, 3, 1, 2, 0, 1, 2, 1]]), torch.tensor([8]), torch.tensor([0]))
    assert NoRepeatNGram(3)(history, torch.zeros(1, 4)).tolist() == [[-math.inf, 0.0, 0.0, -math.inf]]


words = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=3), min_size=1, max_size=6, unique_by=tuple)


@given(case=cases(vocab=9), sequences=words)
def test_bad_words_are_those_of_transformers(case: Case, sequences: list[list[int]]) -> None:
    if case.vocab < 4:
        case = make_case(0, vocab=4)
    case.history.tokens.remainder_(4)  # so that prefixes do occur (and the padding holds text that is none)
    expected = case.expected(lambda _: oracle.bad_words(sequences))
    assert torch.equal(BadWords(sequences)(case.history, case.scores), expected)


def test_bad_words_by_hand() -> None:
    history = History(torch.tensor([[1, 2], [2, 1], [2, 0]]), torch.tensor([2, 2, 1]), torch.tensor([1, 1, 1]))
    scores = torch.zeros(3, 5)
    banned = BadWords([[4], [2, 3], [1, 2, 0]])(history, scores) == -math.inf
    assert [row.nonzero()[:, 0].tolist() for row in banned] == [[0, 3, 4], [4], [3, 4]]


@given(
    case=cases(vocab=9),
    biases=st.dictionaries(st.integers(0, 8), st.sampled_from([-math.inf, -1.5, 0.0, 7.25])),
)
def test_logit_bias_is_that_of_transformers(case: Case, biases: dict[int, float]) -> None:
    biases = {token: bias for token, bias in biases.items() if token < case.vocab} or {0: 0.5}
    oracle = SequenceBiasLogitsProcessor({(token,): bias for token, bias in biases.items()})
    assert torch.equal(LogitBias(biases)(case.history, case.scores), case.expected(lambda _: oracle))


def test_logit_bias_takes_a_mapping_or_pairs_and_is_hashable() -> None:
    assert LogitBias({7: -1.0, 2: 3.0}) == LogitBias([(2, 3.0), (7, -1.0)])
    assert hash(LogitBias({7: -1.0, 2: 3.0})) == hash(LogitBias(((7, -1.0), (2, 3.0))))
    assert LogitBias({7: -1.0}) != LogitBias({7: -2.0})
    assert LogitBias({})(make_case(0).history, torch.ones(3, 20)).sum() == 60


@given(case=cases(), n=st.integers(0, 12), eos=st.lists(st.integers(0, 1), max_size=2))
def test_min_new_tokens_is_that_of_transformers(case: Case, n: int, eos: list[int]) -> None:
    expected = case.expected(lambda prompt: MinNewTokensLengthLogitsProcessor(prompt, n, torch.tensor(eos).long()))
    assert torch.equal(MinNewTokens(n, eos)(case.history, case.scores), expected)


def test_min_new_tokens_asks_for_the_models_end_of_sequence() -> None:
    case = make_case(3)
    asking = MinNewTokens(5)
    with pytest.raises(SettingsError, match="knows no end-of-sequence ids"):
        asking(case.history, case.scores)
    assert asking.with_eos((4, 2)) == MinNewTokens(5, (4, 2))
    assert MinNewTokens(5, (9,)).with_eos((4, 2)) == MinNewTokens(5, (9,))
    assert NoRepeatNGram(2).with_eos((4, 2)) == NoRepeatNGram(2)


def test_ids_beyond_the_vocabulary_are_refused() -> None:
    case = make_case(0, vocab=6)
    for processor in (BadWords([[1], [2, 6]]), LogitBias({1: 1.0, 6: 1.0})):
        with pytest.raises(SettingsError, match="names token 6, but the vocabulary ends at 5"):
            processor(case.history, case.scores)


def test_settings_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"NoRepeatNGram\.n is 0; use a whole number from 1"):
        NoRepeatNGram(0)
    with pytest.raises(SettingsError, match="give at least one sequence, and no empty one"):
        BadWords([])
    with pytest.raises(SettingsError, match="give at least one sequence, and no empty one"):
        BadWords([[1], []])
    with pytest.raises(SettingsError, match="BadWords is -1; give token ids"):
        BadWords([[-1]])
    with pytest.raises(SettingsError, match="LogitBias is -1; give token ids"):
        LogitBias({-1: 0.5})
    with pytest.raises(SettingsError, match="LogitBias of token 3 is inf; use a finite number"):
        LogitBias({3: math.inf})
    with pytest.raises(SettingsError, match="LogitBias of token 3 is nan"):
        LogitBias({3: math.nan})
    with pytest.raises(SettingsError, match="give each token id once"):
        LogitBias([(3, 1.0), (3, 2.0)])
    with pytest.raises(SettingsError, match=r"MinNewTokens\.n is -1"):
        MinNewTokens(-1)
    with pytest.raises(SettingsError, match=r"MinNewTokens\.eos_token_ids is -2"):
        MinNewTokens(1, (-2,))
