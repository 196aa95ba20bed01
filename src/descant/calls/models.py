"""The models of a decoder, checked once and opened anew for every call."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from descant.checks import shown
from descant.errors import SettingsError, UnsupportedModelError, VocabularyError
from descant.models import LanguageModel, RunnerName, inspect_model, open_model, open_runner
from descant.models.hooks import Exit
from descant.models.loading import eos_token_ids
from descant.models.ragged import RaggedModel
from descant.models.wrapped import unwrapping
from descant.scoring import Scoring
from descant.sources.confident_exit import ConfidentExit, prepare_confident
from descant.sources.early_exit import check_layer, make_exit
from descant.sources.early_layers import EarlyLayers
from descant.sources.other_tokenizer.bridge import Bridge, Tables
from descant.sources.settings import (
    Amateur,
    AmateurFactory,
    EarlyExit,
    NGram,
    OtherPrompt,
    OtherTokenizer,
    Window,
    prepare_amateur,
)
from descant.sources.sources import Source, Sources
from descant.strategies import Strategy
from descant.strategies.drafts import Drafting
from descant.tokens import Respeller, check_same_vocabulary, same_vocabulary

DraftFactory = Callable[[LanguageModel], LanguageModel | Bridge]
"""Opens a draft model without rows, beside the expert of a call."""


_RESERVED = frozenset({"expert", "amateur", "draft"})


class Models:
    """An expert and its other sources, ready to be opened; it holds no rows.

    Parameters
    ----------
    expert, amateur, sources
        As `Decoder` takes them. Models are put in evaluation mode.
    tokenizer
        The expert's, if it is known.
    tokenizers
        Those of the amateur and of the sources, by name, to be compared with it.
    runner
        How passes run. What is compiled serves every call.
    confident_exit
        When tokens skip the rest of the expert's layers; None: never.

    Raises
    ------
    VocabularyError
        If a source does not share the expert's tokens.
    LoadError, UnsupportedModelError, SettingsError
        If a model cannot play its part.
    """

    def __init__(
        self,
        expert: PreTrainedModel,
        amateur: Amateur | None,
        sources: Mapping[str, Amateur],
        tokenizer: PreTrainedTokenizerBase | None,
        tokenizers: Mapping[str, PreTrainedTokenizerBase],
        runner: RunnerName,
        confident_exit: ConfidentExit | None = None,
    ) -> None:
        for name in sources:
            if not isinstance(name, str) or name in _RESERVED or name.startswith("layer "):
                raise SettingsError(f"a source cannot be named {shown(name)}; choose the name that its scoring reads")
        self._expert = inspect_model(expert)
        self._runner = open_runner(self._expert, runner)
        expert.eval()
        self._open_expert: Callable[[], LanguageModel] = partial(open_model, self._expert, self._runner)
        self._confident = confident_exit
        if confident_exit is not None:
            _check_confident(confident_exit, runner, {"amateur": amateur, **sources})
            self._open_expert = prepare_confident(self._expert, confident_exit)
        self._tokenizer = tokenizer
        self._amateur_setting = amateur
        self._bridges: dict[int, tuple[OtherTokenizer, Callable[[], Bridge]]] = {}
        self._drafts: dict[int, tuple[Any, AmateurFactory]] = {}
        self._exits: dict[tuple[int, bool], Exit] = {}
        self._factories: dict[str, AmateurFactory] = {}
        self._widths = {"expert": self._expert.width}
        for name, source in {**({} if amateur is None else {"amateur": amateur}), **sources}.items():
            self._prepare(name, source, tokenizers.get(name))

    @property
    def has_amateur(self) -> bool:
        """Whether there is an amateur."""
        return self._amateur_setting is not None

    @property
    def bridged(self) -> bool:
        """Whether the amateur has another tokenizer."""
        return self.has_amateur and "amateur" not in self._factories

    def resolve(self, scoring: Scoring) -> Scoring:
        """Return a scoring with what depends on the expert settled, once all that it reads is there.

        Raises
        ------
        SettingsError
            If the decoder lacks a source, or the expert a layer.
        UnsupportedModelError
            If the expert cannot exit early.
        """
        config = self._expert.model.config.get_text_config()
        scoring = scoring.for_expert(self._expert.layers, tied=bool(getattr(config, "tie_word_embeddings", False)))
        if scoring.exits and self._confident is not None:
            raise SettingsError(
                f"{type(scoring).__name__} reads layers that a ConfidentExit may skip; leave one of them out"
            )
        for key in scoring.exits.values():
            if key not in self._exits:
                self._exits[key] = make_exit(self._expert, key[0], norm=key[1], least=0)
        known = {*self._widths, *scoring.exits}
        if "amateur" in scoring.sources and "amateur" not in known:
            raise SettingsError(
                f"{type(scoring).__name__} needs an amateur and this decoder has none; give Decoder(…, amateur=…), "
                "for instance EarlyExit(layer)"
            )
        missing = [name for name in scoring.sources if name not in known]
        if missing:
            models = ", ".join(f"{name!r}: …" for name in missing)
            raise SettingsError(
                f"{type(scoring).__name__} needs sources that this decoder lacks; give Decoder(…, sources={{{models}}})"
            )
        return scoring

    def width(self, scoring: Scoring) -> int:
        """Return the width of the vocabulary that every model read by a scoring has."""
        return min(self._widths.get(name, self._expert.width) for name in scoring.sources)

    def context(self, scoring: Scoring) -> int | None:
        """Return the most tokens a row may hold for the sake of the models a scoring reads; None is unbounded.

        A model that reads another prompt is left out: its rows are of other lengths.
        """
        read = [factory for name, factory in self._read_by(scoring) if factory.other_prompt is None]
        bounds = [self._expert.context, *(factory.context for factory in read)]
        return min((bound for bound in bounds if bound is not None), default=None)

    def other_prompts(self, scoring: Scoring) -> Mapping[str, tuple[OtherPrompt, int | None]]:
        """Return the sources that read another prompt, by name, and the most tokens their rows may hold."""
        return {
            name: (factory.other_prompt, factory.context)
            for name, factory in self._read_by(scoring)
            if factory.other_prompt is not None
        }

    def _read_by(self, scoring: Scoring) -> list[tuple[str, AmateurFactory]]:
        return [(name, self._factories[name]) for name in scoring.sources if name in self._factories]

    def open(self, scoring: Scoring, strategy: Strategy | None = None) -> Sources:
        """Return the sources of a method, without rows.

        Raises
        ------
        SettingsError, UnsupportedModelError, LoadError
            If a speculative strategy has nothing that can draft, or a model that cannot be rolled back; or if the
            expert cannot show a contrastive search its hidden states.
        """
        inside = strategy is not None and strategy.reads_hidden_states
        if inside and self._expert.cache != "ragged":
            raise UnsupportedModelError(
                f"{type(strategy).__name__} compares hidden states, which {type(self._expert.model).__name__} does not "
                f"show here: {self._expert.reason}; choose another strategy, or an attention-only model"
            )
        if inside and self._confident is not None:
            raise SettingsError(
                f"{type(strategy).__name__} compares hidden states of the last layer, which a ConfidentExit may skip; "
                "leave one of them out"
            )
        expert = self._open_expert()
        others: dict[str, Source] = {name: factory.open() for name, factory in self._read_by(scoring)}
        others |= {name: self._exits[key] for name, key in scoring.exits.items()}
        if "amateur" in scoring.sources and isinstance(self._amateur_setting, OtherTokenizer) and self.bridged:
            _check_judges(scoring)
            if inside:
                raise SettingsError(
                    f"{type(strategy).__name__} reads candidates ahead, which an amateur with another tokenizer cannot "
                    "follow; choose Greedy(), Beam() or an amateur with the expert's tokens"
                )
            others["amateur"] = self._bridge(self._amateur_setting)()
        drafting = None if strategy is None else strategy.drafting
        if drafting is not None:
            if drafting.by_model and not self._amateur_drafts(drafting, others.get("amateur")):
                others["draft"] = self._prepare_draft(drafting.setting)(expert)
            for model in (expert, *others.values()):
                if isinstance(model, LanguageModel):
                    model.check_truncate()
        return Sources(expert, others, self.width(scoring))

    def _amateur_drafts(self, drafting: Drafting, amateur: Source | None) -> bool:
        """Tell whether the amateur that a scoring reads drafts as well: an exit has no pass of its own to do so."""
        chosen = drafting.setting is None or drafting.setting is self._amateur_setting
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
        if isinstance(draft, OtherPrompt):
            raise SettingsError(
                "a model that reads another prompt drafts only for a scoring that contrasts with it; give "
                "Speculative(draft=…): PromptLookup(3), EarlyExit(layer) or a model"
            )
        if not isinstance(draft, (PreTrainedModel, Window, NGram)):
            remedy = unwrapping(
                draft,
                "give a model, EarlyExit(layer), PromptLookup(ngram), OtherTokenizer(model, tokenizer), or None for "
                "the amateur",
            )
            raise SettingsError(f"Speculative.draft is {shown(draft)}; {remedy}")
        if id(draft) not in self._drafts:  # inspected, and perhaps compiled, once
            self._drafts[id(draft)] = draft, prepare_amateur(draft, self._expert, self._runner, self._tokenizer)
        _, factory = self._drafts[id(draft)]

        def other(_expert: LanguageModel) -> LanguageModel:
            opened = factory.open()
            assert isinstance(opened, LanguageModel)
            return opened

        return other

    def _prepare(self, name: str, source: Amateur, tokenizer: PreTrainedTokenizerBase | None) -> None:
        """Check a source against the expert, with its tokenizer if that is known, and keep what opens it."""
        if isinstance(source, OtherTokenizer):
            _check_place(name, tokenizer)
            if self._is_foreign(source):
                self._bridge(source)
                self._widths[name] = self._expert.width
                return
            tokenizer, source = source.tokenizer, _model_of(source)
        factory = prepare_amateur(source, self._expert, self._runner, self._tokenizer)
        self._widths[name] = self._share(name, factory.width, tokenizer)
        self._factories[name] = factory

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
        tables = Tables(respeller, self._expert.width, seen.width, model.device)
        runner = open_runner(seen, self._runner.mode)
        return lambda: Bridge(
            open_model(seen, runner),
            tables,
            self._ends(respeller, setting),
            reopen=setting.reopen,
            tolerance=setting.tolerance,
            budget=setting.budget,
        )

    def _ends(self, respeller: Respeller, setting: OtherTokenizer) -> dict[int, tuple[int, ...]]:
        """Return what tokens of the expert that are no text are to a model with another tokenizer, as of now."""
        own, other = respeller.own.special, respeller.other.special
        ends: dict[int, tuple[int, ...]] = {
            token_id: (other[content],) for content, token_id in own.items() if content in other
        }
        other_ends = eos_token_ids(_model_of(setting), setting.tokenizer)
        return ends | {
            token_id: other_ends for token_id in eos_token_ids(self._expert.model, self._tokenizer) if other_ends
        }

    def _share(self, name: str, width: int, other_tokenizer: PreTrainedTokenizerBase | None) -> int:
        """Return the width that the expert and another source have in common."""
        tokenizer = self._tokenizer
        if tokenizer is not None and other_tokenizer is not None:
            return check_same_vocabulary(tokenizer, other_tokenizer, self._expert.width, width)
        if tokenizer is not None and width < len(tokenizer) <= self._expert.width:
            raise VocabularyError(
                f"the {name}'s logits are {width} wide, but the tokenizer has {len(tokenizer)} tokens; "
                "choose a model of the expert's family"
            )
        return min(self._expert.width, width)


def _model_of(setting: OtherTokenizer) -> PreTrainedModel:
    """Return the model, which is loaded by now."""
    if not isinstance(setting.model, PreTrainedModel):
        raise SettingsError(
            f"OtherTokenizer holds the name {setting.model!r}; load it with Decoder.from_pretrained, or give a model "
            "with its tokenizer"
        )
    return setting.model


def _check_place(name: str, tokenizer: PreTrainedTokenizerBase | None) -> None:
    """Refuse a model with another tokenizer where it cannot stand."""
    if name != "amateur":
        raise SettingsError(
            f"the source {name!r} is an OtherTokenizer, but only an amateur may have another tokenizer: the logits of "
            f"the {name} are read token by token; give a model that shares the expert's tokens"
        )
    if tokenizer is not None:
        raise SettingsError("OtherTokenizer holds the amateur's tokenizer; leave amateur_tokenizer out")


def _check_judges(scoring: Scoring) -> None:
    """Refuse a scoring that reads more of the amateur than its verdict on plausible tokens."""
    if scoring.head(torch.zeros(1, 1)) is None:
        raise SettingsError(
            f"{scoring} reads the amateur's logits of every token, and an amateur with another tokenizer judges "
            "plausible tokens only; use Contrastive(), or another amateur"
        )


def _check_confident(setting: Any, runner: RunnerName, sources: Mapping[str, Any]) -> None:
    """Refuse what cannot be right where tokens skip layers of the expert."""
    if not isinstance(setting, ConfidentExit):
        raise SettingsError(f"confident_exit is {shown(setting)}; give a ConfidentExit, or None")
    if runner in ("compiled", "graph"):
        raise SettingsError(
            "a compiled or captured pass runs all layers of the expert, and a ConfidentExit skips some; choose "
            "runner='auto', which leaves the expert eager, or leave it out"
        )
    for name, source in sources.items():
        if isinstance(source, EarlyExit):
            raise SettingsError(
                f"the {name} is an EarlyExit, a layer of the expert that a ConfidentExit may skip; give another model"
            )
