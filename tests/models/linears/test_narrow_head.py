"""A narrow head gives the logits of the tokens that are asked for, and is used only where the rest cannot matter."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import NoRepeatNGramLogitsProcessor

import descant
import oracle
from architectures import FLOAT32_ONLY, RAGGED, VOCAB, build, make_prompts, near
from descant import (
    Beam,
    Contrastive,
    ContrastiveSearch,
    Decoder,
    EarlyExit,
    Guidance,
    NoRepeatNGram,
    OtherPrompt,
    PresencePenalty,
    PromptLookup,
    RepetitionPenalty,
    Sample,
    Speculative,
    Temperature,
    TopP,
    TransformersProcessor,
    Window,
)
from descant.models import RaggedModel, inspect_model
from descant.models.linears import narrow_head
from descant.models.linears.narrow_head import NarrowHead
from descant.models.linears.packing import PackedLinear, pack

TOKENS = torch.tensor([3, 4, 50, 96])
PROMPTS = make_prompts(5, 1, 9)
EXPERT = build("qwen2", seed=1)
AMATEUR = near(EXPERT, 0.05)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Heads of any size are narrowed, for any number of tokens; how many were multiplied for, pass by pass."""
    monkeypatch.setattr(narrow_head, "_LARGE", 0)
    monkeypatch.setattr(narrow_head, "_FEW", 1)
    counts: list[int] = []
    plain = NarrowHead.forward

    def forward(self: NarrowHead, states: torch.Tensor) -> torch.Tensor:
        logits = plain(self, states)
        counts.append(logits.shape[-1])
        return logits

    monkeypatch.setattr(NarrowHead, "forward", forward)
    return counts


def opened(model: Any) -> RaggedModel:
    ragged = RaggedModel(inspect_model(model))
    ragged.add_rows(len(PROMPTS))
    return ragged


def check_logits(model: Any, **tolerance: float) -> None:
    whole, narrow = opened(model), opened(model)
    for tokens, keep in ((PROMPTS, 1), ([[5, 6], [7, 8], [9, 10]], 2), ([[1], [2], [3]], 1)):
        with torch.inference_mode():
            expected = whole.forward(tokens, keep=keep)
            found = narrow.forward(tokens, keep=keep, among=lambda: TOKENS)
        torch.testing.assert_close(found[..., TOKENS], expected[..., TOKENS], **tolerance)
        others = torch.ones(VOCAB, dtype=torch.bool)
        others[TOKENS] = False
        assert found.shape == expected.shape
        assert (found[..., others] == -torch.inf).all()


@pytest.mark.parametrize("name", RAGGED)
def test_every_architecture_gives_the_logits_of_some_tokens(name: str, asked: list[int]) -> None:
    model = build(name)
    exact = 1e-4 if name in FLOAT32_ONLY else 1e-9
    check_logits(model, rtol=exact, atol=exact)
    assert asked == [len(TOKENS)] * 3


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", ["gemma2", "cohere", "granite"])
def test_what_a_model_does_after_its_head_is_done(name: str, tied: bool, asked: list[int]) -> None:
    changes = {"gemma2": {"final_logit_softcapping": 2.0}, "cohere": {"logit_scale": 0.3}, "granite": {}}[name]
    check_logits(build(name, tie_word_embeddings=tied, **changes), rtol=1e-9, atol=1e-9)
    assert asked


@pytest.mark.usefixtures("bfloat16_kernels")
def test_the_rows_of_a_packed_head_are_those_of_its_embeddings(asked: list[int]) -> None:
    model = build("llama", tie_word_embeddings=True).bfloat16()
    pack(model, smallest=0)
    assert isinstance(model.get_output_embeddings(), PackedLinear)
    check_logits(model, rtol=0.02, atol=0.05)
    assert asked


@pytest.mark.usefixtures("bfloat16_kernels")
def test_a_packed_head_of_its_own_has_no_rows(asked: list[int]) -> None:
    model = build("llama", tie_word_embeddings=False).bfloat16()
    pack(model, smallest=0)
    assert opened(model).narrowed is None


class Quantized(torch.Tensor):
    """Stands for other libraries' weights, which are multiplied and nothing else."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.__getitem__:
            raise NotImplementedError("no rows")
        return super().__torch_function__(func, types, args, kwargs or {})


def test_a_head_of_quantized_weights_stays_whole(asked: list[int]) -> None:
    model = build("llama", tie_word_embeddings=False)
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.data.as_subclass(Quantized), requires_grad=False)
    assert opened(model).narrowed is None


def test_small_heads_hooked_heads_and_heads_that_are_no_product_stay_whole(asked: list[int]) -> None:
    hooked, other = build("llama"), build("llama")
    hooked.lm_head.register_forward_hook(lambda module, args, output: output)
    other.lm_head = nn.Sequential(other.lm_head)
    other.lm_head.weight = other.lm_head[0].weight
    replaced = build("llama")
    object.__setattr__(replaced, "forward", replaced.forward)
    assert [opened(model).narrowed for model in (hooked, other, replaced)] == [None] * 3
    narrow_head._LARGE = VOCAB * 32 + 1  # the fixture restores it
    assert opened(build("llama")).narrowed is None


def test_many_tokens_take_the_whole_head(asked: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(narrow_head, "_FEW", 25)  # 97 // 25 = 3
    model = opened(build("llama"))
    assert model.forward(PROMPTS, among=lambda: TOKENS).isfinite().all()
    assert not asked
    assert not model.forward(PROMPTS, among=lambda: TOKENS[:3]).isfinite().all()
    assert asked == [3]


@pytest.mark.parametrize("rows", [1, 3, 6])
@pytest.mark.parametrize(
    "settings",
    [
        {"alpha": 0.1},
        {"alpha": 0.01, "amateur_temperature": 0.5},
        {"alpha": 0.02, "beta": 0.7},
        {"alpha": 0.001, "candidates": 4, "normalization": "released", "amateur_temperature": 2.0},
    ],
)
def test_the_text_is_the_oracles_and_few_columns_are_read(
    settings: dict[str, Any], rows: int, asked: list[int]
) -> None:
    prompts = make_prompts(*range(1, rows + 1), seed=rows)
    outs = Decoder(EXPERT, amateur=AMATEUR).generate(prompts, Contrastive(**settings), max_new_tokens=12)
    theirs = {"temperature": settings.get("amateur_temperature", 1.0), "released": "normalization" in settings}
    theirs |= {name: settings[name] for name in ("alpha", "beta", "candidates") if name in settings}
    for prompt, out in zip(prompts, outs, strict=True):
        text = list(prompt)
        for token, logprob in zip(out.token_ids, out.logprobs, strict=True):
            logits = [oracle.last_logits(model, text) for model in (EXPERT, AMATEUR)]
            scores = oracle.log_softmax(oracle.contrastive(*logits, **theirs))
            assert scores[token] == max(scores)
            assert logprob == pytest.approx(scores[token], abs=1e-9)
            text.append(token)
    assert asked
    assert min(asked) < VOCAB


SAME: dict[str, dict[str, Any]] = {
    "greedy": {},
    "drawn": {"processors": [PresencePenalty(0.5), Temperature(1.3), TopP(0.9)], "strategy": Sample(), "seed": 3},
    "bans": {"processors": [NoRepeatNGram(1)]},
    "more log-probabilities": {"top_logprobs": 2},
    "beams of logits": {"scoring": Contrastive(0.02, beta=0.5), "strategy": Beam(2)},
    "looked up drafts": {"strategy": Speculative(draft=PromptLookup(2), tokens=3)},
    "candidates are read ahead": {"strategy": ContrastiveSearch(3, 0.6)},
}
WHOLE: dict[str, dict[str, Any]] = {
    "another scoring": {"scoring": Guidance(1.5)},
    "scores are multiplied": {"processors": [RepetitionPenalty(1.3)]},
    "unknown processor": {"processors": [TransformersProcessor(NoRepeatNGramLogitsProcessor(2))]},
    "scores are added up": {"strategy": Beam(2)},
    "scores are shown": {"trace": True},
    "the amateur drafts": {"strategy": Speculative(tokens=2, confidence=0.0)},
}
DECODERS = {
    "window": lambda: Decoder(EXPERT, amateur=Window(AMATEUR, 3)),
    "other prompt": lambda: Decoder(EXPERT, amateur=OtherPrompt(lambda ids: [7, *ids[-1:]], AMATEUR)),
    "early exit": lambda: Decoder(EXPERT, amateur=EarlyExit(2)),
}
ALWAYS = Contrastive(0.01, selective=False)


@pytest.mark.parametrize("case", SAME)
def test_narrowed_decoding_gives_the_whole_heads_results(case: str, asked: list[int]) -> None:
    settings = {"scoring": ALWAYS, "max_new_tokens": 10, **SAME[case]}
    narrowed = Decoder(EXPERT, amateur=AMATEUR).generate(PROMPTS, **settings)
    assert len(asked) > 1
    narrow_head._LARGE = 2**24  # the fixture restores it
    asked.clear()
    whole = Decoder(EXPERT, amateur=AMATEUR).generate(PROMPTS, **settings)
    assert not asked
    assert [out.token_ids for out in narrowed] == [out.token_ids for out in whole]
    for one, other in zip(narrowed, whole, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-9)


@pytest.mark.parametrize("case", WHOLE)
def test_the_whole_head_is_read_where_more_than_the_choice_depends_on_it(case: str, asked: list[int]) -> None:
    settings = {"scoring": ALWAYS, "max_new_tokens": 6, **WHOLE[case]}
    Decoder(EXPERT, amateur=AMATEUR).generate(PROMPTS, **settings)
    assert len(asked) <= (case == "the amateur drafts")  # its first token is decoded plainly


@pytest.mark.parametrize("case", DECODERS)
def test_other_amateurs_read_the_whole_head(case: str, asked: list[int]) -> None:
    DECODERS[case]().generate(PROMPTS, ALWAYS, max_new_tokens=6)
    assert not asked


def test_shown_scores_are_those_of_the_whole_head(asked: list[int]) -> None:
    settings = {"max_new_tokens": 5, "do_sample": False, "return_dict_in_generate": True, "output_scores": True}
    ids = torch.tensor(PROMPTS[:1])
    EXPERT.generate(ids, custom_generate=descant.contrastive, amateur=AMATEUR, **settings)
    assert not asked


def test_given_text_weighs_what_it_weighs_by_the_whole_head(asked: list[int]) -> None:
    decoder, ends = Decoder(EXPERT, amateur=AMATEUR), [[5, 6, 7], [8], [9, 3]]
    narrowed = decoder.score(PROMPTS, ends, scoring=ALWAYS)
    assert asked
    narrow_head._LARGE = 2**24  # the fixture restores it
    asked.clear()
    whole = decoder.score(PROMPTS, ends, scoring=ALWAYS)
    assert not asked
    assert narrowed == pytest.approx(whole, abs=1e-9)


def test_a_broken_expert_is_named_alone(asked: list[int]) -> None:
    broken = near(EXPERT, 0.0)
    broken.lm_head.weight.data[5] = torch.nan
    with pytest.raises(descant.DecodingError, match="logits of the expert are not finite"):
        Decoder(broken, amateur=AMATEUR).generate(PROMPTS, ALWAYS, max_new_tokens=3)
    with pytest.raises(descant.DecodingError, match="logits of the amateur are not finite"):
        Decoder(EXPERT, amateur=broken).generate(PROMPTS, Contrastive(1e-9, selective=False), max_new_tokens=3)
