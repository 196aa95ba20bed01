"""What a good next token is: the logits of the sources in, scores out; one method a file."""

from descant.scoring.base import Scoring
from descant.scoring.contrastive import Contrastive
from descant.scoring.likelihood import Likelihood

__all__ = ["Contrastive", "Likelihood", "Scoring"]
