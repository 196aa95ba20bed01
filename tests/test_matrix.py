"""Every scoring × amateur × processor × strategy gives what a naive oracle gives, or is refused with a remedy.

The oracle has no cache and no batch. By default every pair of values of any two of the four is met at least once; the
heavy tests meet every combination. What the package offers and the matrix lacks fails a test of its own.
"""

import functools
import inspect
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers
from transformers import PreTrainedModel

import architectures
import descant
import oracle
from architectures import make_prompts, near
from descant import (
    AutoContrastive,
    BadWords,
    Beam,
    ContextAware,
    Contrastive,
    ContrastiveSearch,
    Decoder,
    DExperts,
    DoLa,
    EarlyExit,
    Epsilon,
    Eta,
    FrequencyPenalty,
    Greedy,
    Guidance,
    Likelihood,
    LogitBias,
    MinNewTokens,
    MinP,
    NGram,
    NoRepeatNGram,
    OtherPrompt,
    PresencePenalty,
    PromptLookup,
    ProxyTuning,
    RepetitionPenalty,
    Sample,
    Scoring,
    SettingsError,
    Speculative,
    Temperature,
    TopK,
    TopNSigma,
    TopP,
    TransformersProcessor,
    Typical,
    WhenUncertain,
    Window,
)
from descant.models import RunnerName
from descant.models.linears import narrow_head
from descant.numerics.choose import row_generator
from descant.processors import Processor
from descant.sources import Amateur
from descant.strategies import Strategy

VOCAB = 31
EOS = [4, 11, 19]
NEW = 5
WIDTH = 3
SEED = 7
PROMPTS = make_prompts(5, 1, 8, vocab=VOCAB)
BAD = [7, 8, 9, 10]
TEXTS = make_prompts(40, 30, seed=1, vocab=VOCAB)

EXPERT = architectures.build("qwen2", seed=1, num_hidden_layers=4, vocab_size=VOCAB)
EXPERT.generation_config.eos_token_id = EOS
AMATEUR = near(EXPERT, 0.05)
TUNED = near(EXPERT, 0.1, seed=1)
DRAFT = near(EXPERT, 0.03, seed=2)
SMALL = architectures.build("llama", seed=2, num_hidden_layers=1, vocab_size=VOCAB)

Text = tuple[int, ...]
Cell = tuple[str, str, str, str]
"""A scoring, an amateur, processors and a strategy, by name."""


@functools.cache
def logits(model: PreTrainedModel, text: Text) -> list[float]:
    return oracle.last_logits(model, text).tolist()


@functools.cache
def exit_after(layer: int, text: Text, *, norm: bool = True) -> list[float]:
    return oracle.early_exit(EXPERT, layer, norm=norm)(list(text)).tolist()


@dataclass(frozen=True)
class Source:
    """An amateur, and its logits after a prompt and what follows that."""

    amateur: Any
    logits: Callable[[Text, Text], list[float]]


SOURCES: dict[str, Source | None] = {
    "none": None,
    "model": Source(AMATEUR, lambda p, new: logits(AMATEUR, p + new)),
    "early exit": Source(EarlyExit(2), lambda p, new: exit_after(2, p + new)),
    "window": Source(Window(AMATEUR, 3), lambda p, new: logits(AMATEUR, (p + new)[-3:])),
    "other prompt": Source(
        OtherPrompt(lambda ids: [7, 3, *ids[-1:]]), lambda p, new: logits(EXPERT, (7, 3, *p[-1:], *new))
    ),
    "other model, other prompt": Source(OtherPrompt(BAD, SMALL), lambda p, new: logits(SMALL, (*BAD, *new))),
    "n-grams of the text": Source(NGram(3), lambda p, new: oracle.ngram(p + new, [p + new], 3, VOCAB)),
    "fitted n-grams": Source(NGram(2, TEXTS), lambda p, new: oracle.ngram(p + new, TEXTS, 2, VOCAB)),
}


@dataclass(frozen=True)
class Seen:
    """What a scoring may read after a text."""

    source: Source | None
    prompt: Text
    new: Text

    @property
    def expert(self) -> list[float]:
        return logits(EXPERT, self.prompt + self.new)

    @property
    def tuned(self) -> list[float]:
        return logits(TUNED, self.prompt + self.new)

    @property
    def other(self) -> list[float]:
        assert self.source is not None
        return self.source.logits(self.prompt, self.new)

    def early(self, *layers: int, norm: bool = True) -> list[list[float]]:
        return [exit_after(layer, self.prompt + self.new, norm=norm) for layer in layers]


@dataclass(frozen=True)
class Scored:
    """A scoring, its scores, and whether a beam adds these up as they are rather than their log-softmax."""

    scoring: Scoring
    scores: Callable[[Seen], list[float]]
    added_up: bool = False


def difference(scoring: Contrastive, **settings: Any) -> Scored:
    return Scored(scoring, lambda s: oracle.contrastive(s.expert, s.other, **settings), added_up=True)


WITHOUT_AMATEUR = {
    "likelihood": Scored(Likelihood(), lambda s: s.expert),
    "dola": Scored(DoLa((1, 2, 3)), lambda s: oracle.dola(s.expert, s.early(1, 2, 3))),
    "dola released": Scored(
        DoLa((0, 3), norm=False, divergence="released"),
        lambda s: oracle.dola(s.expert, s.early(0, 3, norm=False), released=True),
    ),
    "autocontrastive": Scored(AutoContrastive(2), lambda s: oracle.auto_contrastive(s.expert, s.early(2)[0])),
    "dola when uncertain": Scored(
        WhenUncertain(DoLa((1, 3)), 1.0),
        lambda s: oracle.dola(s.expert, s.early(1, 3)) if oracle.entropy(s.expert) > 1.0 else s.expert,
    ),
}
WITH_AMATEUR = {
    "contrastive": difference(Contrastive()),
    "contrastive, sharp": difference(
        Contrastive(0.01, amateur_temperature=0.5, candidates=6), alpha=0.01, temperature=0.5, candidates=6
    ),
    "contrastive, released": difference(
        Contrastive(0.02, amateur_temperature=1.5, normalization="released"),
        alpha=0.02,
        temperature=1.5,
        released=True,
    ),
    "contrastive, one candidate": difference(Contrastive(candidates=1), candidates=1),
    "contrastive, unselective": difference(Contrastive(0.05, selective=False), alpha=0.05),
    "contrastive, beta": Scored(
        Contrastive(0.02, beta=0.5), lambda s: oracle.contrastive(s.expert, s.other, alpha=0.02, beta=0.5)
    ),
    "context-aware": Scored(ContextAware(0.7), lambda s: oracle.context_aware(s.expert, s.other, 0.7)),
    "context-aware by divergence": Scored(
        ContextAware("divergence"), lambda s: oracle.context_aware(s.expert, s.other, "divergence")
    ),
    "context-aware by entropy": Scored(
        ContextAware("entropy"), lambda s: oracle.context_aware(s.expert, s.other, "entropy")
    ),
    "guidance": Scored(Guidance(1.7), lambda s: oracle.guidance(s.expert, s.other, 1.7)),
    "guidance when uncertain": Scored(
        WhenUncertain(Guidance(2.0), 1.0),
        lambda s: oracle.guidance(s.expert, s.other, 2.0) if oracle.entropy(s.expert) > 1.0 else s.expert,
    ),
    "contrastive when uncertain": Scored(
        WhenUncertain(Contrastive(0.02), 0.7),
        lambda s: oracle.contrastive(s.expert, s.other, alpha=0.02) if oracle.entropy(s.expert) > 0.7 else s.expert,
    ),
}
WITH_SOURCES = {
    "proxy tuning": Scored(ProxyTuning(), lambda s: oracle.steered(s.expert, s.tuned, s.other, 1.0)),
    "dexperts": Scored(DExperts(top_p=0.8), lambda s: oracle.steered(s.expert, s.tuned, s.other, 2.0, 0.8)),
}  # fmt: skip
"""What steers is a tuned model, and the amateur as the model without the tuning."""

SCORINGS = {**WITHOUT_AMATEUR, **WITH_AMATEUR, **WITH_SOURCES}


@dataclass(frozen=True)
class Processed:
    """Processors, and what does the same: made anew for each length of a prompt."""

    processors: tuple[Any, ...]
    changes: Callable[[int], tuple[oracle.Change, ...]]


def theirs(processor: Any, change: oracle.Change) -> Processed:
    return Processed((processor,), lambda prompt: (change,))


def penalty(processor: Any, amount: float, *, every_time: bool) -> Processed:
    def changes(prompt: int) -> tuple[oracle.Change, ...]:
        def change(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            values = oracle.penalised(scores[0].tolist(), ids[0, prompt:].tolist(), amount, every_time=every_time)
            return torch.tensor([values], dtype=torch.float64)

        return (change,)

    return Processed((processor,), changes)


def within_sigma(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    if bool((scores == -math.inf).all()):
        return scores
    return scores.masked_fill(scores < oracle.n_sigma_edge(scores[0].tolist(), 1.0), -math.inf)


def min_new_tokens(prompt: int) -> tuple[oracle.Change, ...]:
    return (transformers.MinNewTokensLengthLogitsProcessor(prompt, 4, torch.tensor(EOS)),)


WORDS = [[5], [17], [2, 9], [3, 3]]
BIASES = {2: 1.5, 9: -1.0, 11: 4.0, 12: -math.inf}
CHAIN = (RepetitionPenalty(1.2), NoRepeatNGram(2), Temperature(2.0), TopK(6), TopP(0.9))

PROCESSORS: dict[str, Processed] = {
    "none": Processed((), lambda prompt: ()),
    "repetition": theirs(RepetitionPenalty(1.4), transformers.RepetitionPenaltyLogitsProcessor(1.4)),
    "presence": penalty(PresencePenalty(1.5), 1.5, every_time=False),
    "frequency": penalty(FrequencyPenalty(0.9), 0.9, every_time=True),
    "no repeated token": theirs(NoRepeatNGram(1), transformers.NoRepeatNGramLogitsProcessor(1)),
    "bad words": theirs(BadWords(WORDS), oracle.bad_words(WORDS)),
    "bias": theirs(
        LogitBias(BIASES), transformers.SequenceBiasLogitsProcessor({(token,): b for token, b in BIASES.items()})
    ),
    "least length": Processed((MinNewTokens(4),), min_new_tokens),
    "temperature": theirs(Temperature(1.8), transformers.TemperatureLogitsWarper(1.8)),
    "top-k": theirs(TopK(3), transformers.TopKLogitsWarper(3)),
    "top-p": theirs(TopP(0.8), transformers.TopPLogitsWarper(0.8)),
    "min-p": theirs(MinP(0.2), transformers.MinPLogitsWarper(0.2)),
    "typical": theirs(Typical(0.6), transformers.TypicalLogitsWarper(0.6)),
    "epsilon": theirs(Epsilon(0.05), transformers.EpsilonLogitsWarper(0.05)),
    "eta": theirs(Eta(0.05), transformers.EtaLogitsWarper(0.05)),
    "top-n-sigma": theirs(TopNSigma(1.0), within_sigma),
    "of transformers": theirs(
        TransformersProcessor(transformers.NoRepeatNGramLogitsProcessor(2)),
        transformers.NoRepeatNGramLogitsProcessor(2),
    ),
    "chain": Processed(
        CHAIN,
        lambda prompt: (
            transformers.RepetitionPenaltyLogitsProcessor(1.2),
            transformers.NoRepeatNGramLogitsProcessor(2),
            transformers.TemperatureLogitsWarper(2.0),
            transformers.TopKLogitsWarper(6),
            transformers.TopPLogitsWarper(0.9),
        ),
    ),
}

AMATEUR_DRAFTS = "the amateur drafts"
BEAMS = frozenset({"beam", "drawn beams"})
STRATEGIES: dict[str, Strategy] = {
    "greedy": Greedy(),
    "sample": Sample(),
    "sample as transformers": Sample("transformers"),
    "beam": Beam(WIDTH),
    "drawn beams": Beam(WIDTH, base=Sample()),
    "contrastive search": ContrastiveSearch(3, 0.6),
    AMATEUR_DRAFTS: Speculative(tokens=3, confidence=0.0),
    "a model drafts": Speculative(draft=DRAFT, tokens=2, confidence=0.0),
    "an early exit drafts": Speculative(draft=EarlyExit(3), tokens=3, confidence=0.0),
    "the text drafts": Speculative(draft=PromptLookup(2), tokens=3),
}

DIMENSIONS: tuple[tuple[str, ...], ...] = (tuple(SCORINGS), tuple(SOURCES), tuple(PROCESSORS), tuple(STRATEGIES))


@dataclass(frozen=True)
class Refusal:
    """Combinations that cannot work, whatever the processors, and what the error must say, the remedy included."""

    scorings: frozenset[str]
    sources: frozenset[str]
    strategies: frozenset[str]
    message: str


ALL = frozenset(STRATEGIES)
REFUSALS = (
    Refusal(frozenset(WITH_AMATEUR), frozenset({"none"}), ALL, r"needs an amateur .* give Decoder\(…, amateur=…\)"),
    Refusal(frozenset(WITH_SOURCES), frozenset({"none"}), ALL, r"needs sources .* give Decoder\(…, sources="),
    Refusal(
        frozenset(WITHOUT_AMATEUR), frozenset({"none"}), frozenset({AMATEUR_DRAFTS}),
        r"this decoder has none; give draft=PromptLookup\(3\), EarlyExit\(layer\) or a model",
    ),
    Refusal(
        frozenset({*WITHOUT_AMATEUR, *WITH_SOURCES}), frozenset({"other prompt", "other model, other prompt"}),
        frozenset({AMATEUR_DRAFTS}),
        r"drafts only for a scoring that contrasts with it; give Speculative\(draft=…\): PromptLookup\(3\)",
    ),
)  # fmt: skip


def refusal(cell: Cell) -> Refusal | None:
    scoring, source, _, strategy = cell
    found = (r for r in REFUSALS if scoring in r.scorings and source in r.sources and strategy in r.strategies)
    return next(found, None)


CELLS: list[Cell] = [(a, b, c, d) for a, b, c, d in itertools.product(*DIMENSIONS)]
WORKING = [cell for cell in CELLS if refusal(cell) is None]


def pairs(cell: Cell) -> Iterator[tuple[int, str, int, str]]:
    for (i, one), (j, other) in itertools.combinations(enumerate(cell), 2):
        yield i, one, j, other


def cover() -> list[Cell]:
    """Working cells that together hold every pair of values that any working cell holds.

    Greedily: for each pair that is missing, rarest first, the cell with it that brings most other missing ones.
    """
    holding: dict[tuple[int, str, int, str], list[Cell]] = {}
    for cell in WORKING:
        for pair in pairs(cell):
            holding.setdefault(pair, []).append(cell)
    missing, chosen = set(holding), []
    for pair in sorted(holding, key=lambda pair: len(holding[pair])):
        if pair in missing:
            chosen.append(max(holding[pair], key=lambda cell: len(missing.intersection(pairs(cell)))))
            missing.difference_update(pairs(chosen[-1]))
    return chosen


COVER = cover()


@functools.cache
def decoder_of(scoring: str, source: str, runner: RunnerName = "auto") -> Decoder:
    seen = SOURCES[source]
    if seen is None:
        return Decoder(EXPERT, runner=runner)
    steering = {"tuned": TUNED, "untuned": seen.amateur, "positive": TUNED, "negative": seen.amateur}
    sources = steering if scoring in WITH_SOURCES else None
    return Decoder(EXPERT, amateur=seen.amateur, sources=sources, runner=runner)


@functools.cache
def raw_scores(scoring: str, source: str, prompt: Text, new: Text) -> list[float]:
    return SCORINGS[scoring].scores(Seen(SOURCES[source], prompt, new))


def score_of(cell: Cell, prompt: list[int]) -> oracle.Score:
    """The scores that a cell's strategy chooses from: in a beam search, log-probabilities where logits would be."""
    scoring, source, processors, strategy = cell
    changes = PROCESSORS[processors].changes(len(prompt))
    beam = strategy in BEAMS

    def score(text: list[int]) -> list[float]:
        raw, expert = (
            raw_scores(scoring, source, tuple(prompt), tuple(text[len(prompt) :])),
            logits(EXPERT, tuple(text)),
        )
        if beam and not SCORINGS[scoring].added_up:
            raw = oracle.log_softmax(raw)
        return oracle.processed(raw, oracle.log_softmax(expert) if beam else expert, changes, text)

    return score


def hidden_states(text: list[int]) -> torch.Tensor:
    return known_states(tuple(text))


@functools.cache
def known_states(text: Text) -> torch.Tensor:
    return oracle.hidden_states(EXPERT, text)


def drawn(generator: torch.Generator, totals: list[float], count: int) -> list[int]:
    """Draw places without replacement, each as probable as the softmax of the totals has it."""
    weights = torch.tensor(totals, dtype=torch.float32).softmax(-1)
    return torch.multinomial(weights, min(count, len(weights)), generator=generator).tolist()


def check_cell(cell: Cell, runner: RunnerName = "auto") -> None:
    scoring, source, processors, strategy = cell
    outs = decoder_of(scoring, source, runner).generate(
        PROMPTS, SCORINGS[scoring].scoring, PROCESSORS[processors].processors, STRATEGIES[strategy], NEW, seed=SEED
    )
    scores = [score_of(cell, prompt) for prompt in PROMPTS]
    if strategy == "sample as transformers":
        torch.manual_seed(SEED)
        together = oracle.sample_as_transformers(PROMPTS, scores, NEW, EOS)
    for index, (prompt, out, score) in enumerate(zip(PROMPTS, outs, scores, strict=True)):
        generator = row_generator(SEED, index)
        if strategy in BEAMS:
            draw = functools.partial(drawn, generator) if strategy == "drawn beams" else None
            found = [(each.token_ids, each.score) for each in (out, *out.alternatives)]
            expected = oracle.search(prompt, score, WIDTH, NEW, EOS, draw=draw)
            assert [tokens for tokens, _ in found] == [tokens for tokens, _ in expected]
            exact = 1e-8 if draw is None else 1e-5  # drawn in float32, as by transformers
            assert [total for _, total in found] == pytest.approx([total for _, total in expected], abs=exact)
            continue
        if strategy == "sample as transformers":
            expected_ids = together[index]
        elif strategy == "contrastive search":
            expected_ids = oracle.contrastive_search(prompt, score, hidden_states, 3, 0.6, NEW, EOS)
        elif strategy == "sample":
            uniform = functools.partial(torch.rand, (), generator=generator, dtype=torch.float64)
            expected_ids = oracle.sample(prompt, score, lambda draw=uniform: float(draw()), NEW, EOS)
        else:
            expected_ids = oracle.greedy(prompt, score, NEW, EOS)
        assert out.token_ids == expected_ids
        texts = [prompt + expected_ids[:place] for place in range(len(expected_ids))]
        logprobs = [oracle.log_softmax(score(text))[token] for text, token in zip(texts, expected_ids, strict=True)]
        assert out.logprobs == pytest.approx(logprobs, abs=1e-8)
        assert out.finish_reason == ("stop" if expected_ids[-1] in EOS else "length")


@pytest.mark.parametrize("cell", COVER, ids=", ".join)
def test_pairs_of_parts_give_what_the_oracle_gives(cell: Cell) -> None:
    check_cell(cell)


@pytest.mark.heavy
@pytest.mark.usefixtures("unchecked_types")  # other tests check them; here it would take most of the time
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("scoring", SCORINGS)
def test_every_combination_gives_what_the_oracle_gives(scoring: str, source: str) -> None:
    for cell in WORKING:
        if cell[:2] == (scoring, source):
            check_cell(cell)


NARROW = [name for name, scored in SCORINGS.items() if scored.scoring.needed(torch.zeros(1, 2)) is not None]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("scoring", NARROW)
def test_narrowed_heads_give_what_the_oracle_gives(
    scoring: str, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(narrow_head, "_LARGE", 0)
    monkeypatch.setattr(narrow_head, "_FEW", 1)
    every = list(PROCESSORS)
    place = NARROW.index(scoring) + list(STRATEGIES).index(strategy)
    for processors in ("none", every[place % len(every)], every[(7 * place) % len(every)]):
        if refusal(cell := (scoring, "model", processors, strategy)) is None:
            check_cell(cell)


@pytest.mark.parametrize("refused", REFUSALS, ids=lambda refused: refused.message)
def test_what_cannot_work_is_refused_before_the_first_token_with_a_remedy(refused: Refusal) -> None:
    for cell in CELLS:
        scoring, source, processors, strategy = cell
        if processors == "chain" and refusal(cell) is refused:
            decoder = decoder_of(scoring, source)
            with pytest.raises(SettingsError, match=refused.message):
                decoder.stream(PROMPTS, SCORINGS[scoring].scoring, CHAIN, STRATEGIES[strategy])


def test_the_cover_holds_every_pair_of_values() -> None:
    assert set(COVER) <= set(WORKING)
    for i, j in itertools.combinations(range(4), 2):
        assert {(cell[i], cell[j]) for cell in COVER} == {(cell[i], cell[j]) for cell in WORKING}
    for i, values in enumerate(DIMENSIONS):
        assert {cell[i] for cell in COVER} == set(values)


ELSEWHERE = {descant.OtherTokenizer}
"""What has an oracle of its own, in `test_bridge.py`: it looks at bytes, which the matrix's oracle does not have."""


def offered(kind: type) -> set[type]:
    """What the package offers of a kind."""
    every = [getattr(descant, name) for name in descant.__all__]
    return {each for each in every if inspect.isclass(each) and issubclass(each, kind) and not inspect.isabstract(each)}


def test_the_matrix_lacks_nothing_that_the_package_offers() -> None:
    assert {type(each.scoring) for each in SCORINGS.values()} == offered(Scoring)
    assert {type(each) for value in PROCESSORS.values() for each in value.processors} == offered(Processor)
    assert {type(each) for each in STRATEGIES.values()} == offered(Strategy)
    amateurs = [source.amateur for source in SOURCES.values() if source is not None]
    for kind in {PreTrainedModel, *offered(Amateur)} - ELSEWHERE:
        assert any(isinstance(amateur, kind) for amateur in amateurs), kind


@pytest.mark.usefixtures("unchecked_types")
def test_every_value_changes_what_is_written() -> None:
    """Else its cells would hold whatever it did."""

    def written(scoring: str, source: str, processors: str) -> list[Any]:
        outs = decoder_of(scoring, source).generate(
            PROMPTS, SCORINGS[scoring].scoring, PROCESSORS[processors].processors, Sample(), 2 * NEW, seed=SEED
        )
        return [(out.token_ids, out.logprobs) for out in outs]

    for values in (
        [written(scoring, "model", "none") for scoring in SCORINGS],
        [written("guidance", source, "none") for source in SOURCES if source != "none"],
        [written("likelihood", "none", processors) for processors in PROCESSORS],
    ):
        for one, other in itertools.combinations(values, 2):
            assert one != other
