"""The contrastive family's formulas against plain Python, and the cases at their edges."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import oracle
from descant import (
    AutoContrastive,
    ContextAware,
    Contrastive,
    DExperts,
    DoLa,
    Guidance,
    Likelihood,
    ProxyTuning,
    SettingsError,
    WhenUncertain,
)
from descant.scoring import Scoring

INF = math.inf

CASES: dict[str, tuple[Scoring, Callable[..., list[float]]]] = {
    "dola": (DoLa((0, 2, 5)), lambda e, *early: oracle.dola(e, early)),
    "dola released": (
        DoLa((0, 2, 5), alpha=0.01, divergence="released"),
        lambda e, *early: oracle.dola(e, early, alpha=0.01, released=True),
    ),
    "dola of one layer": (DoLa([3]), lambda e, *early: oracle.dola(e, early)),
    "autocontrastive": (AutoContrastive(2), oracle.auto_contrastive),
    "context-aware": (ContextAware(0.7), lambda e, a: oracle.context_aware(e, a, 0.7)),
    "adacad": (ContextAware("divergence"), lambda e, a: oracle.context_aware(e, a, "divergence")),
    "acd": (ContextAware("entropy"), lambda e, a: oracle.context_aware(e, a, "entropy")),
    "guidance": (Guidance(1.8), lambda e, a: oracle.guidance(e, a, 1.8)),
    "guidance by the amateur alone": (Guidance(0.0), lambda e, a: oracle.guidance(e, a, 0.0)),
    "proxy tuning": (ProxyTuning(1.3), lambda e, plus, minus: oracle.steered(e, plus, minus, 1.3)),
    "dexperts": (DExperts(), lambda e, plus, minus: oracle.steered(e, plus, minus, 2.0, 0.9)),
    "dexperts, all tokens": (DExperts(3.2, 1.0), lambda e, plus, minus: oracle.steered(e, plus, minus, 3.2)),
    "guidance when uncertain": (
        WhenUncertain(Guidance(2.0), 1.6),
        lambda e, a: oracle.guidance(e, a, 2.0) if oracle.entropy(e) > 1.6 else e,
    ),
}


def draw(scoring: Scoring, seed: int, vocab: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: 1.5 * torch.randn(2, 3, vocab, generator=generator, dtype=dtype) for name in scoring.sources}


@pytest.mark.parametrize("case", CASES)
@given(seed=st.integers(0, 2**32), vocab=st.integers(2, 12))
def test_scores_are_those_of_the_papers(case: str, seed: int, vocab: int) -> None:
    scoring, naive = CASES[case]
    logits = draw(scoring, seed, vocab)
    before = {name: values.clone() for name, values in logits.items()}
    result = scoring(logits)
    rows = zip(*(values.view(-1, vocab).tolist() for values in logits.values()), strict=True)
    expected = torch.tensor([naive(*row) for row in rows], dtype=torch.float64).view(2, 3, vocab)
    torch.testing.assert_close(result, expected)
    assert all(torch.equal(values, before[name]) for name, values in logits.items())
    assert eval(repr(scoring)) == scoring
    assert hash(scoring) == hash(eval(repr(scoring)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CASES)
def test_what_a_source_rules_out_and_what_the_expert_forbids(case: str, dtype: torch.dtype) -> None:
    """Scores stay finite where another source has −inf, and are −inf where the expert has."""
    scoring, _ = CASES[case]
    logits = draw(scoring, 3, 9, dtype)
    for name, values in logits.items():
        values[..., 4 if name == "expert" else 5] = -INF
    result = scoring(logits)
    assert (result[..., 4] == -INF).all()
    assert not result.isnan().any()
    assert (result < INF).all()
    assert result.dtype == dtype


@pytest.mark.parametrize("case", CASES)
def test_nan_shows_at_its_position_alone(case: str) -> None:
    scoring, _ = CASES[case]
    logits = draw(scoring, 5, 9)
    if isinstance(scoring, WhenUncertain):
        logits["expert"][1, 0] = 0.0
    whole = scoring(logits)
    for values in logits.values():
        kept = float(values[1, 0, 2])
        values[1, 0, 2] = math.nan
        result = scoring(logits)
        assert result[1, 0].logsumexp(-1).isnan()
        assert torch.equal(result[0], whole[0])
        assert torch.equal(result[1, 1:], whole[1, 1:])
        values[1, 0, 2] = kept


@pytest.mark.parametrize(
    ("layers", "tied", "depth", "expected"),
    [
        ("high", False, 8, (4, 6)),
        ("low", False, 8, (0, 2)),
        ("low", True, 8, (2,)),
        ("high", True, 8, (4, 6)),
        ("low", True, 12, (2, 4)),
        ("high", False, 40, tuple(range(20, 40, 2))),
        ("high", False, 41, tuple(range(21, 41, 2))),
        ("low", False, 60, tuple(range(0, 20, 2))),
        ("low", True, 60, tuple(range(2, 20, 2))),
        ("low", True, 2, (1,)),
        ("low", True, 4, (2,)),
        ("low", False, 1, (0,)),
        ((5, 3, 3), True, 8, (3, 5)),
    ],
)
def test_buckets_of_layers(layers: Any, tied: bool, depth: int, expected: tuple[int, ...]) -> None:
    scoring = DoLa(layers).for_models(depth, tied=tied)
    assert scoring.layers == expected
    assert scoring.sources == ("expert", *(f"layer {layer}" for layer in expected))


@pytest.mark.parametrize(("layers", "tied", "depth"), [((8,), False, 8), ("low", True, 3), ((2, 9), True, 9)])
def test_layers_that_an_expert_lacks_are_refused(layers: Any, tied: bool, depth: int) -> None:
    with pytest.raises(SettingsError, match=f"choose of 0 to {depth - 1}"):
        DoLa(layers).for_models(depth, tied=tied)


def test_half_of_the_layers_is_the_default_amateur() -> None:
    assert AutoContrastive().for_models(9, tied=True) == AutoContrastive(4)
    with pytest.raises(SettingsError, match="0 to 3"):
        AutoContrastive(4).for_models(4, tied=False)


def test_contrast_waits_for_uncertainty() -> None:
    """Where the expert is certain it is alone, and what it says then is what the whole scoring says."""
    inner = Contrastive(0.3)
    scoring = WhenUncertain(inner, 1.0)
    generator = torch.Generator().manual_seed(0)
    expert, amateur = (2.5 * torch.randn(200, 12, generator=generator, dtype=torch.float64) for _ in range(2))
    needed = scoring.needed(expert)
    settled = ~needed.any(-1)
    whole = scoring({"expert": expert, "amateur": amateur})
    certain = torch.tensor([oracle.entropy(row) <= 1.0 for row in expert.tolist()])
    assert 20 < certain.sum() < settled.sum() < 200
    assert torch.equal(whole[certain], expert[certain])
    assert torch.equal(whole[~certain], inner({"expert": expert, "amateur": amateur})[~certain])
    ignoring = scoring({"expert": expert, "amateur": torch.where(needed, amateur, -9.0)})
    assert torch.equal(ignoring[certain], whole[certain])
    torch.testing.assert_close(ignoring.softmax(-1), whole.softmax(-1))
    assert torch.equal(scoring.needed(expert, exactly=True), ~certain[:, None].expand(expert.shape))
    assert scoring.sources == inner.sources
    deep = WhenUncertain(DoLa("low"), 1.0).for_models(8, tied=False)
    assert deep.exits == {"layer 0": (0, True), "layer 2": (2, True)}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DoLa("middle"), r'DoLa.layers is .middle.; give "high"'),
        (lambda: DoLa(()), r"DoLa.layers is \(\)"),
        (lambda: DoLa([-1]), "DoLa.layers is -1"),
        (lambda: DoLa(alpha=0.0), r"DoLa.alpha is 0.0; use a number above 0"),
        (lambda: DoLa(norm=1), "DoLa.norm is 1"),
        (lambda: DoLa(divergence="kl"), "DoLa.divergence is 'kl'"),
        (lambda: AutoContrastive(-1), "AutoContrastive.layer is -1"),
        (lambda: AutoContrastive(alpha=2), "AutoContrastive.alpha is 2"),
        (lambda: ContextAware(-0.1), "ContextAware.alpha is -0.1"),
        (lambda: ContextAware("jsd"), "ContextAware.alpha is 'jsd'"),
        (lambda: Guidance(math.nan), "Guidance.scale is nan"),
        (lambda: ProxyTuning(-1), "ProxyTuning.alpha is -1"),
        (lambda: DExperts(alpha=INF), "DExperts.alpha is inf"),
        (lambda: DExperts(top_p=0), "DExperts.top_p is 0"),
        (lambda: WhenUncertain("x", 1.0), "WhenUncertain.scoring is 'x'"),
        (lambda: WhenUncertain(Likelihood(), -1.0), "WhenUncertain.threshold is -1.0"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_settings_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make()
