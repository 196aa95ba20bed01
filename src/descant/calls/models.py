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
from descant.models.wrapped import unwrapping
from descant.scoring import Scoring
from descant.sources.amateur import AnyAmateur, Beside, Prepared, Source, prepare_amateur
from descant.sources.confident_exit import ConfidentExit, prepare_confident
from descant.sources.early_exit import make_exit
from descant.sources.other_prompt import OtherPrompt
from descant.sources.sources import Sources
from descant.strategies import Strategy
from descant.strategies.drafts import Drafting
from descant.tokens import check_same_vocabulary

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
        amateur: AnyAmateur | None,
        sources: Mapping[str, AnyAmateur],
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
            _check_confident(confident_exit, runner)
            self._open_expert = prepare_confident(self._expert, confident_exit)
        self._tokenizer = tokenizer
        self._amateur_setting = amateur
        self._beside = Beside(self._expert, self._runner, tokenizer)
        self._prepared: dict[int, tuple[Any, Prepared]] = {}  # by the setting's identity, which is kept with it
        self._exits: dict[tuple[int, bool], Exit] = {}
        self._sources: dict[str, Prepared] = {}
        self._widths = {"expert": self._expert.width}
        for name, source in {**({} if amateur is None else {"amateur": amateur}), **sources}.items():
            self._sources[name] = prepared = self._prepare(source)
            self._widths[name] = self._check_place(name, source, prepared, tokenizers.get(name))

    @property
    def has_amateur(self) -> bool:
        """Whether there is an amateur."""
        return self._amateur_setting is not None

    @property
    def bridged(self) -> bool:
        """Whether the amateur has another tokenizer."""
        return self.has_amateur and self._sources["amateur"].bytewise

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
        tied = bool(getattr(config, "tie_word_embeddings", False))
        bytewise = ("amateur",) if self.bridged else ()
        scoring = scoring.for_models(self._expert.layers, tied=tied, bytewise=bytewise)
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
        read = [source for _, source in self._read_by(scoring) if source.other_prompt is None]
        bounds = [self._expert.context, *(source.context for source in read)]
        return min((bound for bound in bounds if bound is not None), default=None)

    def other_prompts(self, scoring: Scoring) -> Mapping[str, tuple[OtherPrompt, int | None]]:
        """Return the sources that read another prompt, by name, and the most tokens their rows may hold."""
        return {
            name: (source.other_prompt, source.context)
            for name, source in self._read_by(scoring)
            if source.other_prompt is not None
        }

    def _read_by(self, scoring: Scoring) -> list[tuple[str, Prepared]]:
        return [(name, self._sources[name]) for name in scoring.sources if name in self._sources]

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
        others: dict[str, Source] = {name: source.open() for name, source in self._read_by(scoring)}
        others |= {name: self._exits[key] for name, key in scoring.exits.items()}
        if "amateur" in scoring.sources and self.bridged:
            _check_judges(scoring, self._expert.width)
            if inside:
                raise SettingsError(
                    f"{type(strategy).__name__} reads candidates ahead, which an amateur with another tokenizer cannot "
                    "follow; choose Greedy(), Beam() or an amateur with the expert's tokens"
                )
        drafting = None if strategy is None else strategy.drafting
        if drafting is not None:
            if drafting.by_model and not self._amateur_drafts(drafting, others.get("amateur")):
                others["draft"] = self._open_draft(drafting.setting, expert)
            for model in (expert, *others.values()):
                if isinstance(model, LanguageModel):
                    model.check_truncate()
        return Sources(expert, others, self.width(scoring))

    def _amateur_drafts(self, drafting: Drafting, amateur: Source | None) -> bool:
        """Tell whether the amateur that a scoring reads drafts as well: an exit has no pass of its own to do so."""
        chosen = drafting.setting is None or drafting.setting is self._amateur_setting
        return chosen and isinstance(amateur, LanguageModel)

    def _open_draft(self, draft: Any, expert: LanguageModel) -> Source:
        if draft is None:
            draft = self._amateur_setting
        if draft is None:
            raise SettingsError(
                "Speculative() drafts with the amateur, and this decoder has none; give draft=PromptLookup(3), "
                "EarlyExit(layer) or a model that shares the expert's tokens"
            )
        if not isinstance(draft, AnyAmateur):
            remedy = unwrapping(
                draft,
                "give a model, EarlyExit(layer), PromptLookup(ngram), OtherTokenizer(model, tokenizer), or None for "
                "the amateur",
            )
            raise SettingsError(f"Speculative.draft is {shown(draft)}; {remedy}")
        prepared = self._prepare(draft)
        if prepared.why_no_draft:
            raise SettingsError(prepared.why_no_draft)
        return prepared.open() if prepared.draft is None else prepared.draft(expert)

    def _prepare(self, source: AnyAmateur) -> Prepared:
        """Check a source beside the expert, and perhaps have it compiled, once."""
        if id(source) not in self._prepared:
            self._prepared[id(source)] = source, prepare_amateur(source, self._beside)
        _, prepared = self._prepared[id(source)]
        return prepared

    def _check_place(
        self, name: str, source: AnyAmateur, prepared: Prepared, tokenizer: PreTrainedTokenizerBase | None
    ) -> int:
        """Check a source where it stands, with its tokenizer if that is known, and return the width to read it in."""
        kind = type(source).__name__
        if prepared.of_expert and self._confident is not None:
            raise SettingsError(
                f"the {name} is an {kind}, a layer of the expert that a ConfidentExit may skip; give another model"
            )
        held = prepared.tokenizer
        if held is not None and name != "amateur":
            raise SettingsError(
                f"the source {name!r} is an {kind}, but only an amateur may have another tokenizer: the logits of "
                f"the {name} are read token by token; give a model that shares the expert's tokens"
            )
        if held is not None and tokenizer not in (None, held):
            raise SettingsError(f"{kind} holds the amateur's tokenizer; leave amateur_tokenizer out")
        if prepared.bytewise:
            return self._expert.width
        return self._share(name, prepared.width, tokenizer or held)

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


def _check_judges(scoring: Scoring, width: int) -> None:
    """Refuse a scoring that reads more of the amateur than its verdict on plausible tokens."""
    unsure = torch.zeros(1, width)
    unsure[:, width // 2 :] = -1000  # as unsure as can be, between plausible tokens
    needed = scoring.needed(unsure, exactly=True)
    if needed is None or bool(needed.all()):
        raise SettingsError(
            f"{scoring} reads the amateur's logits of every token, and an amateur with another tokenizer judges "
            "plausible tokens only; use Contrastive(), or another amateur"
        )


def _check_confident(setting: Any, runner: RunnerName) -> None:
    """Refuse what cannot be right where tokens skip layers of the expert."""
    if not isinstance(setting, ConfidentExit):
        raise SettingsError(f"confident_exit is {shown(setting)}; give a ConfidentExit, or None")
    if runner in ("compiled", "graph"):
        raise SettingsError(
            "a compiled or captured pass runs all layers of the expert, and a ConfidentExit skips some; choose "
            "runner='auto', which leaves the expert eager, or leave it out"
        )
