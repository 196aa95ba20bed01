"""Decoding methods by the name of the paper that brought them: each one entry, each a composition of parts.

>>> from descant import Decoder
>>> from descant.presets import preset
>>> outputs = Decoder.demo().generate("…", **preset("top-p").arguments)  # doctest: +SKIP
"""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

from descant.errors import SettingsError
from descant.processors import Epsilon, Eta, MinP, TopK, TopNSigma, TopP, Typical
from descant.processors.base import Processor
from descant.scoring import (
    AutoContrastive,
    ContextAware,
    Contrastive,
    DExperts,
    DoLa,
    Guidance,
    Likelihood,
    ProxyTuning,
    Scoring,
    WhenUncertain,
)
from descant.strategies import Beam, ContrastiveSearch, Greedy, PromptLookup, Sample, Speculative, Strategy

_LIKELIHOOD = Likelihood()
_GREEDY = Greedy()
_TYPICAL_DEPTH = 32


@dataclass(frozen=True)
class Preset:
    """A decoding method under its usual name.

    Attributes
    ----------
    name
        As `--method` takes it.
    summary
        What it does, in a few words.
    paper
        Where it was proposed; None for common knowledge.
    scoring, processors, strategy
        Its parts, with the defaults of the paper where it has any.
    """

    name: str
    summary: str
    paper: str | None = None
    scoring: Scoring = _LIKELIHOOD
    processors: tuple[Processor, ...] = ()
    strategy: Strategy = _GREEDY

    @property
    def arguments(self) -> dict[str, Any]:
        """The parts as keyword arguments of `Decoder.generate`."""
        return {"scoring": self.scoring, "processors": self.processors, "strategy": self.strategy}

    @property
    def cost(self) -> str:
        """What a token costs in forward passes, by the sources that make them; layers are read by the head alone."""
        layers = self.scoring.for_models(_TYPICAL_DEPTH, tied=False).exits
        models = [name for name in self.scoring.sources[1:] if name not in layers]
        expert = "expert + head × layers" if layers else "expert"
        drafting = self.strategy.drafting
        if drafting is not None and drafting.by_amateur and "amateur" not in models:
            models = ["amateur", *models]
        return " + ".join([self.strategy.cost(expert), *models])


def _sampling(name: str, summary: str, paper: str | None, *processors: Processor) -> Preset:
    return Preset(name, summary, paper, processors=processors, strategy=Sample())


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            Preset("greedy", "the expert's most probable token"),
            _sampling("sample", "any token, as probable as it is", None),
            Preset(
                "contrastive",
                "what the expert likes and the amateur does not",
                "https://arxiv.org/abs/2210.15097",
                Contrastive(alpha=0.1),
            ),
            Preset(
                "contrastive-beta",
                "the best by (1+β)·expert − β·amateur",
                "https://arxiv.org/abs/2309.09117",
                Contrastive(alpha=0.1, beta=0.5),
            ),
            Preset(
                "dola-high",
                "what the last layer adds to the upper ones",
                "https://arxiv.org/abs/2309.03883",
                DoLa("high"),
            ),
            Preset(
                "dola-low",
                "what the last layer adds to the lower ones",
                "https://arxiv.org/abs/2309.03883",
                DoLa("low"),
            ),
            Preset(
                "auto-contrastive",
                "what the last layer adds to the middle one",
                "https://arxiv.org/abs/2305.01628",
                AutoContrastive(),
            ),
            Preset(
                "context-aware",
                "what the context adds: the amateur lacks it",
                "https://arxiv.org/abs/2305.14739",
                ContextAware(0.5),
            ),
            Preset(
                "adacad",
                "the same, more where the context contradicts",
                "https://arxiv.org/abs/2409.07394",
                ContextAware("divergence"),
            ),
            Preset(
                "acd",
                "the same, more where the context leaves it sure",
                "https://arxiv.org/abs/2408.01084",
                ContextAware("entropy"),
            ),
            Preset(
                "guidance",
                "away from the amateur's other prompt",
                "https://arxiv.org/abs/2306.17806",
                Guidance(1.5),
            ),
            Preset(
                "selective-guidance",
                "guidance where the expert's entropy is high",
                "https://arxiv.org/abs/2510.13940",
                WhenUncertain(Guidance(1.5), 1.0),
            ),
            Preset(
                "proxy-tuning",
                "plus what tuning did to a small model",
                "https://arxiv.org/abs/2401.08565",
                ProxyTuning(1.0),
            ),
            Preset(
                "dexperts",
                "towards a positive model, away from a negative one",
                "https://arxiv.org/abs/2105.03023",
                DExperts(2.0),
                strategy=Sample(),
            ),
            Preset(
                "speculative",
                "greedy, drafted by the amateur",
                "https://arxiv.org/abs/2211.17192",
                strategy=Speculative(),
            ),
            Preset(
                "speculative-contrastive",
                "contrastive, drafted by its amateur",
                "https://arxiv.org/abs/2311.08981",
                Contrastive(alpha=0.1),
                strategy=Speculative(),
            ),
            Preset(
                "prompt-lookup",
                "greedy, drafted from the text itself",
                "https://arxiv.org/abs/2304.04487",
                strategy=Speculative(draft=PromptLookup()),
            ),
            Preset("beam", "the best of 4 sequences by total score", strategy=Beam(4)),
            Preset(
                "diverse-beam",
                "beams in groups that differ",
                "https://arxiv.org/abs/1610.02424",
                strategy=Beam(4, groups=4, diversity=0.5),
            ),
            Preset(
                "contrastive-beam",
                "the sequence of the best total contrast",
                "https://arxiv.org/abs/2210.15097",
                Contrastive(alpha=0.1),
                strategy=Beam(5),
            ),
            Preset(
                "contrastive-search",
                "what is probable and unlike the text so far",
                "https://arxiv.org/abs/2202.06417",
                strategy=ContrastiveSearch(),
            ),
            _sampling("top-k", "among the k most probable", "https://arxiv.org/abs/1805.04833", TopK(50)),
            _sampling("top-p", "in the smallest set of mass p", "https://arxiv.org/abs/1904.09751", TopP(0.95)),
            _sampling(
                "min-p",
                "p times as probable as the best",
                "https://arxiv.org/abs/2407.01082",
                MinP(0.1),
            ),
            _sampling(
                "typical",
                "about as surprising as expected",
                "https://arxiv.org/abs/2202.00666",
                Typical(0.95),
            ),
            _sampling("epsilon", "more probable than ε", "https://arxiv.org/abs/2210.15191", Epsilon(3e-4)),
            _sampling(
                "eta",
                "the same, less where entropy is high",
                "https://arxiv.org/abs/2210.15191",
                Eta(3e-4),
            ),
            _sampling(
                "top-n-sigma",
                "with a logit within n σ of the best",
                "https://arxiv.org/abs/2411.07641",
                TopNSigma(1.0),
            ),
        )
    }
)
"""Every preset by its name."""


def preset(name: str) -> Preset:
    """Return the method of that name.

    Raises
    ------
    SettingsError
        If there is none.
    """
    if name in PRESETS:
        return PRESETS[name]
    close = get_close_matches(name, PRESETS, n=1)
    remedy = f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(PRESETS)}"
    raise SettingsError(f"there is no method {name!r}; {remedy}")
