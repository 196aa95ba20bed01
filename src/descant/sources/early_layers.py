"""The first layers of the expert as a model of its own, on the expert's cache: it drafts for itself."""

import dataclasses
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from descant.models.base import LanguageModel
from descant.models.hooks import Exit
from descant.models.ragged import RaggedModel


class EarlyLayers(LanguageModel):
    """The expert stopped early, run alone, reading on in the expert's own key-value cache.

    The keys and values of the early layers are the expert's, so nothing that the expert has read is read again; and
    what is drafted needs no memory. The expert writes the same entries once more when it reads the drafts: early
    layers cost one reading of their weights in that pass whether one token goes through them or all of them, and one
    must, the last drafted.

    Parameters
    ----------
    expert
        The model whose rows these are. It must be told of rows that join or leave as well.
    layer
        How many decoder layers run.
    norm
        Whether the final norm is applied.
    """

    def __init__(self, expert: RaggedModel, layer: int, *, norm: bool) -> None:
        self._expert = expert
        _, layers = expert.architecture.decoder()
        shallow = expert.architecture.with_module(layers, nn.ModuleList(layers[:layer]))
        architecture = dataclasses.replace(expert.architecture, model=shallow)
        self._model = RaggedModel(architecture)
        self._model.cache = expert.cache
        self._exits: tuple[Exit, ...] = ()
        if not norm:
            self._exits = (Exit(layers[layer - 1], ()),)
        self.width = expert.width
        self.device = expert.device
        self.context = expert.context
        self._lengths: list[int] = []

    @property
    def lengths(self) -> Sequence[int]:
        """What the expert has read, the early layers have read as well."""
        return [max(both) for both in zip(self._lengths, self._expert.lengths, strict=True)]

    def add_rows(self, count: int) -> None:
        self._lengths += [0] * count

    def keep_rows(self, rows: Sequence[int]) -> None:
        self._lengths = [self._lengths[row] for row in rows]

    def truncate(self, lengths: Sequence[int]) -> None:
        self._lengths = list(lengths)

    def forward(
        self, tokens: Sequence[Sequence[int]], *, keep: int = 1, first_row: int = 0
    ) -> Float[Tensor, "rows keep vocab"]:
        cache = self._expert.cache
        held = cache.lengths
        cache.lengths = list(self.lengths)
        try:
            logits = self._model.run(tokens, keep=keep, first_row=first_row, exits=self._exits)[-1]
            self._lengths = cache.lengths
        finally:
            cache.lengths = held
        return logits
