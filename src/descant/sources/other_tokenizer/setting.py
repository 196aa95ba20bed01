"""The setting of a model with another tokenizer."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from os import PathLike, fspath
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from descant.checks import number, shown, whole
from descant.errors import SettingsError, UnsupportedModelError
from descant.models import Architecture, inspect_model, open_model, open_runner
from descant.models.loading import eos_token_ids
from descant.sources.amateur import Amateur, Beside, Prepared, check_model, describe_model, prepare_model
from descant.sources.other_tokenizer.bridge import Bridge, Tables
from descant.tokens import Respeller, same_vocabulary


@dataclass(frozen=True)
class OtherTokenizer(Amateur):
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
        check_model("OtherTokenizer", model)
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

    @property
    def reads(self) -> PreTrainedModel | str:
        return self.model  # type: ignore[return-value]  # a path became its text

    def with_model(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> "OtherTokenizer":
        return replace(self, model=model, tokenizer=tokenizer)

    @property
    def needs(self) -> str:
        return (
            "OtherTokenizer compares tokens by their text, and generate hands a custom method no tokenizer; use "
            "Decoder(model, tokenizer, …), or a model with the expert's tokens"
        )

    def prepare(self, beside: Beside) -> Prepared:
        if not isinstance(self.model, PreTrainedModel):
            raise SettingsError(
                f"OtherTokenizer holds the name {self.model!r}; load it with Decoder.from_pretrained, or give a model "
                "with its tokenizer"
            )
        if beside.tokenizer is None:
            raise SettingsError(
                "OtherTokenizer compares tokens by their text, and the expert has no tokenizer; give "
                "Decoder(model, tokenizer, …)"
            )
        assert self.tokenizer is not None, "a model is given with its tokenizer"
        seen, expert = inspect_model(self.model), beside.expert
        if same_vocabulary(beside.tokenizer, self.tokenizer, expert.width, seen.width):
            return replace(prepare_model(self.model, beside), tokenizer=self.tokenizer)
        opened = self._prepare_bridge(beside, seen, self.model, beside.tokenizer, self.tokenizer)
        return Prepared(opened, expert.width, None, tokenizer=self.tokenizer, bytewise=True)

    def _prepare_bridge(
        self,
        beside: Beside,
        seen: Architecture,
        model: PreTrainedModel,
        expert_tokenizer: PreTrainedTokenizerBase,
        tokenizer: PreTrainedTokenizerBase,
    ) -> Callable[[], Bridge]:
        """Return what opens the model, without rows."""
        model.eval()
        if seen.cache != "ragged":
            raise UnsupportedModelError(
                f"{type(model).__name__} cannot stand beside another tokenizer: its rows cannot be rolled back "
                f"({seen.reason}); choose an attention-only model"
            )
        respeller = Respeller(expert_tokenizer, tokenizer)
        tables = Tables(respeller, beside.expert.width, seen.width, model.device)
        runner = open_runner(seen, beside.runner.mode)

        def ends() -> dict[int, tuple[int, ...]]:
            """Return what tokens of the expert that are no text are to the model, as of now."""
            own, other = respeller.own.special, respeller.other.special
            special = {token_id: (other[content],) for content, token_id in own.items() if content in other}
            stops = eos_token_ids(model, tokenizer)
            return {
                **special,
                **{token_id: stops for token_id in eos_token_ids(beside.expert.model, expert_tokenizer) if stops},
            }

        return lambda: Bridge(
            open_model(seen, runner),
            tables,
            ends(),
            reopen=self.reopen,
            tolerance=self.tolerance,
            budget=self.budget,
        )

    def described(self) -> Any:
        tokenizer = self.tokenizer
        return {
            "name": "OtherTokenizer",
            "model": describe_model(self.model),
            "tokenizer": None if tokenizer is None else tokenizer.name_or_path or type(tokenizer).__name__,
            "reopen": self.reopen,
            "tolerance": self.tolerance,
            "budget": self.budget,
        }
