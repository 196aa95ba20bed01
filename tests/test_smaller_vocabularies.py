"""Draft models and amateurs that lack tokens of the expert's: what they cannot read, they are not given."""

from typing import Any

import pytest

import architectures
import tiny_tokenizers
from descant import Decoder, DecodingError, Greedy, OtherTokenizer, Sample, Speculative, Window
from descant.strategies.draft_length import AdaptiveLength, Round

KNOWN = 40
EXPERT = architectures.build("qwen2", seed=1)
NARROW = architectures.build("qwen2", seed=3, vocab_size=KNOWN)
DRAFTS: dict[str, Any] = {
    "model": NARROW,
    "window": Window(NARROW, 3),
}
PROMPTS = {
    "first": [[90, 3, 4], [5, 6, 7]],
    "middle": [[5, 6, 7], [3, 90, 4]],
    "last": [[3, 4, 90], [5, 6]],
    "several": [[90], [5, 6, 7], [91, 92, 3], [4]],
    "all": [[90], [3, 96, 4]],
}


@pytest.mark.parametrize("tokens", [4, "auto"])
@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize("place", PROMPTS)
def test_rows_of_tokens_that_a_draft_model_lacks_are_decoded_as_without_it(place: str, draft: str, tokens: Any) -> None:
    prompts = PROMPTS[place]
    plain = Decoder(EXPERT).generate(prompts, max_new_tokens=8)
    strategy = Speculative(draft=DRAFTS[draft], tokens=tokens, confidence=0.0)
    outs = Decoder(EXPERT).generate(prompts, strategy=strategy, max_new_tokens=8)
    assert [out.token_ids for out in outs] == [out.token_ids for out in plain]
    for prompt, out in zip(prompts, outs, strict=True):
        assert out.speculation is not None
        if max(prompt) >= KNOWN:
            assert out.speculation.drafted == 0
        elif tokens != "auto" and out.token_ids[0] < KNOWN:
            assert out.speculation.drafted > 0


def test_sampled_rows_without_drafts_are_those_of_plain_sampling() -> None:
    """A row that never drafts draws once a token."""
    prompts = PROMPTS["several"]
    plain = Decoder(EXPERT).generate(prompts, strategy=Sample(), max_new_tokens=12, seed=7)
    strategy = Speculative(Sample(), draft=NARROW, confidence=0.0)
    outs = Decoder(EXPERT).generate(prompts, strategy=strategy, max_new_tokens=12, seed=7)
    assert [outs[row].token_ids for row in (0, 2)] == [plain[row].token_ids for row in (0, 2)]


def test_a_row_that_never_drafts_does_not_keep_the_length_from_adapting(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[Round] = []
    monkeypatch.setattr(AdaptiveLength, "end_round", lambda _self, outcome: rounds.append(outcome))
    monkeypatch.setattr(AdaptiveLength, "start_round", lambda _self: 2)
    strategy = Speculative(Greedy(), draft=NARROW, tokens="auto", confidence=0.0)
    Decoder(EXPERT).generate([[90, *range(2, 30)], [5, 6, 7]], strategy=strategy, max_new_tokens=8)
    drafted = [outcome for outcome in rounds if any(outcome.drafted)]
    assert len(drafted) > 1
    assert all(outcome.steady for outcome in drafted[1:])  # in the first the draft model reads the prompt


def test_tokens_that_only_the_other_tokenizer_has_are_refused_or_not_drafted_from() -> None:
    """Its model was not resized when a token was added."""
    tokenizer = tiny_tokenizers.byte_level(["a b", "Ġ ab", "b c"])
    expert = architectures.build("qwen2", seed=1, vocab_size=len(tokenizer))
    longer = tiny_tokenizers.byte_level(["b a", "c a"])
    model = architectures.build("llama", seed=2, vocab_size=len(longer))
    longer.add_tokens(["abc"])
    other = OtherTokenizer(model, longer)
    with pytest.raises(DecodingError, match=r"token 7 .* which knows 7; call model\.resize_token_embeddings"):
        Decoder(expert, tokenizer, other).generate(["abc a", "a"], max_new_tokens=4)
    prompts = ["abc a", "a"]
    plain = Decoder(expert, tokenizer).generate(prompts, max_new_tokens=8)
    strategy = Speculative(draft=other, confidence=0.0)
    outs = Decoder(expert, tokenizer).generate(prompts, strategy=strategy, max_new_tokens=8)
    assert [out.token_ids for out in outs] == [out.token_ids for out in plain]
