import itertools
import random

import torch
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

from descant.processors import (
    BadWords,
    Epsilon,
    Eta,
    FrequencyPenalty,
    LogitBias,
    MinNewTokens,
    MinP,
    NoRepeatNGram,
    PresencePenalty,
    Processor,
    RepetitionPenalty,
    Temperature,
    TopK,
    TopNSigma,
    TopP,
    TransformersProcessor,
    Typical,
)
from descant.processors.order import canonical_order

OURS: dict[str, Processor] = {
    "SequenceBiasLogitsProcessor": LogitBias({1: 1.0}),
    "RepetitionPenaltyLogitsProcessor": RepetitionPenalty(1.1),
    "NoRepeatNGramLogitsProcessor": NoRepeatNGram(2),
    "NoBadWordsLogitsProcessor": BadWords([[3]]),
    "MinNewTokensLengthLogitsProcessor": MinNewTokens(3),
    "function": TransformersProcessor(lambda ids, scores: scores),
    "TemperatureLogitsWarper": Temperature(0.7),
    "TopKLogitsWarper": TopK(7),
    "TopPLogitsWarper": TopP(0.9),
    "MinPLogitsWarper": MinP(0.1),
    "TypicalLogitsWarper": Typical(0.9),
    "EpsilonLogitsWarper": Epsilon(0.01),
    "EtaLogitsWarper": Eta(0.01),
}


def test_the_order_is_that_of_transformers() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=9, n_layer=1, n_embd=4, n_head=1, n_positions=8))
    config = GenerationConfig(
        do_sample=True,
        sequence_bias=[[[1], 1.0]],
        repetition_penalty=1.1,
        no_repeat_ngram_size=2,
        bad_words_ids=[[3]],
        min_new_tokens=3,
        eos_token_id=0,
        temperature=0.7,
        top_k=7,
        top_p=0.9,
        min_p=0.1,
        typical_p=0.9,
        epsilon_cutoff=0.01,
        eta_cutoff=0.01,
    )
    config._eos_token_tensor = torch.tensor([0])
    theirs = model._get_logits_processor(
        config, input_ids_seq_length=2, logits_processor=[lambda ids, scores: scores], device="cpu"
    )
    names = [type(processor).__name__ for processor in theirs]
    expected = tuple(OURS[name] for name in names if name in OURS)
    assert len(expected) == len(OURS)
    shuffled = list(OURS.values())
    random.Random(0).shuffle(shuffled)
    assert canonical_order(shuffled) == expected


def test_what_transformers_lacks_has_its_place() -> None:
    ours = (
        FrequencyPenalty(0.1),
        PresencePenalty(0.1),
        NoRepeatNGram(2),
        Temperature(0.5),
        Eta(0.1),
        TopNSigma(1.0),
    )
    for order in itertools.permutations(ours):
        assert canonical_order(order) == ours


def test_equals_keep_their_order() -> None:
    assert canonical_order([TopK(9), Temperature(2.0), TopK(3)]) == (Temperature(2.0), TopK(9), TopK(3))
