"""What ends a text is what the model says when it is decoded, as for `model.generate`, and not what it said before."""

from typing import Any

import pytest
import torch

import architectures
import tiny_tokenizers
from architectures import make_prompts
from descant import Beam, Contrastive, Decoder, MinNewTokens, OtherTokenizer, Output

PROMPTS = make_prompts(5, 1, 9)


def generated(model: Any, prompt: list[int], **settings: Any) -> list[int]:
    ids = torch.tensor([prompt])
    found = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, **settings)
    tokens: list[int] = found[0, len(prompt) :].tolist()
    return tokens


def texts(outs: list[Output]) -> list[list[int]]:
    return [out.token_ids for out in outs]


def test_ids_that_are_set_later_end_the_next_call() -> None:
    model = architectures.build("llama", seed=1)
    decoder = Decoder(model)
    open_ended = texts(decoder.generate(PROMPTS, max_new_tokens=12))
    for eos in (open_ended[0][3], [open_ended[1][5], open_ended[2][2]]):
        model.generation_config.eos_token_id = eos
        expected = [generated(model, prompt) for prompt in PROMPTS]
        outs = decoder.generate(PROMPTS, max_new_tokens=12)
        assert texts(outs) == expected != open_ended
        ids = [eos] if isinstance(eos, int) else eos
        assert outs[0].method["eos_token_ids"] == ids == list(decoder.eos_token_ids)
        last = [piece for piece in decoder.stream(PROMPTS, max_new_tokens=12) if piece.output is not None]
        assert {piece.index: piece.output.token_ids for piece in last if piece.output} == dict(enumerate(expected))
        longer = decoder.generate(PROMPTS, processors=[MinNewTokens(9)], max_new_tokens=12)
        assert texts(longer) == [generated(model, prompt, min_new_tokens=9) for prompt in PROMPTS]
        beams = decoder.generate(PROMPTS, strategy=Beam(2), max_new_tokens=12)
        assert texts(beams) == [generated(model, prompt, num_beams=2) for prompt in PROMPTS]


@pytest.mark.parametrize("whose", ["expert", "amateur"])
def test_a_model_with_another_tokenizer_judges_the_ends_of_today(whose: str) -> None:
    """As a decoder does that is made now."""
    own, others = tiny_tokenizers.byte_level(["a b", "Ġ ab", "b c"]), tiny_tokenizers.byte_level(["b a", "c a"])
    expert = architectures.build("qwen2", seed=1, vocab_size=len(own))
    amateur = architectures.build("llama", seed=2, vocab_size=len(others))
    expert.generation_config.eos_token_id = amateur.generation_config.eos_token_id = 0
    other = OtherTokenizer(amateur, others)
    earlier = Decoder(expert, own, other)
    before = head_of(earlier)
    changed: Any = expert if whose == "expert" else amateur
    changed.generation_config.eos_token_id = [0, 3]
    assert head_of(earlier) == head_of(Decoder(expert, own, other)) != before


def head_of(decoder: Decoder) -> dict[int, float]:
    """The scores of the first step, of every token."""
    [out] = decoder.generate("ab c", Contrastive(alpha=1e-6), max_new_tokens=1, trace=True)
    assert out.trace is not None
    return {candidate.token_id: candidate.score for candidate in out.trace[0].head}
