"""The amateur sources a user can name, and how each becomes something that yields logits."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from descant.checks import flag, number, shown, whole
from descant.errors import SettingsError
from descant.models import Architecture, LanguageModel, Runner, RunnerName, inspect_model, open_model
from descant.models.early_exit import make_exit
from descant.models.huggingface import Exit
from descant.models.window import WindowModel


@dataclass(frozen=True)
class EarlyExit:
    """The expert itself, stopped early: its hidden state after `layer` layers, read by its own output head.

    It shares the expert's one forward pass (CALM, Schuster et al. 2022, arXiv 2207.07061, for models whose head
    serves every layer).

    Parameters
    ----------
    layer
        How many decoder layers run: the index into transformers' `hidden_states`, from 1 to the expert's number of
        layers less one.
    norm
        Whether the hidden state passes through the expert's final norm. DoLa's released code (2309.03883) leaves it
        out.
    """

    layer: int
    norm: bool = True

    def __post_init__(self) -> None:
        # Which layers there are, only the expert knows.
        layer = whole("EarlyExit.layer", self.layer, -math.inf, "give a whole number: how many layers run")
        object.__setattr__(self, "layer", layer)
        flag("EarlyExit.norm", self.norm)


@dataclass(frozen=True)
class Window:
    """A model that sees only the last `tokens` tokens of the text (Li et al. 2022, arXiv 2210.15097, §3.4).

    Parameters
    ----------
    model
        The model; the expert may be its own short-sighted amateur. `Decoder.from_pretrained` also takes its name.
    tokens
        How many of the last tokens it is given, at least 1. Each costs a pass over that many tokens at every step.
    """

    model: PreTrainedModel | str | PathLike[str]
    tokens: int

    def __post_init__(self) -> None:
        model: Any = fspath(self.model) if isinstance(self.model, PathLike) else self.model
        if not isinstance(model, (PreTrainedModel, str)):
            raise SettingsError(f"Window.model is {shown(model)}; give a PreTrainedModel, a hub id or a folder")
        object.__setattr__(self, "model", model)
        tokens = whole("Window.tokens", self.tokens, 1, "show it at least 1 token")
        object.__setattr__(self, "tokens", tokens)


@dataclass(frozen=True)
class OtherTokenizer:
    """A model whose tokenizer is not the expert's: it judges the expert's plausible tokens by their bytes.

    The probability of a token's bytes, given the text so far, is summed over the model's tokens that cover them, across
    token boundaries: see `descant.bridge` for the formula, and for what is exact. If the tokenizers turn out to be the
    same, tokens are compared with tokens, as without this. As the draft of `Speculative` it writes text, which is read
    in the expert's tokens; the settings below then play no part.

    Each step takes several small passes of the model, not one: with 1 to 10 plausible tokens about 3, of up to some
    dozen rows.

    Parameters
    ----------
    model
        The model. `Decoder.from_pretrained` also takes its name.
    tokenizer
        Its tokenizer; None where the model is given by its name.
    reopen
        How many of the text's last tokens may turn out to be others once the text goes on.
    tolerance
        A sum ends when what is left of it is at most so many times what was found: 0.01 changes no log-probability by
        more than 0.01. 0 sums everything, which takes exponentially long.
    budget
        How many token strings are read for one position at most, beyond the text's own; None: as many as it takes.
    """

    model: PreTrainedModel | str | PathLike[str]
    tokenizer: PreTrainedTokenizerBase | None = None
    reopen: int = 1
    tolerance: float = 0.01
    budget: int | None = 64

    def __post_init__(self) -> None:
        model: Any = fspath(self.model) if isinstance(self.model, PathLike) else self.model
        if not isinstance(model, (PreTrainedModel, str)):
            raise SettingsError(f"OtherTokenizer.model is {shown(model)}; give a PreTrainedModel, a hub id or a folder")
        if self.tokenizer is not None and not isinstance(self.tokenizer, PreTrainedTokenizerBase):
            raise SettingsError(f"OtherTokenizer.tokenizer is {shown(self.tokenizer)}; give the model's tokenizer")
        if isinstance(model, PreTrainedModel) == (self.tokenizer is None):
            raise SettingsError("OtherTokenizer takes a model with its tokenizer, or a name alone; give one of the two")
        object.__setattr__(self, "model", model)
        object.__setattr__(self, "reopen", whole("OtherTokenizer.reopen", self.reopen, 0, "reopen 0 tokens or more"))
        remedy = "give a number from 0 (a sum of everything) to below 1"
        tolerance = number("OtherTokenizer.tolerance", self.tolerance, lambda x: 0 <= x < 1, remedy)
        object.__setattr__(self, "tolerance", tolerance)
        if self.budget is not None:
            budget = whole("OtherTokenizer.budget", self.budget, 0, "give a whole number from 0, or None for no limit")
            object.__setattr__(self, "budget", budget)


Amateur = PreTrainedModel | EarlyExit | Window | OtherTokenizer
"""What can stand as an amateur."""


@dataclass(frozen=True)
class AmateurFactory:
    """A checked amateur, ready to be opened once for every call.

    Attributes
    ----------
    open
        Return the amateur without rows.
    width
        Width of its logits.
    context
        The most tokens a row may hold for its sake, or None.
    """

    open: Callable[[], LanguageModel | Exit]
    width: int
    context: int | None


def prepare_amateur(amateur: Amateur, expert: Architecture, runner: RunnerName) -> AmateurFactory:
    """Check an amateur against its expert.

    Parameters
    ----------
    amateur, expert
        Both.
    runner
        How the passes of an amateur that is a model of its own run.

    Raises
    ------
    SettingsError
        If there is no such layer, or it is not an amateur at all.
    UnsupportedModelError
        If the model cannot play that part.
    """
    if isinstance(amateur, EarlyExit):
        early = make_exit(expert, amateur.layer, norm=amateur.norm)
        return AmateurFactory(lambda: early, expert.width, None)
    if isinstance(amateur, Window):
        if not isinstance(amateur.model, PreTrainedModel):
            raise SettingsError(
                f"Window holds the name {amateur.model!r}; load it with Decoder.from_pretrained, or give a model"
            )
        seen, tokens = inspect_model(amateur.model), amateur.tokens
        amateur.model.eval()
        if seen.context is not None and tokens > seen.context:
            raise SettingsError(
                f"a window of {tokens} tokens exceeds the amateur's context of {seen.context}; choose a smaller one"
            )
        return AmateurFactory(lambda: WindowModel(seen, tokens), seen.width, None)
    if isinstance(amateur, PreTrainedModel):
        other = inspect_model(amateur)
        amateur.eval()
        own = Runner(other, runner)
        return AmateurFactory(lambda: open_model(other, own), other.width, other.context)
    raise SettingsError(
        f"{type(amateur).__name__} is not an amateur; give a PreTrainedModel, EarlyExit(layer), "
        "Window(model, tokens) or OtherTokenizer(model, tokenizer)"
    )
