"""The contrastive family through the public face: against naive oracles without cache or batch, and transformers.

Every case is decoded plainly, speculatively in three ways, and scored.
"""

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, UnbatchedClassifierFreeGuidanceLogitsProcessor

import architectures
import oracle
from architectures import make_prompts, near
from checkpoints import sentencepiece_tokenizer
from descant import (
    AutoContrastive,
    ContextAware,
    Contrastive,
    Decoder,
    DExperts,
    DoLa,
    EarlyExit,
    Guidance,
    Likelihood,
    NGram,
    OtherPrompt,
    PromptError,
    PromptLookup,
    ProxyTuning,
    RepetitionPenalty,
    SettingsError,
    Speculative,
    Temperature,
    UnsupportedModelError,
    VocabularyError,
    WhenUncertain,
    Window,
)
from golden import make_dola

EXPERT = architectures.build("qwen2", seed=1, num_hidden_layers=6)
WIDTH = architectures.VOCAB


EARLIER = near(EXPERT, 0.05, 0)
DRAFT = near(EXPERT, 0.02, 1)
PLUS, MINUS = near(EXPERT, 0.1, 2), near(EXPERT, 0.1, 3)
SMALL = architectures.build("llama", seed=2, num_hidden_layers=1)


PROMPTS = make_prompts(5, 1, 9, 3)
OTHERS = make_prompts(2, 4, 3, 14, seed=1)
BAD = [7, 8, 9, 10, 11, 12]


@functools.cache
def remembered(source: oracle.Sourcing, text: tuple[int, ...]) -> list[float]:
    return source(list(text)).tolist()


@functools.cache
def whole(model: PreTrainedModel) -> oracle.Sourcing:
    return oracle.full(model)


@functools.cache
def exit_after(layer: int, norm: bool) -> oracle.Sourcing:
    return oracle.early_exit(EXPERT, layer, norm=norm)


def logits(model: PreTrainedModel, text: list[int]) -> list[float]:
    return remembered(whole(model), tuple(text))


def early(text: list[int], *layers: int, norm: bool = True) -> list[list[float]]:
    return [remembered(exit_after(layer, norm), tuple(text)) for layer in layers]


def after(model: PreTrainedModel, other: list[int], prompt: list[int], text: list[int]) -> list[float]:
    """Logits of a model that reads another prompt."""
    return logits(model, other + text[len(prompt) :])


def case(scoring: Any, score: Callable[[list[int], list[int], list[int]], list[float]], **models: Any) -> Any:
    """A method, and its oracle as a function of text, prompt and other prompt."""
    return scoring, score, models


PAIR = {"tuned": PLUS, "untuned": MINUS, "positive": PLUS, "negative": MINUS}
CASES: dict[str, Any] = {
    "dola high": case(DoLa(), lambda t, p, o: oracle.dola(logits(EXPERT, t), early(t, 3, 5))),
    "dola low, released": case(
        DoLa("low", norm=False, divergence="released"),
        lambda t, p, o: oracle.dola(logits(EXPERT, t), early(t, 0, 2, norm=False), released=True),
    ),
    "dola beside an early exit": case(
        DoLa((0, 4), alpha=0.01), lambda t, p, o: oracle.dola(logits(EXPERT, t), early(t, 0, 4), alpha=0.01),
        amateur=EarlyExit(2),
    ),
    "autocontrastive": case(
        AutoContrastive(), lambda t, p, o: oracle.auto_contrastive(logits(EXPERT, t), early(t, 3)[0])
    ),
    "context-aware": case(
        ContextAware(), lambda t, p, o: oracle.context_aware(logits(EXPERT, t), after(EXPERT, o, p, t), 0.5),
        amateur=OtherPrompt(),
    ),
    "context-aware of a small model": case(
        ContextAware("entropy"),
        lambda t, p, o: oracle.context_aware(logits(EXPERT, t), after(SMALL, o, p, t), "entropy"),
        amateur=OtherPrompt(model=SMALL),
    ),
    "context-aware, divergence": case(
        ContextAware("divergence"),
        lambda t, p, o: oracle.context_aware(logits(EXPERT, t), after(EXPERT, o, p, t), "divergence"),
        amateur=OtherPrompt(),
    ),
    "guidance from the last token": case(
        Guidance(), lambda t, p, o: oracle.guidance(logits(EXPERT, t), after(EXPERT, p[-1:], p, t), 1.5),
        amateur=OtherPrompt(lambda ids: ids[-1:]),
    ),
    "contrastive with a bad prompt": case(
        Contrastive(0.02),
        lambda t, p, o: oracle.contrastive(logits(EXPERT, t), after(EXPERT, BAD, p, t), alpha=0.02),
        amateur=OtherPrompt(BAD),
    ),
    "contrastive with n-grams": case(
        Contrastive(0.02),
        lambda t, p, o: oracle.contrastive(logits(EXPERT, t), oracle.ngram(t, [t], 3, WIDTH), alpha=0.02),
        amateur=NGram(3),
    ),
    "contrastive with fitted n-grams": case(
        Contrastive(0.02),
        lambda t, p, o: oracle.contrastive(logits(EXPERT, t), oracle.ngram(t, OTHERS, 2, WIDTH), alpha=0.02),
        amateur=NGram(2, OTHERS),
    ),
    "contrastive with an earlier checkpoint": case(
        Contrastive(0.02),
        lambda t, p, o: oracle.contrastive(logits(EXPERT, t), logits(EARLIER, t), alpha=0.02),
        amateur=EARLIER,
    ),
    "proxy tuning": case(
        ProxyTuning(), lambda t, p, o: oracle.steered(logits(EXPERT, t), logits(PLUS, t), logits(MINUS, t), 1.0),
        sources=PAIR, amateur=DRAFT,
    ),
    "dexperts": case(
        DExperts(top_p=0.8),
        lambda t, p, o: oracle.steered(logits(EXPERT, t), logits(PLUS, t), logits(MINUS, t), 2.0, 0.8),
        sources=PAIR,
    ),
    "dexperts by prompts": case(
        DExperts(0.5),
        lambda t, p, o: oracle.steered(
            logits(EXPERT, t), after(EXPERT, BAD, p, t), logits(SMALL, t[-3:]), 0.5, 0.9
        ),
        sources={"positive": OtherPrompt(BAD), "negative": Window(SMALL, 3)},
    ),
    "guidance when uncertain": case(
        WhenUncertain(Guidance(2.0), 3.3),
        lambda t, p, o: oracle.guidance(logits(EXPERT, t), after(EXPERT, o, p, t), 2.0)
        if oracle.entropy(logits(EXPERT, t)) > 3.3
        else logits(EXPERT, t),
        amateur=OtherPrompt(),
    ),
}  # fmt: skip


def decoder_of(models: dict[str, Any]) -> tuple[Decoder, dict[str, Any]]:
    decoder = Decoder(EXPERT, **models)
    asks = isinstance(decoder.amateur, OtherPrompt) and decoder.amateur.prompt is None
    return decoder, {"amateur_prompts": OTHERS} if asks else {}


@pytest.mark.parametrize("name", CASES)
def test_greedy_tokens_and_log_probabilities_equal_the_oracle(name: str) -> None:
    scoring, score, models = CASES[name]
    decoder, given = decoder_of(models)
    expected = [
        oracle.greedy(prompt, lambda text, p=prompt, o=other: score(text, p, o))
        for prompt, other in zip(PROMPTS, OTHERS, strict=True)
    ]
    plain = [out.token_ids for out in Decoder(EXPERT).generate(PROMPTS, max_new_tokens=12)]
    assert expected != plain, "the method changes nothing: nothing is tested"
    outs = decoder.generate(PROMPTS, scoring, max_new_tokens=12, **given)
    assert [out.token_ids for out in outs] == expected
    few = decoder.generate(PROMPTS, scoring, max_new_tokens=12, batch_size=2, **given)
    assert [out.token_ids for out in few] == expected
    drafts = [PromptLookup(2), DRAFT, *([EarlyExit(4)] if name.startswith("dola") else [])]
    for strategy in (Speculative(draft=draft, tokens=3, confidence=0.0) for draft in drafts):
        drafted = decoder.generate(PROMPTS, scoring, strategy=strategy, max_new_tokens=12, **given)
        assert [out.token_ids for out in drafted] == expected
        for one, other in zip(drafted, outs, strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-8)
    processors = [RepetitionPenalty(1.2), Temperature(1.5)]
    common = {"scoring": scoring, "processors": processors, **given}
    outs = decoder.generate(PROMPTS, max_new_tokens=9, **common)
    scores = decoder.score(PROMPTS, [out.token_ids for out in outs], **common, batch_size=4)
    for one, other in zip(scores, outs, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-8)


GREEDY = [out.prompt_token_ids + out.token_ids for out in Decoder(EXPERT).generate(PROMPTS, max_new_tokens=14)]


@pytest.mark.parametrize(
    "amateur",
    [OtherPrompt(lambda ids: [3, *ids], DRAFT), OtherPrompt(lambda ids: ids[-4:], DRAFT), NGram(3, GREEDY)],
    ids=["longer prompts", "shorter prompts", "n-grams"],
)
def test_the_amateur_drafts_for_its_own_contrast(amateur: Any) -> None:
    decoder, scoring = Decoder(EXPERT, amateur=amateur), Contrastive(0.3, beta=0.01)
    plain = decoder.generate(PROMPTS, scoring, max_new_tokens=14)
    strategy = Speculative(tokens=3, confidence=0.0)
    outs = decoder.generate(PROMPTS, scoring, strategy=strategy, max_new_tokens=14)
    assert [out.token_ids for out in outs] == [out.token_ids for out in plain]
    counts = [out.speculation for out in outs if out.speculation is not None]
    assert sum(count.accepted for count in counts) > 3
    assert sum(count.drafted - count.accepted for count in counts) > 3


def test_blocks_of_scores_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import descant.strategies.given

    ends = make_prompts(7, 2, 4, 1, seed=5)
    for name in ("dola high", "context-aware", "proxy tuning", "contrastive with n-grams"):
        scoring, _, models = CASES[name]
        decoder, given = decoder_of(models)
        whole = decoder.score(PROMPTS, ends, scoring, **given)
        with monkeypatch.context() as patch:
            patch.setattr(descant.strategies.given, "_ENTRIES", 2 * 4 * 3 * WIDTH)
            assert decoder.score(PROMPTS, ends, scoring, **given) == pytest.approx(whole, abs=1e-9)


def test_long_prompts_are_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The prompt, or the other one, is longer than what one pass takes of a row."""
    import descant.sources.sources

    monkeypatch.setattr(descant.sources.sources, "_ROW_TOKENS", 4)
    prompts, others = make_prompts(19, 3, 12, seed=7), make_prompts(2, 21, 12, seed=8)
    outs = Decoder(EXPERT, amateur=OtherPrompt()).generate(
        prompts, ContextAware(), max_new_tokens=6, amateur_prompts=others
    )
    for prompt, other, out in zip(prompts, others, outs, strict=True):
        expected = oracle.greedy(
            prompt,
            lambda text, p=prompt, o=other: oracle.context_aware(logits(EXPERT, text), after(EXPERT, o, p, text), 0.5),
            6,
        )
        assert out.token_ids == expected
        assert out.other_prompt_token_ids == {"amateur": other}


def test_guidance_is_that_of_transformers() -> None:
    """Its processor, for one row with greedy choice, which is where it is right; ours for all rows at once."""
    decoder = Decoder(EXPERT, amateur=OtherPrompt())
    outs = decoder.generate(PROMPTS, Guidance(1.7), [RepetitionPenalty(1.3)], max_new_tokens=16, amateur_prompts=OTHERS)
    for prompt, other, out in zip(PROMPTS, OTHERS, outs, strict=True):
        ids, negative = torch.tensor([prompt]), torch.tensor([other])
        theirs = EXPERT.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=16,
            repetition_penalty=1.3,
            guidance_scale=1.7,
            negative_prompt_ids=negative,
            negative_prompt_attention_mask=torch.ones_like(negative),
        )
        assert out.token_ids == theirs[0, len(prompt) :].tolist()
    processor = UnbatchedClassifierFreeGuidanceLogitsProcessor(1.7, EXPERT, unconditional_ids=torch.tensor([OTHERS[0]]))
    with torch.inference_mode():
        scores = processor(torch.tensor([PROMPTS[0]]), oracle.last_logits(EXPERT, PROMPTS[0])[None])
    [score] = decoder.score([PROMPTS[0]], [[5]], Guidance(1.7), amateur_prompts=[OTHERS[0]])
    assert score == pytest.approx(float(scores.log_softmax(-1)[0, 5]), abs=1e-9)


GOLDEN = json.loads((Path(__file__).parent / "golden" / "dola.json").read_text())


@pytest.mark.parametrize("name", make_dola.MODELS)
def test_released_dola_is_that_of_transformers(name: str) -> None:
    """The golden file's tokens, decoded in one ragged batch; transformers 4.55.4 decoded its prompts one by one."""
    model = make_dola.build(name)
    cases = [entry for entry in GOLDEN["cases"] if entry["model"] == name]
    assert len(cases) == len(make_dola.LAYERS)
    model.generation_config.eos_token_id = None
    for entry in cases:
        assert make_dola.checksum(model) == pytest.approx(entry["checksum"], rel=1e-12)
        scoring = DoLa(entry["dola_layers"], norm=False, divergence="released")
        prompts = make_dola.make_prompts()
        outs = Decoder(model).generate(prompts, scoring, max_new_tokens=make_dola.NEW_TOKENS)
        assert [out.token_ids for out in outs] == entry["tokens"]


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "opt", "bloom", "gpt_neox", "falcon", "mpt", "phi"])
def test_architectures_exit_at_their_embeddings(name: str) -> None:
    """Layer 0 of the log-probabilities is transformers' `hidden_states[0]`."""
    model = architectures.build(name, seed=1)
    head = model.get_output_embeddings()
    ids = torch.tensor([PROMPTS[2]])
    with torch.inference_mode():
        output = model(ids, output_hidden_states=True, use_cache=False)
        early = head(output.hidden_states[0][0, -1])
    [score] = Decoder(model).score([PROMPTS[2]], [[5]], DoLa([0], alpha=1e-9, norm=False))
    cap = getattr(model.config, "final_logit_softcapping", None)
    if cap is not None:
        early = torch.tanh(early / cap) * cap
    expected = oracle.dola(output.logits[0, -1].tolist(), [early.tolist()], alpha=1e-9)
    assert score == pytest.approx(oracle.log_softmax(expected)[5], abs=1e-8)


def test_results_record_what_made_them() -> None:
    out = Decoder(EXPERT).generate([[3]], DoLa("low"), max_new_tokens=1)[0]
    assert out.method["scoring"]["layers"] == [0, 2]
    out = Decoder(EXPERT, sources=PAIR).generate([[3]], ProxyTuning(), max_new_tokens=1)[0]
    assert set(out.method["sources"]) == {"tuned", "untuned"}
    assert out.method["sources"]["tuned"]["dtype"] == "float64"
    out = Decoder(EXPERT, amateur=NGram(2, [BAD])).generate([[3]], max_new_tokens=1)[0]
    assert out.method["amateur"] == {"name": "NGram", "n": 2, "texts": 1}
    out = Decoder(EXPERT, amateur=OtherPrompt(BAD)).generate([[3]], Guidance(), max_new_tokens=1, trace=True)[0]
    assert out.method["amateur"] == {"name": "OtherPrompt", "prompt": BAD, "model": None}
    assert out.trace is not None
    assert out.trace[0].amateur_logprob is not None


def test_texts_are_encoded_as_prompts_are() -> None:
    tokenizer = sentencepiece_tokenizer()
    model = architectures.build("llama", vocab_size=len(tokenizer))
    ids = tokenizer("world")["input_ids"]
    texts = Decoder(model, tokenizer, OtherPrompt("world"))
    rows = Decoder(model, tokenizer, OtherPrompt(ids))
    rewritten = Decoder(model, tokenizer, OtherPrompt(lambda text: text.split()[-1]))
    outs = [d.generate("hello world", Guidance(), max_new_tokens=5)[0] for d in (texts, rows, rewritten)]
    assert [out.other_prompt_token_ids for out in outs] == [{"amateur": ids}] * 3
    assert len({tuple(out.token_ids) for out in outs}) == 1
    fitted = Decoder(model, tokenizer, NGram(2, ["hello world"]))
    same = Decoder(model, tokenizer, NGram(2, [tokenizer("hello world")["input_ids"]]))
    first, second = (d.score(["hello"], [" world"], Contrastive(1e-9))[0] for d in (fitted, same))
    assert first == second


def test_the_other_prompts_context_ends_a_row() -> None:
    small = architectures.build("llama", seed=2, max_position_embeddings=16)
    decoder = Decoder(EXPERT, amateur=OtherPrompt(model=small))
    outs = decoder.generate([[3], [3]], Guidance(), max_new_tokens=20, amateur_prompts=[[4] * 10, [4] * 2])
    assert [len(out.token_ids) for out in outs] == [6, 14]
    with pytest.raises(PromptError, match=r"prompt 1: .* longer than the context"):
        decoder.generate([[3], [3]], Guidance(), max_new_tokens=20, amateur_prompts=[[4], [4] * 17])
    with pytest.raises(PromptError, match="longer than the context"):
        decoder.score([[3]], [[5] * 4], Guidance(), amateur_prompts=[[4] * 13])


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], type[Exception], str]] = {
    "no amateur": ({}, {"scoring": Guidance()}, SettingsError, "Guidance needs an amateur"),
    "no sources": ({}, {"scoring": ProxyTuning()}, SettingsError, r"sources=\{'tuned': …, 'untuned': …\}"),
    "one source": ({"sources": {"positive": PLUS}}, {"scoring": DExperts()}, SettingsError, r"\{'negative': …\}"),
    "no layer": ({}, {"scoring": DoLa([7])}, SettingsError, "choose of 0 to 5"),
    "a gated layer": ({}, {"scoring": WhenUncertain(AutoContrastive(6), 1.0)}, SettingsError, "0 to 5"),
    "no other prompt": ({"amateur": OtherPrompt()}, {"scoring": Guidance()}, SettingsError, "give amateur_prompts"),
    "no other prompt of a source": (
        {"sources": {"positive": OtherPrompt(), "negative": PLUS}}, {"scoring": DExperts()}, SettingsError,
        r"the positive reads another prompt; give OtherPrompt\(prompt\)",
    ),
    "too few": (
        {"amateur": OtherPrompt()}, {"scoring": Guidance(), "amateur_prompts": [[3]]}, PromptError, "2 prompts and 1",
    ),
    "prompts for nobody": (
        {"amateur": EARLIER}, {"scoring": Guidance(), "amateur_prompts": [[3], [3]]}, SettingsError, "no effect",
    ),
    "prompts that are not read": (
        {"amateur": OtherPrompt()}, {"scoring": Likelihood(), "amateur_prompts": [[3], [3]]}, SettingsError,
        "no effect",
    ),
    "prompts twice": (
        {"amateur": OtherPrompt(BAD)}, {"scoring": Guidance(), "amateur_prompts": [[3], [3]]}, SettingsError, "has one",
    ),
    "text without a tokenizer": ({"amateur": OtherPrompt("x")}, {"scoring": Guidance()}, PromptError, "tokenizer"),
    "a draft for nothing": (
        {"amateur": OtherPrompt(BAD)}, {"scoring": Likelihood(), "strategy": Speculative()}, SettingsError,
        "drafts only for a scoring",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_honoured_is_refused_when_the_call_begins(name: str) -> None:
    models, settings, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        Decoder(EXPERT, **models).stream([[3], [4]], **settings)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Decoder(EXPERT, sources={"amateur": PLUS}), "cannot be named 'amateur'"),
        (lambda: Decoder(EXPERT, sources={"layer 3": PLUS}), "cannot be named 'layer 3'"),
        (lambda: Decoder(EXPERT, sources={"tuned": "x"}), "str is not an amateur"),
        (lambda: Decoder(EXPERT, amateur=NGram(2, ["text"])), "no tokenizer"),
        (lambda: Decoder(EXPERT, amateur=NGram(2, [[WIDTH]])), "NGram.texts is 97; give token ids"),
        (lambda: NGram(0), "NGram.n is 0"),
        (lambda: NGram(2, "text"), "give a list of texts"),
        (lambda: NGram(2, []), "give a list of texts"),
        (lambda: NGram(2, [5]), "give a list of texts"),
        (lambda: OtherPrompt(model="x"), "OtherPrompt.model is 'x'"),
        (lambda: OtherPrompt(3), "OtherPrompt.prompt is 3"),
        (lambda: OtherPrompt([1.5]), "OtherPrompt.prompt is 1.5"),
    ],
)
def test_settings_of_sources_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make()


def test_sources_share_the_experts_tokens() -> None:
    tokenizer = sentencepiece_tokenizer()
    model = architectures.build("llama", vocab_size=len(tokenizer))
    narrow = architectures.build("llama", vocab_size=len(tokenizer) - 1)
    with pytest.raises(VocabularyError, match="the tuned's logits"):
        Decoder(model, tokenizer, sources={"tuned": narrow})
    wide = Decoder(EXPERT, sources={"tuned": architectures.build("llama", vocab_size=90), "untuned": MINUS})
    with pytest.raises(PromptError, match="vocabulary of 90"):
        wide.generate([[95]], ProxyTuning())
    assert wide.generate([[95]], Likelihood(), max_new_tokens=1)


def test_a_recurrent_expert_has_no_layers_to_contrast() -> None:
    with pytest.raises(UnsupportedModelError, match="recurrent state"):
        Decoder(architectures.build("mamba")).generate([[3]], AutoContrastive())


def test_certain_steps_leave_the_amateur_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one row, the amateur is read where the expert's entropy exceeds the threshold, and nowhere else."""
    passes = 0
    forward = EARLIER.model.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal passes
        passes += 1
        return forward(*args, **kwargs)

    monkeypatch.setattr(EARLIER.model, "forward", counted)
    out = Decoder(EXPERT, amateur=EARLIER).generate(PROMPTS[:1], WhenUncertain(Guidance(2.0), 3.3), max_new_tokens=30)[
        0
    ]
    text, uncertain = list(PROMPTS[0]), 0
    for token in out.token_ids:
        uncertain += oracle.entropy(logits(EXPERT, text)) > 3.3
        text.append(token)
    assert 0 < uncertain < 30
    assert passes == uncertain
    assert math.isfinite(sum(out.logprobs))
