"""What can stand as an amateur, or as another source of a method, and how it becomes something that yields logits."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from descant.checks import shown
from descant.describe import describe
from descant.errors import SettingsError
from descant.models import Architecture, LanguageModel, Runner, inspect_model, open_model, open_runner
from descant.models.base import ByteSource
from descant.models.hooks import Exit
from descant.models.linears.replacing import linear_forms
from descant.models.wrapped import unwrapping

if TYPE_CHECKING:
    from descant.sources.other_prompt import OtherPrompt

Source = LanguageModel | Exit | ByteSource
"""A model with rows of its own, an early exit of the expert, or a model with another tokenizer, which is asked."""


@dataclass(frozen=True)
class Beside:
    """The expert beside which an amateur is to stand.

    Attributes
    ----------
    expert
        The model.
    runner
        How its passes run; those of an amateur run in the same way.
    tokenizer
        Its tokenizer, if it is known.
    """

    expert: Architecture
    runner: Runner
    tokenizer: PreTrainedTokenizerBase | None


@dataclass(frozen=True)
class Prepared:
    """A checked amateur, ready to be opened once for every call.

    Attributes
    ----------
    open
        Return it without rows.
    width
        Width of its logits.
    context
        The most tokens a row may hold for its sake, or None.
    draft
        Return what drafts in its place beside the opened expert of a call; None: it is opened as it is.
    why_no_draft
        Why it cannot draft but where a scoring reads it, in a sentence with a remedy; empty if it can.
    other_prompt
        The setting, where it reads another prompt; `context` then bounds that prompt and what continues it.
    tokenizer
        The model's own, if the setting holds it.
    bytewise
        Whether its tokens are others, so that it judges those of the expert by their bytes.
    of_expert
        Whether it is a layer of the expert.
    """

    open: Callable[[], Source]
    width: int
    context: int | None
    draft: Callable[[LanguageModel], Source] | None = None
    why_no_draft: str = ""
    other_prompt: "OtherPrompt | None" = None
    tokenizer: PreTrainedTokenizerBase | None = None
    bytewise: bool = False
    of_expert: bool = False


class Amateur(ABC):
    """What can stand as an amateur, beside a loaded model: a frozen dataclass of settings."""

    @abstractmethod
    def prepare(self, beside: Beside) -> Prepared:
        """Check this beside an expert.

        Raises
        ------
        SettingsError
            If it does not fit this expert.
        UnsupportedModelError
            If a model cannot play that part.
        """

    @property
    def reads(self) -> PreTrainedModel | str | None:
        """The model of its own that it reads, by its name where that is to be loaded; None: it has none."""
        return None

    def with_model(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> "Amateur":
        """Return this with its model loaded, where `reads` is a name."""
        raise NotImplementedError(
            f"{type(self).__name__}.reads is the name of a model, and with_model is not its own; define both or neither"
        )

    @property
    def needs(self) -> str:
        """What of a call it needs beside the tokens of the prompts, in a sentence; empty: nothing."""
        return ""

    def described(self) -> Any:
        """Return this as something JSON can hold, for the record of what made a result."""
        return describe(self)


AnyAmateur = PreTrainedModel | Amateur
"""What a decoder takes as an amateur, or as another source."""

_KINDS = (
    "give a PreTrainedModel, EarlyExit(layer), Window(model, tokens), OtherPrompt(prompt), NGram(n) or "
    "OtherTokenizer(model, tokenizer)"
)


def prepare_amateur(amateur: Any, beside: Beside) -> Prepared:
    """Check an amateur of any kind beside an expert.

    Raises
    ------
    SettingsError
        If it is not an amateur at all, or does not fit this expert.
    UnsupportedModelError
        If the model cannot play that part.
    """
    if isinstance(amateur, Amateur):
        return amateur.prepare(beside)
    if isinstance(amateur, PreTrainedModel):
        return prepare_model(amateur, beside)
    raise SettingsError(f"{type(amateur).__name__} is not an amateur; {unwrapping(amateur, _KINDS)}")


def prepare_model(model: PreTrainedModel, beside: Beside) -> Prepared:
    """Check a whole model."""
    other = inspect_model(model)
    model.eval()
    runner = open_runner(other, beside.runner.mode)
    return Prepared(lambda: open_model(other, runner), other.width, other.context)


def check_model(setting: str, model: Any) -> None:
    """Raise `SettingsError` unless the model of a setting is one, or its name."""
    if not isinstance(model, (PreTrainedModel, str)):
        remedy = unwrapping(model, "give a PreTrainedModel, a hub id or a folder")
        raise SettingsError(f"{setting}.model is {shown(model)}; {remedy}")


def describe_model(model: Any) -> Any:
    """Return a source's setting as something JSON can hold; of a model its name, dtype, device and linear layers."""
    if isinstance(model, PreTrainedModel):
        return {
            "name": model.config.name_or_path or type(model).__name__,
            "dtype": str(model.dtype).removeprefix("torch."),
            "dtype_reason": getattr(model, "dtype_reason", None),  # of what was loaded with "auto"
            "device": str(model.device),
            "linear_layers": linear_forms(model),
        }
    return model.described() if isinstance(model, Amateur) else describe(model)
