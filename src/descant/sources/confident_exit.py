"""Early exit for speed: a token leaves the layers as soon as the model is sure of what follows.

Schuster et al. 2022, "Confident Adaptive Language Modeling" (CALM, arXiv 2207.07061). With h_l the hidden state after
layer l and λ the threshold, a token leaves after the first layer l whose confidence c_l exceeds λ:

- softmax response: `c_l = p_1 − p_2`, the greatest two probabilities of `softmax(lm_head(final_norm(h_l)))`;
- state saturation: `c_l = cos(h_l, h_{l−1})`.

Its h_l then stands for its state after every later layer: the output head reads it, and the layers that are skipped
make their keys and values of it (the paper's state propagation), so that later tokens have something to attend to. A
skipped layer costs its input norm and the projections of its attention.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.modeling_outputs import MoeModelOutputWithPast

from descant.checks import number, shown, whole
from descant.errors import SettingsError, UnsupportedModelError
from descant.models.architecture import Architecture
from descant.models.cache import KeysWritten, RaggedCache
from descant.models.hidden_states import HiddenStates
from descant.models.hooks import Exit
from descant.models.linears.narrow_head import Among
from descant.models.ragged import RaggedModel
from descant.sources.early_exit import find_tail

Confidence = Callable[[Float[Tensor, "n hidden"], Float[Tensor, "n hidden"]], Float[Tensor, " n"]]
"""Tells from the states after a layer and before it how sure the model is."""


@dataclass(frozen=True)
class ConfidentExit:
    """Skip the layers that a token does not need (CALM, Schuster et al. 2022, arXiv 2207.07061).

    Faster and, unlike speculation, not the same text: how much is lost depends on the model, which was not trained for
    it. Prompts pass through all layers. Every token decides for itself, so that a row's text does not depend on its
    neighbours; in a batch, a layer runs as long as any row needs it, for its weights are read once for all.

    Parameters
    ----------
    measure
        `"softmax"`: the difference of the two greatest probabilities at an exit, which costs a product with the output
        head at each. `"state"`: the cosine of the hidden states before and after a layer, which costs nothing.
    threshold
        λ in [0, 1]: a token leaves where its confidence exceeds it. At 1 none ever does.
    layers
        After which layers a token may leave, from 1 to the number of layers less one; None: all of these.
    decay
        The paper's τ / N: the threshold of the t-th new token is `0.9 λ + 0.1 exp(−decay · t)`, as mistakes early in a
        text weigh more. None: constant.
    """

    measure: Literal["softmax", "state"] = "softmax"
    threshold: float = 0.9
    layers: Sequence[int] | None = None
    decay: float | None = None

    def __post_init__(self) -> None:
        if self.measure not in ("softmax", "state"):
            raise SettingsError(f'ConfidentExit.measure is {shown(self.measure)}; use "softmax" or "state"')
        remedy = "give a number from 0 to 1, at which no token exits"
        threshold = number("ConfidentExit.threshold", self.threshold, lambda x: 0 <= x <= 1, remedy)
        object.__setattr__(self, "threshold", threshold)
        if self.layers is not None:
            remedy = "give numbers of layers from 1, or None for all"
            layers = tuple(sorted({whole("ConfidentExit.layers", layer, 1, remedy) for layer in self.layers}))
            if not layers:
                raise SettingsError(f"ConfidentExit.layers is {shown(self.layers)}; {remedy}")
            object.__setattr__(self, "layers", layers)
        if self.decay is not None:
            remedy = "give a number above 0 (the paper: 4 over the most new tokens), or None"
            decay = number("ConfidentExit.decay", self.decay, lambda x: 0 < x < math.inf, remedy)
            object.__setattr__(self, "decay", decay)

    def threshold_at(self, token: int) -> float:
        """Return what the confidence must exceed for the new token number `token`, the first of which is 0."""
        if self.decay is None:
            return self.threshold
        return min(1.0, max(0.0, 0.9 * self.threshold + 0.1 * math.exp(-self.decay * token)))


def prepare_confident(architecture: Architecture, setting: ConfidentExit) -> Callable[[], "ConfidentModel"]:
    """Return what opens a model that exits early, without rows.

    Raises
    ------
    SettingsError
        If it has no such layers.
    UnsupportedModelError
        If it cannot exit early.
    """
    if architecture.cache != "ragged":
        raise UnsupportedModelError(
            f"{type(architecture.model).__name__} cannot skip layers: {architecture.reason}; leave it out"
        )
    layers = range(1, architecture.layers) if setting.layers is None else setting.layers
    if not layers or max(layers) >= architecture.layers:
        raise SettingsError(
            f"{setting} finds no such layer in an expert of {architecture.layers}; choose of 1 to "
            f"{architecture.layers - 1}, or leave it out"
        )
    confidence: Confidence = _saturation
    if setting.measure == "softmax":
        confidence = _Response(architecture)
    return lambda: ConfidentModel(architecture, setting, frozenset(layers), confidence)


class ConfidentModel(RaggedModel):
    """A model whose tokens leave the layers one by one.

    Parameters
    ----------
    architecture, setting
        The model, and when tokens leave it.
    layers
        After which layers they may.
    confidence
        The measure.

    Attributes
    ----------
    layers_run
        For each row, of the last token of its prompt and all after it, how many layers it went through.
    """

    def __init__(
        self, architecture: Architecture, setting: ConfidentExit, layers: frozenset[int], confidence: Confidence
    ) -> None:
        _, plain = architecture.decoder()
        self._turn = _Turn()
        skippable = nn.ModuleList(_ExitLayer(layer, number, self._turn) for number, layer in enumerate(plain, start=1))
        super().__init__(replace(architecture, model=architecture.with_module(plain, skippable)))
        self._setting = setting
        self._exits = layers
        self._confidence = confidence
        self._prompts: list[int] = []
        self.layers_run: list[list[int]] = []

    def start_rows(self, lengths: Sequence[int]) -> None:
        """Be told the lengths of all rows' texts: of rows that have not been read, those are the prompts."""
        for row, (held, length) in enumerate(zip(self.lengths, lengths, strict=True)):
            if not held:
                self._prompts[row] = length

    def add_rows(self, count: int) -> None:
        super().add_rows(count)
        self._prompts += [0] * count
        self.layers_run += [[] for _ in range(count)]

    def keep_rows(self, rows: Sequence[int]) -> None:
        super().keep_rows(rows)
        self._prompts = [self._prompts[row] for row in rows]
        self.layers_run = [self.layers_run[row].copy() for row in rows]

    def truncate(self, lengths: Sequence[int]) -> None:
        super().truncate(lengths)
        for run, length, prompt in zip(self.layers_run, lengths, self._prompts, strict=True):
            del run[max(0, length - prompt + 1) :]

    def run(
        self,
        tokens: Sequence[Sequence[int]],
        *,
        keep: int,
        first_row: int,
        exits: Sequence[Exit],
        hidden: HiddenStates | None = None,
        among: Among | None = None,
    ) -> list[Float[Tensor, "rows keep vocab"]]:
        rows = range(first_row, first_row + len(tokens))
        # Which new token of its row each is to predict: the first, number 0, comes from the end of the prompt.
        starts = [self.lengths[row] - self._prompts[row] + 1 for row in rows]
        predicted = [range(start, start + len(row)) for start, row in zip(starts, tokens, strict=True)]
        thresholds = [[self._threshold(number) for number in numbers] for numbers in predicted]
        passing = _Pass(thresholds, self._exits, self._confidence, self.cache, self.architecture.layers)
        self._turn.passing = passing if any(value < math.inf for row in thresholds for value in row) else None
        try:
            logits = super().run(tokens, keep=keep, first_row=first_row, exits=exits, hidden=hidden, among=among)
        finally:
            self._turn.passing = None
        for row, run, numbers in zip(rows, passing.layers_run(), predicted, strict=True):
            self.layers_run[row] += [layers for layers, number in zip(run, numbers, strict=False) if number >= 0]
        return logits

    def _threshold(self, number: int) -> float:
        return self._setting.threshold_at(number) if number > 0 else math.inf


class _Pass:
    """The tokens of one forward pass on their way through the layers; flat, row by row, padding included.

    Parameters
    ----------
    thresholds
        What the confidence of each token must exceed, row by row.
    exits, confidence
        After which layers a token may leave, and how sure the model is there.
    cache
        Where a layer that all tokens skip writes.
    layers
        How many there are.
    """

    def __init__(
        self,
        thresholds: Sequence[Sequence[float]],
        exits: frozenset[int],
        confidence: Confidence,
        cache: RaggedCache,
        layers: int,
    ) -> None:
        self._width = max(map(len, thresholds))
        self._thresholds = [value for row in thresholds for value in (*row, *[-math.inf] * (self._width - len(row)))]
        self._exits = exits
        self._confidence = confidence
        self._cache = cache
        self._layers_run = [layers] * len(self._thresholds)
        self._running = [place for place, value in enumerate(self._thresholds) if value > -math.inf]
        self._gone: Tensor | None = None  # [rows, width, 1]: which tokens have left; None: none
        self._beside: tuple[Any, ...] | None = None  # what the model's layers return beside states

    def layers_run(self) -> list[list[int]]:
        """Return how many layers each token went through, row by row, padding included."""
        starts = range(0, len(self._layers_run), self._width)
        return [self._layers_run[start : start + self._width] for start in starts]

    def through(self, layer: nn.Module, number: int, args: Any, kwargs: Any) -> Any:
        """Run a layer, or as much of it as any token needs."""
        before = args[0] if args else kwargs["hidden_states"]
        if not self._running:
            self._write(layer, args, kwargs)
            return self._like(before)
        output = layer(*args, **kwargs)
        after, self._beside = (output[0], output[1:]) if isinstance(output, tuple) else (output, None)
        if self._gone is not None:
            after = torch.where(self._gone, before, after)
        if number in self._exits:
            self._let_go(number, after, before)
        return self._like(after)

    def _write(self, layer: nn.Module, args: Any, kwargs: Any) -> None:
        """Have a layer make keys and values of the states, and do no more."""
        self._cache.only_write = True
        try:
            layer(*args, **kwargs)
        except KeysWritten:
            pass
        finally:
            self._cache.only_write = False

    def _like(self, states: Tensor) -> Any:
        """Return states as the model's layers return theirs."""
        return states if self._beside is None else (states, *self._beside)

    def _let_go(self, number: int, after: Tensor, before: Tensor) -> None:
        """Find out which tokens leave after a layer."""
        states = [hidden.flatten(0, 1) for hidden in (after, before)]
        if len(self._running) < len(self._thresholds):
            states = [hidden[self._running] for hidden in states]
        found = zip(self._running, self._confidence(*states).tolist(), strict=True)
        leaving = {place for place, confidence in found if confidence > self._thresholds[place]}
        if not leaving:
            return
        for place in leaving:
            self._layers_run[place] = number
        self._running = [place for place in self._running if place not in leaving]
        gone = torch.ones(len(self._thresholds), dtype=torch.bool)
        gone[self._running] = False
        self._gone = gone.reshape(-1, self._width, 1).to(after.device)


class _Turn:
    """What a model and its layers share: the pass whose tokens may leave, while there is one."""

    passing: _Pass | None = None


class _ExitLayer(nn.Module):
    """A decoder layer that tokens may skip.

    Parameters
    ----------
    layer, number
        The layer and its number, from 1.
    turn
        Tells the pass.
    """

    def __init__(self, layer: nn.Module, number: int, turn: _Turn) -> None:
        super().__init__()
        self.layer = layer
        self._number = number
        self._turn = turn

    def __getattr__(self, name: str) -> Any:
        """Return what the layer has by a name: models ask for its kind of attention."""
        layer = self._modules["layer"]
        return layer if name == "layer" else getattr(layer, name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the layer, or as much of it as any token needs."""
        passing = self._turn.passing
        if passing is None:
            return self.layer(*args, **kwargs)
        return passing.through(self.layer, self._number, args, kwargs)


def _saturation(after: Float[Tensor, "n hidden"], before: Float[Tensor, "n hidden"]) -> Float[Tensor, " n"]:
    """Return the cosine of two states."""
    dtype = torch.promote_types(after.dtype, torch.float32)
    return torch.cosine_similarity(after.to(dtype), before.to(dtype), dim=-1).clamp(max=1)  # rounding may exceed 1


class _Response:
    """The softmax response at a layer: what follows the layers tells the next token's probabilities."""

    @torch.inference_mode()
    def __init__(self, architecture: Architecture) -> None:
        model = architecture.model
        self._tail = _Tail(find_tail(architecture))
        self._head = model.get_output_embeddings()
        self._rest = architecture.with_module(architecture.body, self._tail)
        # Some models scale or cap what their head says: only the whole of what follows the layers does that.
        generator = torch.Generator().manual_seed(0)
        probe = torch.randn(1, 1, model.config.get_text_config().hidden_size, generator=generator).to(
            model.device, model.dtype
        )
        with architecture.lock:
            self._simple = torch.equal(self._head(self._tail.finish(probe)), self._follow(probe))

    def __call__(self, after: Float[Tensor, "n hidden"], _before: Float[Tensor, "n hidden"]) -> Float[Tensor, " n"]:
        states = after[:, None]
        logits = (self._head(self._tail.finish(states)) if self._simple else self._follow(states))[:, 0]
        best: Tensor = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(-1).topk(2).values
        return best[:, 0] - best[:, 1]

    def _follow(self, states: Float[Tensor, "n 1 hidden"]) -> Float[Tensor, "n 1 vocab"]:
        logits: Tensor = self._rest(inputs_embeds=states, use_cache=False).logits
        return logits


class _Tail(nn.Module):
    """What stands for the body of a model whose layers have run: the modules between them and the output head."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self._chain = nn.ModuleList(modules)

    def finish(self, states: Tensor) -> Tensor:
        """Return what enters the output head."""
        for module in self._chain:
            states = module(states)
        return states

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> "_Finished":
        """Finish hidden states that come in place of embeddings."""
        return _Finished(last_hidden_state=self.finish(inputs_embeds))


@dataclass
class _Finished(MoeModelOutputWithPast):
    """What any model's body returns, in the words of all of them."""

    last_hidden_state: Any = None  # transformers before 5.23 calls it a tensor of float32
    cross_attentions: None = None
