"""What is measured of texts: one short file a metric, with its paper and equation at the top."""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from descant.decoder import Decoder
from descant.errors import SettingsError
from descant.lab.metrics.base import CorpusMetric, Metric, TextMetric
from descant.lab.metrics.coherence import Coherence
from descant.lab.metrics.cost import Latency, Passes, Seconds
from descant.lab.metrics.distinct import DistinctN
from descant.lab.metrics.embedding import PooledHiddenState
from descant.lab.metrics.judged import TaskVerdict
from descant.lab.metrics.length import Length
from descant.lab.metrics.mauve import Mauve
from descant.lab.metrics.perplexity import Perplexity
from descant.lab.metrics.repetition import Diversity, RepN, SimCTGDiversity, make_diversity
from descant.lab.metrics.zipf import Zipf

__all__ = [
    "Coherence",
    "CorpusMetric",
    "DistinctN",
    "Diversity",
    "Latency",
    "Length",
    "Mauve",
    "Metric",
    "Passes",
    "Perplexity",
    "PooledHiddenState",
    "RepN",
    "Seconds",
    "SimCTGDiversity",
    "TaskVerdict",
    "TextMetric",
    "Zipf",
    "load_metric",
]

_PLAIN: Mapping[str, Callable[..., Metric]] = {
    "judge": TaskVerdict,
    "diversity": make_diversity,
    **{f"rep-{n}": partial(RepN, n) for n in (2, 3, 4)},
    **{f"distinct-{n}": partial(DistinctN, n) for n in (1, 2, 3, 4)},
    "zipf": Zipf,
    "length": Length,
    "latency": Latency,
    "speed": Seconds,
    "passes": Passes,
}
_WITH_MODEL: Mapping[str, Callable[..., Metric]] = {
    "coherence": lambda judge, **settings: Coherence(PooledHiddenState(judge), **settings),
    "mauve": lambda judge, **settings: Mauve(PooledHiddenState(judge, "last"), **settings),
}


def load_metric(name: str, judge: Decoder, folder: Path | None = None, /, **settings: Any) -> Metric:
    """Return the metric of that name.

    Parameters
    ----------
    name
        As a study file has it.
    judge
        The model of metrics that read texts.
    folder
        Where what the model has read is kept; None: nowhere.
    settings
        Its other settings.

    Raises
    ------
    SettingsError
        If there is none, or it has no such setting.
    """
    names = [*_PLAIN, "perplexity", *_WITH_MODEL]
    if name not in names:
        close = get_close_matches(name, names, n=1)
        remedy = f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(names)}"
        raise SettingsError(f"there is no metric {name!r}; {remedy}")
    try:
        if name == "perplexity":
            return Perplexity(judge, folder, **settings)
        return _WITH_MODEL[name](judge, **settings) if name in _WITH_MODEL else _PLAIN[name](**settings)
    except TypeError as error:
        raise SettingsError(f"metric {name!r} cannot be set so ({error}); drop or mend its settings") from error
