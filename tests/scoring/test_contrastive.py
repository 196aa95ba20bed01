"""Contrastive scores against a recomputation in plain Python, and the cases at the formulas' edges."""

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import Tensor
from transformers import MinPLogitsWarper

from descant import SettingsError
from descant.numerics import wide
from descant.scoring import Contrastive, Likelihood

INF = math.inf


def log_softmax(logits: list[float]) -> list[float]:
    best = max(logits)
    total = best + math.log(math.fsum(math.exp(x - best) for x in logits))
    return [x - total for x in logits]


def naive(scoring: Contrastive, expert: list[float], amateur: list[float]) -> list[float]:
    """One position, by the formulas of the papers."""
    tau, alpha = scoring.amateur_temperature, scoring.alpha
    if scoring.beta is None:
        log_expert = log_softmax(expert)
        if scoring.normalization == "renormalized":
            log_amateur = log_softmax([x / tau for x in amateur])
        else:
            log_amateur = [x / tau for x in log_softmax(amateur)]
        scores = [e - a for e, a in zip(log_expert, log_amateur, strict=True)]
    else:
        scores = [(1 + scoring.beta) * e - scoring.beta * a / tau for e, a in zip(expert, amateur, strict=True)]
    best_first = sorted(expert, reverse=True)
    head = [math.exp(x) >= alpha * math.exp(best_first[0]) for x in expert]
    head = [h or x >= best_first[: scoring.min_tokens_to_keep][-1] for h, x in zip(head, expert, strict=True)]
    if scoring.candidates is not None:
        head = [h and x >= best_first[: scoring.candidates][-1] for h, x in zip(head, expert, strict=True)]
    return [s if h and x > -INF else -INF for s, h, x in zip(scores, head, expert, strict=True)]


def logits(seed: int, *shape: int, dtype: torch.dtype = torch.float64, scale: float = 1.5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(shape, generator=generator, dtype=dtype) * scale,
        torch.randn(shape, generator=generator, dtype=dtype) * scale,
    )


def scored(scoring: Contrastive, expert: Tensor, amateur: Tensor) -> Tensor:
    return scoring({"expert": expert, "amateur": amateur})


settings = st.one_of(
    st.builds(
        Contrastive,
        alpha=st.sampled_from([1e-6, 0.01, 0.1, 0.5, 1.0]),
        amateur_temperature=st.sampled_from([0.25, 1.0, 2.0]),
        normalization=st.sampled_from(["renormalized", "released"]),
        candidates=st.sampled_from([None, 4, 50]),
        min_tokens_to_keep=st.integers(1, 4),
    ),
    st.builds(
        Contrastive,
        alpha=st.sampled_from([1e-6, 0.1, 1.0]),
        beta=st.sampled_from([0.0, 0.5, 3.0]),
        amateur_temperature=st.sampled_from([0.25, 1.0, 2.0]),
        candidates=st.sampled_from([None, 4]),
        min_tokens_to_keep=st.integers(1, 4),
    ),
)


@given(
    scoring=settings,
    seed=st.integers(0, 2**32),
    vocab=st.integers(1, 12),
    forbidden=st.sampled_from([0.0, 0.4, 1.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_scores_are_those_of_the_papers(
    scoring: Contrastive, seed: int, vocab: int, forbidden: float, dtype: torch.dtype
) -> None:
    expert, amateur = logits(seed, 2, 3, vocab, dtype=dtype)
    ban = torch.rand(expert.shape, generator=torch.Generator().manual_seed(seed)) < forbidden
    ban[..., 0] = False
    expert = expert.masked_fill(ban, -INF)
    if seed % 3 == 0:
        expert = expert.round()  # ties
    before = expert.clone(), amateur.clone()
    result = scored(scoring, expert, amateur)
    rows = zip(expert.reshape(-1, vocab).tolist(), amateur.reshape(-1, vocab).tolist(), strict=True)
    expected = torch.tensor([naive(scoring, e, a) for e, a in rows], dtype=dtype).view(expert.shape)
    assert result.dtype == dtype
    torch.testing.assert_close(result, expected)
    head = expected > -INF
    assert torch.equal(replace(scoring, selective=False).needed(expert), head)
    assert torch.equal(scoring.needed(expert), head & (head.sum(-1, keepdim=True) > 1))
    assert torch.equal(expert, before[0])
    assert torch.equal(amateur, before[1])


def test_an_example_by_hand() -> None:
    expert = torch.tensor([[0.5, 0.25, 0.2, 0.05]], dtype=torch.float64).log()
    amateur = torch.tensor([[0.5, 0.125, 0.05, 0.325]], dtype=torch.float64).log()
    result = scored(Contrastive(alpha=0.2), expert + 7, amateur - 3)
    torch.testing.assert_close(result.exp(), torch.tensor([[1.0, 2.0, 4.0, 0.0]], dtype=torch.float64))
    assert Contrastive(alpha=0.2).needed(expert).tolist() == [[True, True, True, False]]
    assert Contrastive(alpha=0.6).needed(expert).tolist() == [[False] * 4]
    cut = scored(Contrastive(alpha=0.2, candidates=2), expert, amateur)
    assert (cut > -INF).tolist() == [[True, True, False, False]]


@given(seed=st.integers(0, 2**32), alpha=st.sampled_from([0.03, 0.1, 0.6]))
def test_beta_zero_is_min_p(seed: int, alpha: float) -> None:
    expert, amateur = logits(seed, 4, 30)
    expected = MinPLogitsWarper(alpha)(torch.zeros(4, 0), expert)
    assert torch.equal(scored(Contrastive(alpha=alpha, beta=0.0), expert, amateur), expected)


@given(seed=st.integers(0, 2**32), tau=st.sampled_from([0.3, 0.9, 4.0]))
def test_where_the_temperature_acts_moves_scores_but_not_their_order(seed: int, tau: float) -> None:
    expert, amateur = logits(seed, 4, 30)
    paper = scored(Contrastive(amateur_temperature=tau), expert, amateur)
    released = scored(Contrastive(amateur_temperature=tau, normalization="released"), expert, amateur)
    assert torch.equal(paper.argmax(-1), released.argmax(-1))
    head = paper > -INF
    moved = (released - paper).masked_fill(~head, 0)
    shift = moved.sum(-1, keepdim=True) / head.sum(-1, keepdim=True)
    assert (shift.abs() > 1e-3).all()
    torch.testing.assert_close(moved, shift.masked_fill(~head, 0).expand_as(moved))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(scoring=settings, seed=st.integers(0, 2**32), scale=st.sampled_from([0.1, 1.0, 4.0]))
@examples(max_examples=40)
def test_small_heads_of_wide_batches_are_scored_alone(
    dtype: torch.dtype, scoring: Contrastive, seed: int, scale: float
) -> None:
    expert, amateur = logits(seed, 3, 4, 10_000, dtype=dtype, scale=scale)
    amateur[0, 0, :50] = -INF
    expert[0, 1, :50] = -INF
    expert[0, 2, -1] = 99.0  # the last token, in no whole block
    for source, position, value in ((expert, 0, math.nan), (amateur, 1, math.nan), (expert, 2, INF)):
        if seed % 2:
            source[1, position, 700] = value
    before = expert.clone(), amateur.clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wide, "_WIDE", 10**9)
        whole = scored(scoring, expert, amateur)
    parted = scored(scoring, expert, amateur)
    strided = scored(scoring, expert.transpose(0, 1), amateur.transpose(0, 1))
    torch.testing.assert_close(parted, whole, equal_nan=True)
    assert torch.equal(parted == -INF, whole == -INF)
    torch.testing.assert_close(strided.transpose(0, 1), parted, rtol=0, atol=0, equal_nan=True)
    alone = scored(scoring, expert[0, 3], amateur[0, 3])
    torch.testing.assert_close(alone, parted[0, 3], rtol=0, atol=0, equal_nan=True)
    for source, untouched in zip((expert, amateur), before, strict=True):
        torch.testing.assert_close(source, untouched, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "scoring",
    [
        Contrastive(),
        Contrastive(amateur_temperature=0.1),
        Contrastive(amateur_temperature=0.1, normalization="released"),
        Contrastive(beta=0.5),
        Contrastive(beta=0.0),
        Contrastive(beta=1.0, amateur_temperature=0.1),
    ],
    ids=repr,
)
def test_tokens_the_amateur_rules_out(scoring: Contrastive, dtype: torch.dtype) -> None:
    """They win over all others, the expert decides between two of them, and everything stays finite."""
    expert = torch.tensor([[0.2, 0.5, 0.3, 0.0, -4.0]], dtype=dtype)
    amateur = torch.tensor([[-INF, 1.0, -INF, 0.5, -INF]], dtype=dtype)
    result = scored(scoring, expert, amateur)
    assert (result > -INF).tolist() == [[True, True, True, True, False]]
    assert result[:, :4].isfinite().all()
    assert result.argmax(-1).tolist() == [1 if scoring.beta == 0 else 2]
    assert (result / 1e-3).softmax(-1).isfinite().all()


@pytest.mark.parametrize("scoring", [Contrastive(), Contrastive(beta=0.5), Contrastive(beta=0.0)], ids=repr)
@pytest.mark.parametrize("candidates", [None, 3])
def test_nan_shows_at_its_position_alone(scoring: Contrastive, candidates: int | None) -> None:
    scoring = Contrastive(beta=scoring.beta, candidates=candidates, min_tokens_to_keep=2)
    expert, amateur = logits(3, 3, 2, 20)
    whole = scored(scoring, expert, amateur)
    worst = int(expert[1, 0].argmin())  # out of the head, where it could hide
    for source in (expert, amateur):
        kept = float(source[1, 0, worst])
        source[1, 0, worst] = math.nan
        result = scored(scoring, expert, amateur)
        broken = result.isnan().any(-1)
        assert broken.tolist() == [[False, False], [True, False], [False, False]]
        assert result[1, 0].logsumexp(-1).isnan()
        assert torch.equal(result[~broken], whole[~broken])
        assert scoring.needed(expert).any(-1).all()
        source[1, 0, worst] = kept


def test_a_settled_position_leaves_the_experts_best_token() -> None:
    expert, amateur = logits(5, 200, 40, scale=3.0)
    scoring = Contrastive(alpha=0.3)
    settled = ~scoring.needed(expert).any(-1)
    assert 10 < settled.sum() < 190
    scores = scored(scoring, expert, amateur)
    assert ((scores > -INF).sum(-1) == 1).equal(settled)
    assert torch.equal(scores.argmax(-1)[settled], expert.argmax(-1)[settled])


def test_likelihood_is_the_experts_logits() -> None:
    expert, _ = logits(0, 2, 5)
    assert Likelihood()({"expert": expert}) is expert


def test_settings() -> None:
    assert Contrastive.sources == ("expert", "amateur")
    scoring = Contrastive(0.2, 0.5, candidates=9)
    assert eval(repr(scoring)) == scoring
    assert hash(Contrastive()) == hash(Contrastive(alpha=0.1))


NUMBERS = ["alpha", "beta", "amateur_temperature"]
NO_NUMBERS = ["x", True, [1], 1j, torch.ones(2, 2)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 0.0}, r"Contrastive\.alpha is 0\.0; use a number above 0 and at most 1"),
        ({"alpha": 1.1}, r"Contrastive\.alpha is 1\.1"),
        ({"alpha": math.nan}, r"Contrastive\.alpha is nan"),
        ({"beta": -0.5}, r"Contrastive\.beta is -0\.5; use a number from 0"),
        ({"beta": INF}, r"Contrastive\.beta is inf"),
        ({"amateur_temperature": 0.0}, r"Contrastive\.amateur_temperature is 0\.0; use a number above 0"),
        ({"amateur_temperature": math.nan}, r"Contrastive\.amateur_temperature is nan"),
        ({"candidates": 0}, r"Contrastive\.candidates is 0; use at least min_tokens_to_keep=1"),
        ({"candidates": 2, "min_tokens_to_keep": 3}, r"Contrastive\.candidates is 2; use at least"),
        ({"min_tokens_to_keep": 0}, r"Contrastive\.min_tokens_to_keep is 0; keep at least 1 token"),
        ({"beta": 0.5, "normalization": "released"}, r"normalization is 'released'; but the β form"),
        ({"normalization": "paper"}, r'normalization is \'paper\'; use "renormalized", "released" or "none"'),
        *(({name: value}, rf"Contrastive\.{name} is .*; use a number") for name in NUMBERS for value in NO_NUMBERS),
        ({"alpha": None}, r"Contrastive\.alpha is None"),
        ({"alpha": 10**400}, r"Contrastive\.alpha is 1000"),
        ({"candidates": 2.5}, r"Contrastive\.candidates is 2\.5; use at least"),
        ({"candidates": True}, r"Contrastive\.candidates is True; use at least"),
        ({"min_tokens_to_keep": 1.5}, r"Contrastive\.min_tokens_to_keep is 1\.5; keep at least 1 token"),
        ({"min_tokens_to_keep": None}, r"Contrastive\.min_tokens_to_keep is None; keep at least 1 token"),
        ({"selective": "no"}, r"Contrastive\.selective is 'no'; give True or False"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_settings_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        Contrastive(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("unchecked_types")
def test_settings_are_kept_in_their_plain_types() -> None:
    given: dict[str, Any] = {"alpha": Fraction(1, 2), "beta": np.float32(1), "candidates": np.int64(7)}
    scoring = Contrastive(**given, amateur_temperature=2)
    assert scoring == Contrastive(0.5, 1.0, 2.0, 7)
    assert repr(scoring) == repr(Contrastive(0.5, 1.0, 2.0, 7))
