"""Speculation changes the speed and nothing else: the same tokens, the same distribution.

Greedy tokens are compared with the naive oracle, with transformers' assisted generation, and, over the full matrix,
with plain decoding, which other tests compare with these.
"""

import copy
import itertools
import math
import zlib
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import architectures
import oracle
from architectures import make_prompts, near
from descant import (
    Contrastive,
    Decoder,
    DecodingError,
    EarlyExit,
    Greedy,
    Likelihood,
    MinNewTokens,
    NoRepeatNGram,
    PromptLookup,
    RepetitionPenalty,
    Sample,
    SettingsError,
    Speculative,
    Temperature,
    TopK,
    TopP,
    UnsupportedModelError,
    Window,
)
from descant.models.ragged import RaggedModel

EXPERT = architectures.build("qwen2", seed=1)


AMATEUR = near(EXPERT, 0.03)
OTHER = near(EXPERT, 0.02, seed=1)
FAR = architectures.build("llama", seed=2, num_hidden_layers=1)


PROMPTS = make_prompts(5, 1, 9, 3)

AMATEURS: dict[str, Any] = {
    "near": AMATEUR,
    "far": FAR,
    "early exit": EarlyExit(2),
    "window": Window(AMATEUR, 6),
}
SCORINGS: dict[str, Any] = {
    "likelihood": Likelihood(),
    "difference": Contrastive(alpha=0.3),
    "beta": Contrastive(alpha=0.05, beta=0.3),
    "unselective": Contrastive(alpha=0.3, selective=False),
}
PROCESSORS: dict[str, tuple[Any, ...]] = {
    "none": (),
    "history": (RepetitionPenalty(1.1), NoRepeatNGram(2)),
    "all banned at times": (NoRepeatNGram(1), Temperature(0.7), TopK(3)),
}
DRAFTS: dict[str, Any] = {
    "amateur": None,
    "model": OTHER,
    "exit": EarlyExit(2),
    "exit without norm": EarlyExit(1, norm=False),
    "lookup": PromptLookup(2),
}
WAYS: Any = ((1, 0.0, 4), (4, 0.0, 4), (4, 0.0, 1), (3, 0.5, 2), ("auto", 0.4, 1))
"""Tokens drafted, confidence, batch size: each cell of the matrix takes one, and all of them in the heavy tests."""


def tokens_of(outs: Any) -> list[list[int]]:
    return [out.token_ids for out in outs]


CELLS = list(itertools.product(AMATEURS, SCORINGS, PROCESSORS, DRAFTS))


@pytest.mark.parametrize(
    ("amateur", "scoring", "processors", "draft"),
    [cell for cell in CELLS if cell[0] == "near" or cell[1] == "difference"],
)
def test_greedy_tokens_are_those_of_plain_decoding(amateur: str, scoring: str, processors: str, draft: str) -> None:
    number = zlib.crc32(f"{amateur} {scoring} {processors} {draft}".encode()) % len(WAYS)
    check_cell(amateur, scoring, processors, draft, WAYS[number : number + 1])


@pytest.mark.heavy
@pytest.mark.parametrize(("amateur", "scoring", "processors", "draft"), CELLS)
def test_greedy_tokens_are_those_of_plain_decoding_in_every_way(
    amateur: str, scoring: str, processors: str, draft: str
) -> None:
    check_cell(amateur, scoring, processors, draft, WAYS)


def check_cell(amateur: str, scoring: str, processors: str, draft: str, ways: Any) -> None:
    decoder = Decoder(EXPERT, amateur=AMATEURS[amateur])
    common: dict[str, Any] = {"processors": PROCESSORS[processors], "max_new_tokens": 14, "top_logprobs": 2}
    plain = decoder.generate(PROMPTS, SCORINGS[scoring], **common)
    for tokens, confidence, rows in ways:
        strategy = Speculative(draft=DRAFTS[draft], tokens=tokens, confidence=confidence)
        outs = decoder.generate(PROMPTS, SCORINGS[scoring], strategy=strategy, batch_size=rows, **common)
        assert tokens_of(outs) == tokens_of(plain)
        for out, expected in zip(outs, plain, strict=True):
            assert out.finish_reason == expected.finish_reason
            assert out.logprobs == pytest.approx(expected.logprobs, abs=1e-8)
            assert [[i for i, _ in top] for top in out.top_logprobs] == [
                [i for i, _ in top] for top in expected.top_logprobs
            ]
            count = out.speculation
            assert count.rounds + count.accepted in (14, 15)  # a round gives its accepted drafts and a token more
            assert count.accepted <= count.drafted


@pytest.mark.parametrize("draft", DRAFTS)
def test_the_matrix_accepts_and_rejects_drafts_of_every_kind(draft: str) -> None:
    """It would hold vacuously otherwise."""
    strategy = Speculative(draft=DRAFTS[draft])
    accepted = rejected = 0
    for scoring in SCORINGS.values():
        for out in Decoder(EXPERT, amateur=AMATEUR).generate(PROMPTS, scoring, strategy=strategy, max_new_tokens=14):
            accepted += out.speculation.accepted
            rejected += out.speculation.drafted - out.speculation.accepted
    assert accepted > 0
    assert rejected > 20


@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize("beta", [None, 0.5])
def test_speculative_contrastive_decoding_equals_the_oracle(beta: float | None, draft: str) -> None:
    decoder = Decoder(EXPERT, amateur=AMATEUR)
    scoring = Contrastive(alpha=0.05, beta=beta)
    outs = decoder.generate(PROMPTS, scoring, strategy=Speculative(draft=DRAFTS[draft]), max_new_tokens=12)
    for prompt, out in zip(PROMPTS, outs, strict=True):
        expected = oracle.decode(prompt, oracle.full(EXPERT), oracle.full(AMATEUR), alpha=0.05, beta=beta)
        assert out.token_ids == expected


@pytest.mark.parametrize("tokens", [1, 3, 5])
def test_assisted_generation_of_transformers_gives_the_same_tokens(tokens: int) -> None:
    expert, draft = copy.deepcopy(EXPERT), copy.deepcopy(OTHER)
    expert.generation_config.eos_token_id = draft.generation_config.eos_token_id = 96
    draft.generation_config.num_assistant_tokens = tokens
    draft.generation_config.num_assistant_tokens_schedule = "constant"
    outs = Decoder(expert).generate(
        PROMPTS, strategy=Speculative(draft=draft, tokens=tokens, confidence=0.0), max_new_tokens=24, ignore_eos=True
    )
    for prompt, out in zip(PROMPTS, outs, strict=True):
        ids = torch.tensor([prompt])
        theirs = expert.generate(
            ids, attention_mask=torch.ones_like(ids), assistant_model=draft, max_new_tokens=24, do_sample=False
        )[0, len(prompt) :].tolist()
        assert out.token_ids[: len(theirs)] == theirs
        assert out.speculation.accepted > 3


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "mistral windowed", "bloom", "falcon", "gpt_neox", "mpt"])
def test_architectures_speculate_with_a_neighbour_and_with_their_own_early_layers(name: str) -> None:
    expert = architectures.build(name, seed=1)
    plain = Decoder(expert).generate(PROMPTS, max_new_tokens=12)
    for draft in (near(expert, 0.02), EarlyExit(2)):
        strategy = Speculative(draft=draft, tokens=3, confidence=0.0)
        outs = Decoder(expert).generate(PROMPTS, strategy=strategy, max_new_tokens=12)
        assert tokens_of(outs) == tokens_of(plain)


@settings(max_examples=25, deadline=None)
@given(
    ends=st.sets(st.integers(0, architectures.VOCAB - 1), min_size=1, max_size=12),
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    seed=st.integers(0, 1000),
    limit=st.integers(1, 12),
    tokens=st.integers(1, 6),
    draft=st.sampled_from(sorted(DRAFTS)),
    contrast=st.booleans(),
    batch_size=st.integers(1, 5),
    minimum=st.integers(0, 5),
)
def test_rows_end_inside_drafts_where_plain_rows_end(
    ends: set[int],
    lengths: list[int],
    seed: int,
    limit: int,
    tokens: int,
    draft: str,
    contrast: bool,
    batch_size: int,
    minimum: int,
) -> None:
    """Several eos ids, the length, a least length, rows that join late."""
    expert = copy.copy(EXPERT)
    expert.generation_config = copy.deepcopy(EXPERT.generation_config)
    expert.generation_config.eos_token_id = sorted(ends)
    decoder = Decoder(expert, amateur=AMATEUR)
    scoring = Contrastive(alpha=0.3) if contrast else Likelihood()
    common: dict[str, Any] = {"processors": [MinNewTokens(minimum)], "max_new_tokens": limit, "batch_size": batch_size}
    prompts = make_prompts(*lengths, seed=seed)
    plain = decoder.generate(prompts, scoring, **common)
    strategy = Speculative(draft=DRAFTS[draft], tokens=tokens, confidence=0.0)
    outs = decoder.generate(prompts, scoring, strategy=strategy, **common)
    assert tokens_of(outs) == tokens_of(plain)
    assert [out.finish_reason for out in outs] == [out.finish_reason for out in plain]


def test_text_that_is_streamed_and_stopped_is_that_of_plain_decoding() -> None:
    """On the bundled pair: stop strings across tokens and inside drafts, pieces that add up."""
    decoder = Decoder.demo()
    from descant.demo import questions

    texts = [question.prompt for question in questions("dev")[:6]]
    plain = decoder.generate(texts, max_new_tokens=24)
    words = [out.text for out in plain if len(out.text) > 6]
    stops = sorted({text[i : i + size] for text in words for i, size in ((2, 2), (4, 3))} - {""})
    for stop in [(), *[(s,) for s in stops[:6]], tuple(stops[:3])]:
        expected = decoder.generate(texts, max_new_tokens=24, stop=stop)
        for draft in (None, PromptLookup(3)):
            strategy = Speculative(draft=draft, tokens=5, confidence=0.0)
            pieces: dict[int, list[Any]] = {number: [] for number in range(len(texts))}
            for piece in decoder.stream(texts, strategy=strategy, max_new_tokens=24, stop=stop):
                pieces[piece.index].append(piece)
            for row, out in zip(pieces.values(), expected, strict=True):
                assert "".join(piece.text for piece in row) == out.text == row[-1].output.text
                assert [token for piece in row for token in piece.token_ids] == out.token_ids
                assert row[-1].output.finish_reason == out.finish_reason


def test_traces_are_those_of_plain_decoding() -> None:
    decoder = Decoder(EXPERT, amateur=AMATEUR)
    plain = decoder.generate(PROMPTS, max_new_tokens=10, trace=True)
    outs = decoder.generate(PROMPTS, strategy=Speculative(confidence=0.0), max_new_tokens=10, trace=True)
    for out, expected in zip(outs, plain, strict=True):
        for mine, theirs in zip(out.trace, expected.trace, strict=True):
            assert (mine.token_id, mine.head_size, mine.greedy_token_id, mine.amateur_rank) == (
                theirs.token_id, theirs.head_size, theirs.greedy_token_id, theirs.amateur_rank
            )  # fmt: skip
            assert mine.score == pytest.approx(theirs.score, abs=1e-8)


def test_rows_speculate_up_to_the_end_of_the_context() -> None:
    """Rows near a learned position table's end, beside rows that draft further."""
    expert = architectures.build("gpt2", seed=1, n_positions=32, max_position_embeddings=32)
    decoder = Decoder(expert, amateur=near(expert, 0.02))
    prompts = make_prompts(30, 4, 27, 31, 12)
    plain = decoder.generate(prompts, max_new_tokens=40)
    for draft in (None, EarlyExit(1), PromptLookup(1)):
        outs = decoder.generate(prompts, strategy=Speculative(draft=draft, tokens=6, confidence=0.0), max_new_tokens=40)
        assert tokens_of(outs) == tokens_of(plain)
        assert [len(out.prompt_token_ids) + len(out.token_ids) for out in outs] == [32] * 5


def test_a_draft_model_may_have_a_shorter_context_and_another_width() -> None:
    expert = architectures.build("qwen2", seed=1, vocab_size=97)
    plain = Decoder(expert).generate(PROMPTS, max_new_tokens=24)
    short = architectures.build("gpt2", seed=2, n_positions=12, max_position_embeddings=12)
    narrow = architectures.build("qwen2", seed=3, vocab_size=40)
    wide = architectures.build("qwen2", seed=1, vocab_size=128)
    for draft in (short, narrow, wide):
        outs = Decoder(expert).generate(PROMPTS, strategy=Speculative(draft=draft, confidence=0.0), max_new_tokens=24)
        assert tokens_of(outs) == tokens_of(plain)


def test_an_unsure_draft_ends_early() -> None:
    decoder = Decoder(EXPERT, amateur=FAR)
    sure, unsure = (
        decoder.generate(PROMPTS, Likelihood(), strategy=Speculative(tokens=6, confidence=c), max_new_tokens=20)
        for c in (0.0, 1.0)
    )
    assert tokens_of(sure) == tokens_of(unsure)
    for many, few in zip(sure, unsure, strict=True):
        assert few.speculation.drafted <= few.speculation.rounds  # one a round: nothing is certain
        assert many.speculation.drafted > 3 * few.speculation.drafted


def test_broken_drafts_cost_nothing_and_broken_experts_are_told() -> None:
    """Logits that are not numbers: a draft model that gives them proposes nothing, an expert ends the call."""
    broken = copy.deepcopy(FAR)
    broken.lm_head.weight.data.fill_(math.nan)
    plain = Decoder(EXPERT).generate(PROMPTS, max_new_tokens=8)
    for base in (Greedy(), Sample()):
        strategy = Speculative(base, draft=broken)
        outs = Decoder(EXPERT).generate(PROMPTS, strategy=strategy, max_new_tokens=8, seed=1)
        assert [out.speculation.drafted for out in outs] == [0] * 4
        if isinstance(base, Greedy):
            assert tokens_of(outs) == tokens_of(plain)
    with pytest.raises(DecodingError, match="logits of the expert are not finite"):
        Decoder(broken).generate(PROMPTS, strategy=Speculative(draft=EXPERT), max_new_tokens=8)
    with pytest.raises(DecodingError, match="logits of the amateur are not finite"):
        Decoder(EXPERT, amateur=broken).generate(PROMPTS, strategy=Speculative(), max_new_tokens=8)


def naive_distribution(prompt: list[int], scores: Any, count: int) -> dict[tuple[int, ...], float]:
    """The probability of every continuation of `count` tokens, token by token, without a cache."""
    found: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(count):
        longer = {}
        for text, weight in found.items():
            probs = scores([*prompt, *text]).softmax(-1)
            for token in probs.nonzero()[:, 0].tolist():
                longer[*text, token] = weight * float(probs[token])
        found = longer
    return found


def cut(scores: torch.Tensor, temperature: float, k: int) -> torch.Tensor:
    scores = scores / temperature
    return scores.masked_fill(scores < scores.topk(k).values[-1], -math.inf)


SAMPLED = [
    ("likelihood", Likelihood(), None, 3),
    ("likelihood", Likelihood(), OTHER, 2),
    ("likelihood", Likelihood(), EarlyExit(2), 3),
    ("likelihood", Likelihood(), PromptLookup(1), 3),
    ("contrast", Contrastive(alpha=0.02, beta=0.4), None, 3),
    ("contrast", Contrastive(alpha=0.02, beta=0.4), OTHER, 1),
    ("contrast", Contrastive(alpha=0.02, beta=0.4), PromptLookup(1), 3),
]


@pytest.mark.parametrize(("kind", "scoring", "draft", "tokens"), SAMPLED)
def test_samples_have_the_distribution_of_plain_sampling(kind: str, scoring: Any, draft: Any, tokens: int) -> None:
    """2,500 continuations of four tokens against their exact probabilities: chi-square, false-alarm rate 1e-6."""
    from scipy.stats import chisquare

    prompt = [5, 9, 5, 9, 44, 9, 5]
    temperature, k, count, total = 3.0, 3, 4, 2500

    def scores(text: list[int]) -> torch.Tensor:
        logits = oracle.last_logits(EXPERT, text)
        if kind == "contrast":
            logits = torch.tensor(
                oracle.contrastive(logits, oracle.last_logits(AMATEUR, text), alpha=0.02, beta=0.4),
                dtype=torch.float64,
            )
        return cut(logits, temperature, k)

    expected = naive_distribution(prompt, scores, count)
    outs = Decoder(EXPERT, amateur=AMATEUR).generate(
        [prompt] * total,
        scoring,
        [Temperature(temperature), TopK(k)],
        Speculative(Sample(), draft=draft, tokens=tokens, confidence=0.0),
        max_new_tokens=count,
        seed=11,
        batch_size=500,
    )
    seen = Counter(tuple(out.token_ids) for out in outs)
    assert set(seen) <= set(expected)
    common = [text for text, weight in expected.items() if weight * total >= 5]
    observed = [seen[text] for text in common]
    wanted = [expected[text] * total for text in common]
    observed.append(total - sum(observed))
    wanted.append(total - sum(wanted))
    if wanted[-1] < 5:
        observed[-2:], wanted[-2:] = [sum(observed[-2:])], [sum(wanted[-2:])]
    assert len(common) > 10
    assert chisquare(observed, wanted).pvalue > 1e-6
    counts = [out.speculation for out in outs]
    assert sum(c.accepted for c in counts) > 100
    assert sum(c.drafted - c.accepted for c in counts) > 100


def test_the_acceptance_rule_gives_p_exactly_whatever_q() -> None:
    """One position, 60,000 draws from q, verified against p: frequencies equal p (chi-square, false alarm 1e-6)."""
    from scipy.stats import chisquare

    from descant.numerics.choose import row_generator
    from descant.strategies import Draws, Proposal

    p = torch.tensor([0.5, 0.2, 0.2, 0.1, 0.0], dtype=torch.float64)
    q = torch.tensor([0.1, 0.4, 0.2, 0.0, 0.3], dtype=torch.float64)
    count = 60_000
    drafted = torch.multinomial(q, count, replacement=True, generator=torch.Generator().manual_seed(0))
    draws = Draws([row_generator(3, number) for number in range(count)], range(count), count)
    proposal = Proposal(drafted, lambda: q.log().expand(count, -1))
    tokens = Speculative(Sample()).verify(p.log().expand(count, -1), proposal, draws)
    seen = torch.bincount(tokens, minlength=5)
    assert int(seen[4]) == 0
    assert chisquare(seen[:4].tolist(), (p[:4] * count).tolist()).pvalue > 1e-6
    agreed = float((tokens == drafted).double().mean())
    assert agreed == pytest.approx(float(torch.minimum(p, q).sum()), abs=0.01)  # 1 − the total variation distance


def test_sampled_rows_do_not_depend_on_their_neighbours() -> None:
    decoder = Decoder(EXPERT, amateur=AMATEUR)
    prompts = make_prompts(5, 1, 9, 3, 7)
    common: dict[str, Any] = {
        "scoring": Contrastive(alpha=0.05), "processors": [Temperature(1.5), TopP(0.9)],
        "strategy": Speculative(Sample(), tokens=3), "max_new_tokens": 12, "seed": 3,
    }  # fmt: skip
    together = decoder.generate(prompts, **common)
    assert tokens_of(decoder.generate(prompts, batch_size=2, **common)) == tokens_of(together)
    assert tokens_of(decoder.generate(prompts, batch_size=1, **common)) == tokens_of(together)


def test_what_cannot_speculate_is_refused_at_construction() -> None:
    with pytest.raises(SettingsError, match="transformers"):
        Speculative(Sample(rng="transformers"))
    with pytest.raises(SettingsError, match="base"):
        Speculative(Speculative())
    with pytest.raises(SettingsError, match="at least 1"):
        Speculative(tokens=0)
    with pytest.raises(SettingsError, match="from 0 to 1"):
        Speculative(confidence=1.5)
    with pytest.raises(SettingsError, match="PromptLookup"):
        Decoder(EXPERT).generate(PROMPTS, strategy=Speculative())
    with pytest.raises(SettingsError, match="layer 3"):
        Decoder(EXPERT).generate(PROMPTS, strategy=Speculative(draft=EarlyExit(3)))
    with pytest.raises(SettingsError, match="draft is 3; give a model"):
        Decoder(EXPERT).generate(PROMPTS, strategy=Speculative(draft=3))
    recurrent = architectures.build("mamba", seed=1)
    for decoder, draft in (
        (Decoder(recurrent), EXPERT),
        (Decoder(EXPERT), recurrent),
        (Decoder(EXPERT, amateur=recurrent), PromptLookup(2)),
    ):
        with pytest.raises(UnsupportedModelError, match="forget rejected tokens"):
            decoder.generate(PROMPTS, strategy=Speculative(draft=draft))


def test_results_record_what_drafted() -> None:
    decoder = Decoder(EXPERT, amateur=AMATEUR)
    for draft, name in ((None, "Qwen2ForCausalLM"), (EarlyExit(1), "EarlyExit"), (PromptLookup(2), "PromptLookup")):
        out = decoder.generate(PROMPTS[:1], strategy=Speculative(draft=draft), max_new_tokens=3)[0]
        recorded = out.method["strategy"]
        assert (recorded["name"], recorded["base"]["name"], recorded["tokens"]) == ("Speculative", "Greedy", 4)
        assert recorded["draft"]["name"] == name
    assert decoder.generate(PROMPTS[:1], max_new_tokens=1)[0].speculation is None


def test_passes_are_saved_and_none_is_wasted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A round is one pass of the expert and one of the amateur for each draft, and one more only for a bonus token."""
    decoder = Decoder(EXPERT, amateur=AMATEUR)
    passes: dict[str, int] = {"expert": 0, "amateur": 0}
    for name, model in (("expert", EXPERT), ("amateur", AMATEUR)):

        def counted(*args: Any, name: str = name, forward: Any = model.model.forward, **kwargs: Any) -> Any:
            passes[name] += 1
            return forward(*args, **kwargs)

        monkeypatch.setattr(model.model, "forward", counted)
    scoring = Contrastive(alpha=0.05, beta=0.1, selective=False)
    strategy = Speculative(tokens=3, confidence=0.0)
    out = decoder.generate(PROMPTS[:1], scoring, strategy=strategy, max_new_tokens=40)[0]
    count = out.speculation
    assert passes["expert"] == count.rounds < 30
    assert passes["amateur"] <= count.drafted + count.rounds
    bonus = passes["amateur"] - count.drafted
    assert 1 <= bonus < count.rounds, "the first step, and rounds that accepted all their drafts"


def test_every_pair_of_sizes_and_rows_agrees() -> None:
    """Draft lengths against batch shapes, without anything that changes the scores."""
    decoder = Decoder(EXPERT, amateur=AMATEUR)
    prompts = make_prompts(3, 8, 1, 5, 2, 9, 4, 6)
    plain = tokens_of(decoder.generate(prompts, Contrastive(alpha=0.3), max_new_tokens=11))
    for tokens, rows in itertools.product((1, 7), (1, 3, 8)):
        strategy = Speculative(tokens=tokens, confidence=0.0)
        outs = decoder.generate(prompts, Contrastive(alpha=0.3), strategy=strategy, max_new_tokens=11, batch_size=rows)
        assert tokens_of(outs) == plain


def test_the_expert_reads_no_token_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """But those that replace rejected drafts: a pass reads what was emitted last and the new drafts."""
    read: list[int] = []
    run = RaggedModel.run

    def noting(self: RaggedModel, tokens: list[list[int]], **how: Any) -> Any:
        if self.model is EXPERT:
            read.append(sum(map(len, tokens)))
        return run(self, tokens, **how)

    monkeypatch.setattr(RaggedModel, "run", noting)
    [prompt] = make_prompts(7)
    decoder = Decoder(EXPERT, amateur=AMATEUR)
    for scoring in (Contrastive(alpha=0.3, selective=False), Likelihood()):
        read.clear()
        [out] = decoder.generate(
            [prompt], scoring, strategy=Speculative(tokens=3, confidence=0.0), max_new_tokens=24, ignore_eos=True
        )
        assert out.speculation is not None
        assert read[0] == len(prompt)
        assert sum(read[1:]) == out.speculation.drafted + len(read[1:])
