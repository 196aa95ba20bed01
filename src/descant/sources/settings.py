"""The amateurs and other sources a user can name, and how each becomes something that yields logits."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from descant.checks import flag, number, shown, whole
from descant.errors import SettingsError
from descant.models import Architecture, LanguageModel, Runner, inspect_model, open_model, open_runner
from descant.models.hooks import Exit
from descant.models.wrapped import unwrapping
from descant.sources.early_exit import make_exit
from descant.sources.ngram import Counts, NGramModel
from descant.sources.other_prompt import OtherPromptModel
from descant.sources.window import WindowModel
from descant.tokens import encode


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
            remedy = unwrapping(model, "give a PreTrainedModel, a hub id or a folder")
            raise SettingsError(f"Window.model is {shown(model)}; {remedy}")
        object.__setattr__(self, "model", model)
        tokens = whole("Window.tokens", self.tokens, 1, "show it at least 1 token")
        object.__setattr__(self, "tokens", tokens)


@dataclass(frozen=True)
class OtherTokenizer:
    """A model whose tokenizer is not the expert's: it judges the expert's plausible tokens by their bytes.

    The probability of a token's bytes, given the text so far, is summed over the model's tokens that cover them, across
    token boundaries: see `descant.sources.other_tokenizer.bridge` for the formula, and for what is exact. If the
    tokenizers turn out to be the same, tokens are compared with tokens, as without this. As the draft of `Speculative`
    it writes text, which is read in the expert's tokens; the settings below then play no part.

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
            remedy = unwrapping(model, "give a PreTrainedModel, a hub id or a folder")
            raise SettingsError(f"OtherTokenizer.model is {shown(model)}; {remedy}")
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


@dataclass(frozen=True)
class OtherPrompt:
    """A model that reads another prompt and then the same continuation; the expert itself, with a cache of its own.

    For `ContextAware` the prompt without its context, for `Guidance` a negative prompt or none, for `Contrastive` a bad
    prompt.

    Parameters
    ----------
    prompt
        The other prompt: a text or token ids for all rows; or a function that is given each row's prompt as the call
        has it (a text, token ids, or a chat) and returns the other one; or None, where each call tells them by
        `amateur_prompts`. Texts are encoded as prompts are, chat template included.
    model
        Who reads it; None for the expert.
    """

    prompt: str | Sequence[int] | Callable[[Any], Any] | None = None
    model: PreTrainedModel | None = None

    def __post_init__(self) -> None:
        if self.model is not None and not isinstance(self.model, PreTrainedModel):
            raise SettingsError(
                f"OtherPrompt.model is {shown(self.model)}; "
                + unwrapping(self.model, "give a PreTrainedModel, or None")
            )
        if isinstance(self.prompt, Sequence) and not isinstance(self.prompt, str):
            remedy = "give a text, token ids, or a function"
            ids = tuple(whole("OtherPrompt.prompt", token, 0, remedy) for token in self.prompt)
            object.__setattr__(self, "prompt", ids)
        elif not (self.prompt is None or isinstance(self.prompt, str) or callable(self.prompt)):
            raise SettingsError(
                f"OtherPrompt.prompt is {shown(self.prompt)}; give a text, token ids, a function, or None"
            )


@dataclass(frozen=True)
class NGram:
    """An n-gram model, which costs no forward pass (see `descant.sources.ngram` for its smoothing).

    Parameters
    ----------
    n
        How many tokens an n-gram has, from 1.
    texts
        What it is fitted on: texts, or rows of token ids. None: each row's own prompt and text, as it grows, so that
        contrast turns against repetition.
    """

    n: int = 3
    texts: Sequence[str] | Sequence[Sequence[int]] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", whole("NGram.n", self.n, 1, "give a whole number from 1"))
        if self.texts is not None:
            listed = isinstance(self.texts, Sequence) and not isinstance(self.texts, str)
            if not (listed and self.texts and all(isinstance(text, Sequence) for text in self.texts)):
                raise SettingsError(f"NGram.texts is {shown(self.texts)}; give a list of texts or of rows of token ids")
            texts = tuple(text if isinstance(text, str) else tuple(text) for text in self.texts)
            object.__setattr__(self, "texts", texts)


_AMATEURS = (
    "give a PreTrainedModel, EarlyExit(layer), Window(model, tokens), OtherPrompt(prompt), NGram(n) or "
    "OtherTokenizer(model, tokenizer)"
)

Amateur = PreTrainedModel | EarlyExit | Window | OtherPrompt | NGram | OtherTokenizer
"""What can stand as an amateur, or as another source."""


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
    other_prompt
        The setting, where it reads another prompt; `context` then bounds that prompt and what continues it.
    """

    open: Callable[[], LanguageModel | Exit]
    width: int
    context: int | None
    other_prompt: OtherPrompt | None = None


def prepare_amateur(
    amateur: Amateur, expert: Architecture, runner: Runner, tokenizer: PreTrainedTokenizerBase | None
) -> AmateurFactory:
    """Check an amateur against its expert.

    Parameters
    ----------
    amateur, expert
        Both.
    runner
        How the expert's passes run; those of a model of its own run in the same way.
    tokenizer
        The expert's, for texts that an n-gram model is fitted on.

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
        return _prepare_window(amateur)
    if isinstance(amateur, OtherPrompt):
        inner = _prepare_model(amateur.model, runner) if amateur.model is not None else _share_expert(expert, runner)

        def reading() -> LanguageModel:
            model = inner.open()
            assert isinstance(model, LanguageModel)
            return OtherPromptModel(model)

        return AmateurFactory(reading, inner.width, inner.context, amateur)
    if isinstance(amateur, NGram):
        return _prepare_ngram(amateur, expert, tokenizer)
    if isinstance(amateur, PreTrainedModel):
        return _prepare_model(amateur, runner)
    raise SettingsError(f"{type(amateur).__name__} is not an amateur; {unwrapping(amateur, _AMATEURS)}")


def _prepare_model(model: PreTrainedModel, runner: Runner) -> AmateurFactory:
    other = inspect_model(model)
    model.eval()
    own = open_runner(other, runner.mode)
    return AmateurFactory(lambda: open_model(other, own), other.width, other.context)


def _share_expert(expert: Architecture, runner: Runner) -> AmateurFactory:
    """The expert's weights, and rows of their own."""
    return AmateurFactory(lambda: open_model(expert, runner), expert.width, expert.context)


def _prepare_window(amateur: Window) -> AmateurFactory:
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


def _prepare_ngram(amateur: NGram, expert: Architecture, tokenizer: PreTrainedTokenizerBase | None) -> AmateurFactory:
    texts = []
    for text in amateur.texts or ():
        if isinstance(text, str) and tokenizer is None:
            raise SettingsError("NGram.texts are texts, and the decoder has no tokenizer; give rows of token ids")
        ids = encode(tokenizer, text, chat=False) if isinstance(text, str) and tokenizer is not None else text
        remedy = "give token ids of the expert"
        texts.append([whole("NGram.texts", token, 0, remedy, most=expert.width - 1) for token in ids])
    counts = Counts(amateur.n, expert.width, texts)
    dtype = torch.promote_types(expert.model.dtype, torch.float32)

    def opened() -> LanguageModel:
        device = expert.model.device
        return NGramModel(counts, learns=amateur.texts is None, device=device, dtype=dtype)

    return AmateurFactory(opened, expert.width, None)
