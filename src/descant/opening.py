"""The models of a decoder, checked once and opened anew for every call."""

from collections.abc import Callable
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from descant.amateurs import Amateur, AmateurFactory, EarlyExit, OtherTokenizer, Window, prepare_amateur
from descant.bridge import Bridge, Tables
from descant.checks import shown
from descant.errors import SettingsError, UnsupportedModelError, VocabularyError
from descant.models import LanguageModel, Runner, RunnerName, inspect_model, open_model
from descant.models.early_exit import check_layer
from descant.models.early_layers import EarlyLayers
from descant.models.huggingface import RaggedModel
from descant.models.loading import eos_token_ids
from descant.models.sources import Source, Sources
from descant.scoring import Scoring
from descant.strategies import PromptLookup, Speculative, Strategy
from descant.tokens import Respeller, check_same_vocabulary, same_vocabulary

DraftFactory = Callable[[LanguageModel], LanguageModel | Bridge]
"""Opens a draft model without rows, beside the expert of a call."""


class Models:
    """An expert and perhaps its amateur, ready to be opened; it holds no rows.

    Parameters
    ----------
    expert, amateur
        As `Decoder` takes them. Models are put in evaluation mode.
    tokenizer, amateur_tokenizer
        To be compared, where they are known.
    runner
        How passes run. What is compiled serves every call.

    Raises
    ------
    VocabularyError
        If expert and amateur do not share their tokens.
    LoadError, UnsupportedModelError, SettingsError
        If a model cannot play its part.
    """

    def __init__(
        self,
        expert: PreTrainedModel,
        amateur: Amateur | None,
        tokenizer: PreTrainedTokenizerBase | None,
        amateur_tokenizer: PreTrainedTokenizerBase | None,
        runner: RunnerName,
    ) -> None:
        self._expert = inspect_model(expert)
        self._runner = Runner(self._expert, runner)
        expert.eval()
        self._tokenizer = tokenizer
        self._amateur_setting = amateur
        self._amateur: AmateurFactory | None = None
        self._bridges: dict[int, tuple[OtherTokenizer, Callable[[], Bridge]]] = {}
        self._drafts: dict[int, tuple[Any, AmateurFactory]] = {}
        self._common_width = self._expert.width
        if isinstance(amateur, OtherTokenizer):
            if amateur_tokenizer is not None:
                raise SettingsError("OtherTokenizer holds the amateur's tokenizer; leave amateur_tokenizer out")
            if not self._is_foreign(amateur):
                amateur_tokenizer = amateur.tokenizer
                amateur = _model_of(amateur)
            else:
                self._bridge(amateur)
        if amateur is not None and not isinstance(amateur, OtherTokenizer):
            self._amateur = prepare_amateur(amateur, self._expert, runner)
            self._common_width = self._share(self._amateur.width, tokenizer, amateur_tokenizer)

    @property
    def has_amateur(self) -> bool:
        """Whether there is an amateur."""
        return self._amateur_setting is not None

    @property
    def bridged(self) -> bool:
        """Whether the amateur has another tokenizer."""
        return self.has_amateur and self._amateur is None

    def width(self, scoring: Scoring) -> int:
        """Return the width of the vocabulary that every model read by a scoring has."""
        return self._common_width if "amateur" in scoring.sources else self._expert.width

    def context(self, scoring: Scoring) -> int | None:
        """Return the most tokens a row may hold for the sake of the models a scoring reads; None is unbounded."""
        bounds = [self._expert.context]
        if "amateur" in scoring.sources and self._amateur is not None:
            bounds.append(self._amateur.context)
        return min((bound for bound in bounds if bound is not None), default=None)

    def open(self, scoring: Scoring, strategy: Strategy | None = None) -> Sources:
        """Return the sources of a method, without rows.

        Raises
        ------
        SettingsError, UnsupportedModelError, LoadError
            If a speculative strategy has nothing that can draft, or a model that cannot be rolled back.
        """
        expert = open_model(self._expert, self._runner)
        others: dict[str, Source] = {}
        if "amateur" in scoring.sources:
            if self._amateur is not None:
                others["amateur"] = self._amateur.open()
            elif isinstance(self._amateur_setting, OtherTokenizer):
                if type(scoring).head is Scoring.head:
                    raise SettingsError(
                        f"{type(scoring).__name__} reads the amateur's logits of every token, and an amateur with "
                        "another tokenizer judges plausible tokens only; use Contrastive(), or another amateur"
                    )
                others["amateur"] = self._bridge(self._amateur_setting)()
        if isinstance(strategy, Speculative):
            if not isinstance(strategy.draft, PromptLookup) and not self._amateur_drafts(
                strategy, others.get("amateur")
            ):
                others["draft"] = self._prepare_draft(strategy.draft)(expert)
            for model in (expert, *others.values()):
                if isinstance(model, LanguageModel):
                    model.check_truncate()
        return Sources(expert, others, self.width(scoring))

    def _amateur_drafts(self, strategy: Speculative, amateur: Source | None) -> bool:
        """Tell whether the amateur that a scoring reads drafts as well: an exit has no pass of its own to do so."""
        chosen = strategy.draft is None or strategy.draft is self._amateur_setting
        return chosen and isinstance(amateur, LanguageModel)

    def _prepare_draft(self, draft: Any) -> DraftFactory:
        if draft is None:
            draft = self._amateur_setting
        if draft is None:
            raise SettingsError(
                "Speculative() drafts with the amateur, and this decoder has none; give draft=PromptLookup(3), "
                "EarlyExit(layer) or a model that shares the expert's tokens"
            )
        if isinstance(draft, EarlyExit):
            check_layer(self._expert, draft.layer)
            layer, norm = draft.layer, draft.norm

            def early(expert: LanguageModel) -> LanguageModel:
                assert isinstance(expert, RaggedModel)
                return EarlyLayers(expert, layer, norm=norm)

            return early
        if isinstance(draft, OtherTokenizer):
            if self._is_foreign(draft):
                bridge = self._bridge(draft)
                return lambda _expert: bridge()
            draft = _model_of(draft)
        if not isinstance(draft, (PreTrainedModel, Window)):
            raise SettingsError(
                f"Speculative.draft is {shown(draft)}; give a model, EarlyExit(layer), PromptLookup(ngram), "
                "OtherTokenizer(model, tokenizer), or None for the amateur"
            )
        if id(draft) not in self._drafts:  # inspected, and perhaps compiled, once
            self._drafts[id(draft)] = draft, prepare_amateur(draft, self._expert, self._runner.mode)
        _, factory = self._drafts[id(draft)]

        def other(_expert: LanguageModel) -> LanguageModel:
            opened = factory.open()
            assert isinstance(opened, LanguageModel)
            return opened

        return other

    def _is_foreign(self, setting: OtherTokenizer) -> bool:
        """Tell whether a model's tokens are really others than the expert's."""
        if self._tokenizer is None:
            raise SettingsError(
                "OtherTokenizer compares tokens by their text, and the expert has no tokenizer; give "
                "Decoder(model, tokenizer, …)"
            )
        model = inspect_model(_model_of(setting))
        return not same_vocabulary(self._tokenizer, setting.tokenizer, self._expert.width, model.width)

    def _bridge(self, setting: OtherTokenizer) -> Callable[[], Bridge]:
        """Return what opens a model with another tokenizer, without rows."""
        if id(setting) not in self._bridges:
            self._bridges[id(setting)] = setting, self._prepare_bridge(setting)
        _, factory = self._bridges[id(setting)]
        return factory

    def _prepare_bridge(self, setting: OtherTokenizer) -> Callable[[], Bridge]:
        assert self._tokenizer is not None
        assert setting.tokenizer is not None
        model = _model_of(setting)
        seen = inspect_model(model)
        model.eval()
        if seen.cache != "ragged":
            raise UnsupportedModelError(
                f"{type(model).__name__} cannot stand beside another tokenizer: its rows cannot be rolled back "
                f"({seen.reason}); choose an attention-only model"
            )
        respeller = Respeller(self._tokenizer, setting.tokenizer)
        namesakes = respeller.own.special.items()
        ends: dict[int, tuple[int, ...]] = {
            token_id: (respeller.other.special[content],)
            for content, token_id in namesakes
            if content in respeller.other.special
        }
        other_ends = tuple(eos_token_ids(model, setting.tokenizer))
        ends |= {token_id: other_ends for token_id in eos_token_ids(self._expert.model, self._tokenizer) if other_ends}
        tables = Tables(respeller, ends, self._expert.width, seen.width, model.device)
        runner = Runner(seen, self._runner.mode)
        return lambda: Bridge(
            open_model(seen, runner),
            tables,
            reopen=setting.reopen,
            tolerance=setting.tolerance,
            budget=setting.budget,
        )

    def _share(
        self,
        amateur: int,
        tokenizer: PreTrainedTokenizerBase | None,
        amateur_tokenizer: PreTrainedTokenizerBase | None,
    ) -> int:
        """Return the width that expert and amateur have in common."""
        width = min(self._expert.width, amateur)
        if tokenizer is not None and amateur_tokenizer is not None:
            return check_same_vocabulary(tokenizer, amateur_tokenizer, self._expert.width, amateur)
        if tokenizer is not None and amateur < len(tokenizer) <= self._expert.width:
            raise VocabularyError(
                f"the amateur's logits are {amateur} wide, but the tokenizer has {len(tokenizer)} tokens; "
                "choose an amateur of the expert's family"
            )
        return width


def _model_of(setting: OtherTokenizer) -> PreTrainedModel:
    """Return the model, which is loaded by now."""
    if not isinstance(setting.model, PreTrainedModel):
        raise SettingsError(
            f"OtherTokenizer holds the name {setting.model!r}; load it with Decoder.from_pretrained, or give a model "
            "with its tokenizer"
        )
    return setting.model
