"""The order in which transformers applies its processors."""

import operator
from collections.abc import Iterable

from descant.processors.base import Processor


def canonical_order(processors: Iterable[Processor]) -> tuple[Processor, ...]:
    """Sort processors into the order of `model.generate`: by `Processor.rank`.

    Bias, penalties and bans come first, then processors of the user's own, then temperature, top-k, top-p,
    min-p, typical, epsilon and eta. Top-nσ, which transformers lacks, is last. Processors of one kind keep
    their order.
    """
    return tuple(sorted(processors, key=operator.attrgetter("rank")))
