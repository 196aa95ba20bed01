"""What a good next token is: the logits of the sources in, scores out; one method a file."""

from descant.scoring.auto_contrastive import AutoContrastive
from descant.scoring.base import Scoring
from descant.scoring.context_aware import ContextAware
from descant.scoring.contrastive import Contrastive
from descant.scoring.dexperts import DExperts
from descant.scoring.dola import DoLa
from descant.scoring.guidance import Guidance
from descant.scoring.likelihood import Likelihood
from descant.scoring.proxy_tuning import ProxyTuning
from descant.scoring.when_uncertain import WhenUncertain

__all__ = [
    "AutoContrastive",
    "ContextAware",
    "Contrastive",
    "DExperts",
    "DoLa",
    "Guidance",
    "Likelihood",
    "ProxyTuning",
    "Scoring",
    "WhenUncertain",
]
