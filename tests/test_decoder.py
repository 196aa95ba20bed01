"""Decoding through the public face against the naive oracle and against transformers."""

from typing import Any

import pytest
import torch
from transformers import LogitsProcessorList, PreTrainedModel
from transformers import RepetitionPenaltyLogitsProcessor as HFRepetition

import architectures
import oracle
from architectures import make_prompts
from descant import (
    Contrastive,
    Decoder,
    EarlyExit,
    Epsilon,
    Eta,
    Greedy,
    Likelihood,
    MinP,
    NoRepeatNGram,
    RepetitionPenalty,
    Sample,
    Temperature,
    TopK,
    TopP,
    Typical,
    Window,
)

EXPERT = architectures.build("qwen2", seed=1)
AMATEUR = architectures.build("llama", seed=2, num_hidden_layers=1)
GPT2 = architectures.build("gpt2", seed=1)


PROMPTS = make_prompts(5, 1, 9, 3)

SCORINGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "difference": (Contrastive(), {}),
    "difference, wide head": (Contrastive(alpha=0.001), {"alpha": 0.001}),
    "temperature": (Contrastive(alpha=0.01, amateur_temperature=0.5), {"alpha": 0.01, "temperature": 0.5}),
    "released": (
        Contrastive(alpha=0.01, amateur_temperature=2.0, normalization="released"),
        {"alpha": 0.01, "temperature": 2.0, "released": True},
    ),
    "candidates": (Contrastive(alpha=0.0001, candidates=3), {"alpha": 0.0001, "candidates": 3}),
    "beta": (Contrastive(alpha=0.01, beta=0.5), {"alpha": 0.01, "beta": 0.5}),
    "beta zero": (Contrastive(beta=0.0), {"beta": 0.0}),
}
AMATEURS: dict[str, tuple[Any, oracle.Sourcing]] = {
    "model": (AMATEUR, oracle.full(AMATEUR)),
    "early exit": (EarlyExit(1), oracle.early_exit(EXPERT, 1)),
    "early exit without norm": (EarlyExit(2, norm=False), oracle.early_exit(EXPERT, 2, norm=False)),
    "window of another": (Window(AMATEUR, 3), oracle.window(AMATEUR, 3)),
    "window of the expert": (Window(EXPERT, 2), oracle.window(EXPERT, 2)),
}


@pytest.mark.parametrize("selective", [True, False])
@pytest.mark.parametrize("amateur", AMATEURS)
@pytest.mark.parametrize("scoring", SCORINGS)
def test_contrastive_decoding_equals_the_oracle(scoring: str, amateur: str, selective: bool) -> None:
    import dataclasses

    part, source = AMATEURS[amateur]
    setting, arguments = SCORINGS[scoring]
    decoder = Decoder(EXPERT, amateur=part)
    outs = decoder.generate(PROMPTS, scoring=dataclasses.replace(setting, selective=selective), max_new_tokens=12)
    for prompt, out in zip(PROMPTS, outs, strict=True):
        assert out.token_ids == oracle.decode(prompt, oracle.full(EXPERT), source, **arguments)
        assert out.finish_reason == "length"


def test_contrast_differs_from_greedy_somewhere() -> None:
    """The matrix above would hold vacuously if contrast never changed a token."""
    plain = Decoder(EXPERT).generate(PROMPTS, max_new_tokens=12)
    for part, _ in AMATEURS.values():
        outs = Decoder(EXPERT, amateur=part).generate(PROMPTS, Contrastive(alpha=0.001), max_new_tokens=12)
        assert [out.token_ids for out in outs] != [out.token_ids for out in plain]


def hf_generate(model: PreTrainedModel, prompt: list[int], **settings: Any) -> list[int]:
    ids = torch.tensor([prompt])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, **settings)
    return out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("model", [EXPERT, GPT2], ids=["qwen2", "gpt2"])
@pytest.mark.parametrize(
    ("processors", "settings"),
    [
        ((), {}),
        ((RepetitionPenalty(1.8),), {"repetition_penalty": 1.8}),
        ((NoRepeatNGram(2),), {"no_repeat_ngram_size": 2}),
        ((RepetitionPenalty(1.3), NoRepeatNGram(1)), {"repetition_penalty": 1.3, "no_repeat_ngram_size": 1}),
    ],
    ids=["plain", "repetition", "2-grams", "both"],
)
def test_greedy_batches_equal_generate_row_by_row(
    model: PreTrainedModel, processors: tuple[Any, ...], settings: dict[str, Any]
) -> None:
    outs = Decoder(model).generate(PROMPTS, processors=processors, max_new_tokens=16)
    assert [out.token_ids for out in outs] == [
        hf_generate(model, prompt, do_sample=False, **settings) for prompt in PROMPTS
    ]


def test_float32_decodes_what_generate_decodes() -> None:
    model = architectures.build("qwen2", seed=1).float()
    outs = Decoder(model).generate(PROMPTS, max_new_tokens=16)
    assert [out.token_ids for out in outs] == [hf_generate(model, prompt, do_sample=False) for prompt in PROMPTS]


def test_bfloat16_decodes_what_generate_decodes_up_to_ties() -> None:
    """Every token is the best of a full pass over its own text, or within two units of bfloat16's last place."""
    model = architectures.build("qwen2", seed=1).bfloat16()
    outs = Decoder(model).generate(PROMPTS, max_new_tokens=16)
    for prompt, out in zip(PROMPTS, outs, strict=True):
        text = list(prompt)
        for token in out.token_ids:
            logits = oracle.last_logits(model, text).float()
            assert float(logits[token]) >= float(logits.max()) - 2 * 2**-7 * float(logits.abs().max())
            text.append(token)


@pytest.mark.parametrize(
    ("processors", "settings"),
    [
        ((), {"top_k": 0}),
        ((Temperature(0.7),), {"temperature": 0.7, "top_k": 0}),
        ((TopK(5),), {"top_k": 5}),
        ((Temperature(1.5), TopP(0.8)), {"temperature": 1.5, "top_p": 0.8, "top_k": 0}),
        ((MinP(0.1),), {"min_p": 0.1, "top_k": 0}),
        ((Typical(0.7),), {"typical_p": 0.7, "top_k": 0}),
        ((Epsilon(0.02),), {"epsilon_cutoff": 0.02, "top_k": 0}),
        ((Eta(0.05),), {"eta_cutoff": 0.05, "top_k": 0}),
        (
            (RepetitionPenalty(1.2), Temperature(1.3), TopK(20), TopP(0.9), MinP(0.02)),
            {"repetition_penalty": 1.2, "temperature": 1.3, "top_k": 20, "top_p": 0.9, "min_p": 0.02},
        ),
    ],
    ids=["plain", "temperature", "top-k", "top-p", "min-p", "typical", "epsilon", "eta", "all"],
)
def test_sampling_draws_what_generate_draws(processors: tuple[Any, ...], settings: dict[str, Any]) -> None:
    """Equal prompt lengths, one batch, several eos ids: rows end at different steps, the draws must not shift."""
    model = architectures.build("qwen2", seed=3)
    prompts = make_prompts(4, 4, 4)
    ids = torch.tensor(prompts)
    eos = [7, 11, 19, 23]
    for seed in range(3):
        torch.manual_seed(seed)
        model.generation_config.eos_token_id = None
        expected = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            max_new_tokens=16,
            eos_token_id=eos,
            **settings,
        )[:, 4:].tolist()
        model.generation_config.eos_token_id = eos
        torch.manual_seed(seed)
        outs = Decoder(model).generate(
            prompts, processors=processors, strategy=Sample(rng="transformers"), max_new_tokens=16
        )
        for out, row in zip(outs, expected, strict=True):
            assert row[: len(out.token_ids)] == out.token_ids
            assert out.finish_reason == ("stop" if out.token_ids[-1] in eos else "length")
            assert not set(out.token_ids[:-1]) & set(eos)


def test_a_seed_seeds_the_generator_that_transformers_draws_from() -> None:
    decoder, strategy = Decoder(EXPERT), Sample(rng="transformers")
    settings: dict[str, Any] = {"strategy": strategy, "processors": [Temperature(3.0)], "max_new_tokens": 12}
    torch.manual_seed(5)
    expected = decoder.generate(PROMPTS, **settings)
    again = decoder.generate(PROMPTS, seed=5, **settings)
    assert [o.token_ids for o in again] == [o.token_ids for o in expected]
    assert (expected[0].method["seed"], again[0].method["seed"]) == (None, 5)


def test_transformers_processors_are_accepted() -> None:
    theirs = Decoder(EXPERT).generate(PROMPTS, processors=[HFRepetition(1.8)], max_new_tokens=10)
    listed = Decoder(EXPERT).generate(PROMPTS, processors=[LogitsProcessorList([HFRepetition(1.8)])], max_new_tokens=10)
    ours = Decoder(EXPERT).generate(PROMPTS, processors=[RepetitionPenalty(1.8)], max_new_tokens=10)
    assert [o.token_ids for o in theirs] == [o.token_ids for o in ours] == [o.token_ids for o in listed]


@pytest.mark.parametrize("strategy", [Greedy(), Sample()], ids=["greedy", "sample"])
@pytest.mark.parametrize("amateur", [None, *AMATEURS])
def test_a_row_does_not_depend_on_its_neighbours(amateur: str | None, strategy: Any) -> None:
    """Guarantee 2, with rows that leave early (eos) and rows that join late (small batch_size)."""
    part = AMATEURS[amateur][0] if amateur else None
    model = architectures.build("qwen2", seed=1)
    model.generation_config.eos_token_id = [5, 17, 60]
    decoder = Decoder(model, amateur=part)
    prompts = make_prompts(5, 1, 9, 3, 12, 2, 7)
    settings: dict[str, Any] = {
        "strategy": strategy, "processors": (RepetitionPenalty(1.2), Temperature(1.5)), "max_new_tokens": 14, "seed": 4
    }  # fmt: skip
    together = decoder.generate(prompts, **settings)
    few = decoder.generate(prompts, batch_size=2, **settings)
    assert [out.token_ids for out in few] == [out.token_ids for out in together]
    for one, other in zip(few, together, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-9)
    if isinstance(strategy, Greedy):
        assert [decoder.generate([p], **settings)[0].token_ids for p in prompts] == [o.token_ids for o in together]
    assert len({len(out.token_ids) for out in together}) > 1, "no row ended early: nothing is tested"


def test_equal_prompts_in_one_call_draw_differently_and_a_seed_repeats_them() -> None:
    decoder = Decoder(EXPERT)
    settings: dict[str, Any] = {"strategy": Sample(), "processors": [Temperature(3.0)], "max_new_tokens": 12}
    first = decoder.generate([PROMPTS[0]] * 3, seed=9, **settings)
    again = decoder.generate([PROMPTS[0]] * 3, seed=9, **settings)
    assert [o.token_ids for o in first] == [o.token_ids for o in again]
    assert len({tuple(o.token_ids) for o in first}) == 3
    fresh = decoder.generate([PROMPTS[0]], **settings)[0]
    repeated = decoder.generate([PROMPTS[0]], seed=fresh.method["seed"], **settings)[0]
    assert fresh.token_ids == repeated.token_ids


def test_logprobs_are_those_of_the_processed_distribution() -> None:
    out = Decoder(EXPERT).generate([PROMPTS[2]], processors=[Temperature(2.0)], max_new_tokens=8, top_logprobs=3)[0]
    text = list(PROMPTS[2])
    assert out.top_logprobs is not None
    for token, logprob, top in zip(out.token_ids, out.logprobs, out.top_logprobs, strict=True):
        expected = (oracle.last_logits(EXPERT, text) / 2.0).log_softmax(-1)
        assert logprob == pytest.approx(float(expected[token]), abs=1e-9)
        values, ids = expected.topk(3)
        assert [pair[0] for pair in top] == ids.tolist()
        assert [pair[1] for pair in top] == pytest.approx(values.tolist(), abs=1e-9)
        text.append(token)


def test_a_banned_head_falls_back_to_the_expert() -> None:
    """With α = 1 the head is the expert's favourite; banning it must give the expert's next, not token 0."""
    decoder = Decoder(EXPERT, amateur=AMATEUR)
    expected = Decoder(EXPERT).generate(PROMPTS, processors=[NoRepeatNGram(1)], max_new_tokens=12)
    for selective in (True, False):
        outs = decoder.generate(
            PROMPTS, Contrastive(alpha=1.0, selective=selective), [NoRepeatNGram(1)], max_new_tokens=12
        )
        assert [o.token_ids for o in outs] == [o.token_ids for o in expected]


@pytest.mark.parametrize("widths", [(97, 104), (104, 97)])
def test_padded_vocabularies_contrast_over_the_common_tokens(widths: tuple[int, int]) -> None:
    expert = architectures.build("qwen2", seed=1, vocab_size=widths[0])
    amateur = architectures.build("qwen2", seed=5, vocab_size=widths[1], num_hidden_layers=1)
    outs = Decoder(expert, amateur=amateur).generate(PROMPTS, Contrastive(alpha=0.01), max_new_tokens=12)
    for prompt, out in zip(PROMPTS, outs, strict=True):
        assert out.token_ids == oracle.decode(prompt, oracle.full(expert), oracle.full(amateur), alpha=0.01)


@pytest.mark.parametrize("scoring", [Likelihood(), Contrastive(alpha=0.001), Contrastive(alpha=0.001, beta=0.5)])
def test_score_is_what_generate_reports_for_its_own_tokens(scoring: Any) -> None:
    """A law: the log-probabilities of generated tokens are those of the same text when it is scored."""
    decoder = Decoder(EXPERT, amateur=AMATEUR)
    outs = decoder.generate(PROMPTS, scoring, [Temperature(1.5)], max_new_tokens=9)
    scores = decoder.score(PROMPTS, [o.token_ids for o in outs], scoring, [Temperature(1.5)], batch_size=3)
    for score, out in zip(scores, outs, strict=True):
        assert score.logprobs == pytest.approx(out.logprobs, abs=1e-9)
        assert score == pytest.approx(sum(out.logprobs), abs=1e-9)


def test_score_under_the_expert_is_its_log_likelihood(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when positions are read in blocks of two."""
    import descant.strategies.given

    ends = make_prompts(7, 2, 4, 1, seed=5)
    expected = []
    for prompt, end in zip(PROMPTS, ends, strict=True):
        with torch.inference_mode():
            logprobs = EXPERT(torch.tensor([prompt + end])).logits[0].log_softmax(-1)
        expected.append(sum(float(logprobs[len(prompt) + i - 1, token]) for i, token in enumerate(end)))
    decoder = Decoder(EXPERT)
    assert decoder.score(PROMPTS, ends) == pytest.approx(expected, abs=1e-9)
    monkeypatch.setattr(descant.strategies.given, "_ENTRIES", 2 * 4 * architectures.VOCAB)
    assert decoder.score(PROMPTS, ends) == pytest.approx(expected, abs=1e-9)


def test_recurrent_models_decode_and_contrast() -> None:
    expert = architectures.build("mamba", seed=1)
    amateur = architectures.build("mamba", seed=2, num_hidden_layers=1)
    for selective in (True, False):
        outs = Decoder(expert, amateur=amateur).generate(
            PROMPTS[:1], Contrastive(alpha=0.05, selective=selective), max_new_tokens=12
        )
        assert outs[0].token_ids == oracle.decode(PROMPTS[0], oracle.full(expert), oracle.full(amateur), alpha=0.05)


@pytest.mark.parametrize("alpha", [0.9, 0.1])
def test_selective_contrast_reads_the_amateur_only_where_it_can_matter(
    alpha: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passes of the amateur, against the steps at which the oracle's head has more than one token."""
    decoder = Decoder(EXPERT, amateur=AMATEUR)
    passes: list[int] = []
    forward = AMATEUR.model.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        passes.append(kwargs["input_ids"].shape[1])
        return forward(*args, **kwargs)

    monkeypatch.setattr(AMATEUR.model, "forward", counted)
    out = decoder.generate(PROMPTS[:1], Contrastive(alpha=alpha, selective=True), max_new_tokens=30)[0]
    text, undecided = list(PROMPTS[0]), []
    for token in out.token_ids:
        logits = oracle.last_logits(EXPERT, text)
        if int((logits >= logits.max() + torch.log(torch.tensor(alpha))).sum()) > 1:
            undecided.append(len(text))
        text.append(token)
    assert 0 < len(undecided) < 30
    assert len(passes) == len(undecided)
    assert sum(passes) == undecided[-1], "each token is read once, late or not"


def test_contrastive_sampling_draws_from_the_softmax_of_its_scores() -> None:
    """4,000 first tokens against the oracle's distribution; false-alarm rate 1e-6 (chi-square)."""
    from scipy.stats import chisquare

    prompt, count = PROMPTS[2], 4000
    outs = Decoder(EXPERT, amateur=AMATEUR).generate(
        [prompt] * count,
        Contrastive(alpha=1e-6, amateur_temperature=3.0),
        [Temperature(6.0)],
        Sample(),
        max_new_tokens=1,
        seed=0,
        batch_size=1000,
    )
    scores = oracle.contrastive(
        oracle.last_logits(EXPERT, prompt), oracle.last_logits(AMATEUR, prompt), alpha=1e-6, temperature=3.0
    )
    expected = (torch.tensor(scores, dtype=torch.float64) / 6.0).softmax(-1) * count
    observed = torch.bincount(torch.tensor([out.token_ids[0] for out in outs]), minlength=len(expected))
    assert not observed[expected == 0].any()
    common = expected >= 5
    assert common.sum() > 3
    rest = [float(expected[~common].sum()), int(observed[~common].sum())]
    pairs = [*zip(expected[common].tolist(), observed[common].tolist(), strict=True), rest]
    pairs = [pair for pair in pairs if pair[0] > 0]
    statistic = chisquare([pair[1] for pair in pairs], [pair[0] for pair in pairs])
    assert statistic.pvalue > 1e-6


LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0, 3.0, 2.0, 8.0],
    "original_max_position_embeddings": 12,
    "short_mscale": 1.0,
    "long_mscale": 1.0,
}


@pytest.mark.parametrize("name", ["phi3", "phimoe"])
def test_longrope_switches_row_by_row_as_generate_does(name: str) -> None:
    """Its rotary embedding depends on the longest text of a pass, and generate starts afresh where it switches."""
    model = architectures.build(name, seed=1, rope_parameters=LONGROPE, original_max_position_embeddings=12)
    outs = Decoder(model).generate(PROMPTS, max_new_tokens=16)
    assert [out.token_ids for out in outs] == [hf_generate(model, prompt, do_sample=False) for prompt in PROMPTS]


def test_an_amateur_in_training_mode_is_put_to_work() -> None:
    amateur = architectures.build("gpt2", seed=2, n_layer=1)
    amateur.train()
    decoder = Decoder(EXPERT, amateur=amateur)
    scores = [decoder.score([[3, 4, 5]], [[7, 8, 9]], Contrastive(alpha=1e-9))[0] for _ in range(2)]
    assert scores[0] == scores[1]


def test_a_banned_head_scores_as_it_was_generated() -> None:
    decoder = Decoder(EXPERT, amateur=AMATEUR)
    method = (Contrastive(alpha=1.0), [NoRepeatNGram(1)])
    outs = decoder.generate(PROMPTS, *method, max_new_tokens=20)
    scores = decoder.score(PROMPTS, [out.token_ids for out in outs], *method)
    for score, out in zip(scores, outs, strict=True):
        assert score.logprobs == pytest.approx(out.logprobs, abs=1e-9)


@pytest.mark.parametrize("form", ["difference", "beta", "released"])
def test_contrastive_log_probabilities_equal_the_oracle(form: str) -> None:
    setting, arguments = SCORINGS[form]
    decoder = Decoder(EXPERT, amateur=AMATEUR)
    out = decoder.generate([PROMPTS[2]], setting, max_new_tokens=8)[0]
    other = [(token + 1) % 97 for token in out.token_ids]
    [score] = decoder.score([PROMPTS[2]], [other], setting)
    text = list(PROMPTS[2])
    for token, logprob in zip(out.token_ids, out.logprobs, strict=True):
        scores = oracle.contrastive(
            oracle.last_logits(EXPERT, text), oracle.last_logits(AMATEUR, text), **arguments
        )  # fmt: skip
        assert logprob == pytest.approx(float(torch.tensor(scores).double().log_softmax(-1)[token]), abs=1e-5)
        text.append(token)
    text = list(PROMPTS[2])
    for token, logprob in zip(other, score.logprobs, strict=True):
        scores = oracle.contrastive(
            oracle.last_logits(EXPERT, text), oracle.last_logits(AMATEUR, text), **arguments
        )  # fmt: skip
        expected = float(torch.tensor(scores).double().log_softmax(-1)[token])
        assert logprob == expected or logprob == pytest.approx(expected, abs=1e-5)
        text.append(token)
    assert float("-inf") in score.logprobs


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_recurrent_experts_join_and_leave_batches_with_an_attention_amateur(batch_size: int) -> None:
    expert = architectures.build("mamba", seed=1)
    expert.generation_config.eos_token_id = [5, 17, 60, 33]
    outs = Decoder(expert, amateur=AMATEUR).generate(
        PROMPTS, Contrastive(alpha=0.05), max_new_tokens=12, batch_size=batch_size
    )
    for prompt, out in zip(PROMPTS, outs, strict=True):
        expected = oracle.decode(
            prompt, oracle.full(expert), oracle.full(AMATEUR), alpha=0.05, eos=[5, 17, 60, 33]
        )  # fmt: skip
        assert out.token_ids == expected


def test_a_long_prompt_is_one_pass_where_parts_would_be_read_token_by_token(monkeypatch: pytest.MonkeyPatch) -> None:
    import descant.sources.sources
    import descant.strategies.given

    monkeypatch.setattr(descant.sources.sources, "_ROW_TOKENS", 4)
    monkeypatch.setattr(descant.strategies.given, "_ENTRIES", 1)
    model = architectures.build("mamba", seed=1)
    passes = 0
    forward = model.backbone.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal passes
        passes += 1
        return forward(*args, **kwargs)

    monkeypatch.setattr(model.backbone, "forward", counted)
    Decoder(model).generate([[3] * 30], max_new_tokens=1)
    assert passes == 1
    Decoder(model).score([[3] * 30], [[4] * 9])
    assert passes == 2


def test_processors_see_histories_that_outgrow_their_buffer() -> None:
    processors = [RepetitionPenalty(1.5)]
    out = Decoder(EXPERT).generate([PROMPTS[0]], processors=processors, max_new_tokens=100)[0]
    expected = EXPERT.generate(
        torch.tensor([PROMPTS[0]]), attention_mask=torch.ones(1, 5, dtype=torch.long), max_new_tokens=100,
        do_sample=False, repetition_penalty=1.5,
    )  # fmt: skip
    assert out.token_ids == expected[0, 5:].tolist()


def test_left_padded_sampling_is_what_ragged_sampling_draws() -> None:
    """Prompts of different lengths: generate pads on the left, descant does not pad."""
    model = architectures.build("qwen2", seed=3)
    width = max(map(len, PROMPTS))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in PROMPTS])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in PROMPTS])
    torch.manual_seed(1)
    expected = model.generate(ids, attention_mask=mask, do_sample=True, top_k=10, max_new_tokens=12)[:, width:]
    torch.manual_seed(1)
    outs = Decoder(model).generate(
        PROMPTS, processors=[TopK(10)], strategy=Sample(rng="transformers"), max_new_tokens=12
    )  # fmt: skip
    assert [out.token_ids for out in outs] == expected.tolist()
