"""descant's methods inside transformers: `model.generate(**inputs, custom_generate=descant.contrastive, amateur=…)`.

`generate` prepares processors, stopping criteria and lengths from its arguments, and a method decodes with all of them.
What it cannot honour, it refuses.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteriaList,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)
from transformers.generation.configuration_utils import GenerationMode
from transformers.generation.utils import GenerateBeamDecoderOnlyOutput, GenerateDecoderOnlyOutput

from descant.calls.models import Models
from descant.calls.prompts import check_rows
from descant.engine.loop import Engine
from descant.errors import SettingsError
from descant.integrations.columns import BatchProcessors, Columns
from descant.integrations.generate_beams import BeamProcessors, also_ends, beam_of, beam_result, search
from descant.method import Method
from descant.models.architecture import CACHE_ARGUMENTS
from descant.numerics.choose import row_generator
from descant.presets import Preset, preset
from descant.rows import Ending, Row
from descant.scoring import Contrastive, Likelihood
from descant.sources.amateur import Amateur, AnyAmateur
from descant.strategies import Beam, Greedy, Sample

__all__ = [
    "contrastive",
    "contrastive_beta",
    "likelihood",
    "prompt_lookup",
    "speculative",
    "speculative_contrastive",
]

_READ = ("attention_mask", "position_ids", *CACHE_ARGUMENTS, "use_cache", "logits_to_keep")
"""What `generate` makes for a model's forward pass and is taken care of here; the cache is empty."""


_MODES = (
    GenerationMode.GREEDY_SEARCH,
    GenerationMode.SAMPLE,
    GenerationMode.BEAM_SEARCH,
    GenerationMode.BEAM_SAMPLE,
)


@dataclass(frozen=True)
class CustomGenerate:
    """A decoding method as the `custom_generate` argument of `model.generate`.

    Attributes
    ----------
    method
        Its parts, as a preset names them.

    Notes
    -----
    Calling it is transformers' business. Besides its own arguments, `generate` takes:

    amateur
        A model with the expert's tokens, `EarlyExit(layer)`, or `Window(model, tokens)`.
    cd_alpha, cd_beta, cd_amateur_temperature, cd_candidates
        The settings of `Contrastive`, if they are to differ from the method's.
    draft, draft_tokens, draft_confidence
        Those of `Speculative`.

    `do_sample` decides between greedy choice and sampling. Without speculation sampling draws as transformers does, so
    that `torch.manual_seed` gives the same tokens; with it, each row has a generator that is seeded from torch's.
    `num_beams`, with `num_return_sequences`, `length_penalty` and `early_stopping`, searches for the sequence with the
    best total score; of the dictionary that can be asked for it fills `sequences` and `sequences_scores`.

    A stop string must come as a criterion, `stopping_criteria=[StopStringCriteria(tokenizer, ["…"])]`: transformers
    keeps its `tokenizer` argument from custom methods. In the dictionary that `return_dict_in_generate` asks for there
    is no cache. A row ends where the model's context does.
    """

    method: Preset

    def __call__(
        self,
        model: PreTrainedModel,
        input_ids: Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        *,
        amateur: AnyAmateur | None = None,
        cd_alpha: float | None = None,
        cd_beta: float | None = None,
        cd_amateur_temperature: float | None = None,
        cd_candidates: int | None = None,
        draft: Any = None,
        draft_tokens: int | Literal["auto"] | None = None,
        draft_confidence: float | None = None,
        **model_kwargs: Any,
    ) -> GenerateDecoderOnlyOutput | GenerateBeamDecoderOnlyOutput | Tensor:
        """Decode; `generate` calls this with what it has prepared.

        Raises
        ------
        SettingsError
            If an argument, of `generate` or of the method, would have no effect.
        PromptError, VocabularyError, UnsupportedModelError, DecodingError
            As `Decoder.generate` does.
        """
        asked = _arguments_of_generate()
        _refuse(generation_config, model_kwargs, asked)
        streamer = asked.get("streamer")
        beams = beam_of(generation_config, streamer) if generation_config.num_beams > 1 else None
        contrast = _given(
            cd_alpha=cd_alpha,
            cd_beta=cd_beta,
            cd_amateur_temperature=cd_amateur_temperature,
            cd_candidates=cd_candidates,
        )
        speculation = _given(draft=draft, draft_tokens=draft_tokens, draft_confidence=draft_confidence)
        method = self._compose(contrast, speculation, beams, sample=bool(generation_config.do_sample))
        self._check_amateur(method, amateur)
        _check_readable(amateur, draft)
        _check_processors(method, logits_processor)
        models = Models(model, amateur, {}, None, {}, "auto")
        width = 1 if beams is None else beams.width  # `generate` has repeated every prompt as often
        prompts = input_ids[::width]
        ending = Ending(frozenset(_eos_token_ids(stopping_criteria)))
        rows = _rows(
            _prompts(input_ids, model_kwargs)[::width],
            method,
            models,
            new=(stopping_criteria.max_length or generation_config.max_length) - input_ids.shape[1],
            endings=[
                ending if beams is None else replace(ending, also=also_ends(stopping_criteria, row)) for row in prompts
            ],
        )
        if beams is not None:
            processors = (BeamProcessors(logits_processor, prompts, beams.width),) if logits_processor else ()
            engine = _engine(models, replace(method, processors=processors), rows)
            return beam_result(prompts, search(engine, rows), generation_config)
        pad = _pad(generation_config, rows)
        columns = Columns(input_ids, rows, stopping_criteria, pad, streamer, models.width(Likelihood()))
        _decode(models, method, rows, columns, logits_processor, generation_config)
        if streamer is not None:
            streamer.end()
        return _result(columns, generation_config)

    def _compose(
        self, contrast: Mapping[str, Any], speculation: Mapping[str, Any], beams: Beam | None, *, sample: bool
    ) -> Method:
        """Return the method with the user's settings, without processors."""
        scoring, strategy = self.method.scoring, self.method.strategy
        if isinstance(scoring, Contrastive):
            scoring = replace(scoring, **{name.removeprefix("cd_"): value for name, value in contrast.items()})
        elif contrast:
            raise SettingsError(f"{', '.join(contrast)} would have no effect: {self} has no contrast; leave out")
        if strategy.drafting is not None and beams is not None:
            raise SettingsError(
                f"{self} drafts for one sequence, and num_beams asks for several; leave one of them out"
            )
        if strategy.drafting is not None:
            changes = {name.removeprefix("draft_"): value for name, value in speculation.items()}
            drafted: Any = strategy.over(Sample() if sample else Greedy())
            return Method(scoring, (), replace(drafted, **changes))
        if speculation:
            raise SettingsError(f"{', '.join(speculation)} would have no effect: {self} drafts nothing; leave out")
        return Method(scoring, (), beams or (Sample(rng="transformers") if sample else Greedy()))

    def _check_amateur(self, method: Method, amateur: AnyAmateur | None) -> None:
        drafts = method.strategy.drafting is not None and method.strategy.drafting.by_amateur
        if amateur is None and (drafts or "amateur" in method.scoring.sources):
            raise SettingsError(f"{self} needs amateur=: a model with the expert's tokens, or EarlyExit(layer)")
        if amateur is not None and not drafts and "amateur" not in method.scoring.sources:
            raise SettingsError(f"amateur would have no effect: {self} reads none; leave it out")

    def __str__(self) -> str:
        return f"custom_generate={self.method.name!r}"


def _check_readable(*parts: Any) -> None:
    """Refuse what needs more of the prompts than their tokens, which is all that `generate` hands on."""
    for part in parts:
        if isinstance(part, Amateur) and part.needs:
            raise SettingsError(part.needs)


def _given(**settings: Any) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def _arguments_of_generate() -> Mapping[str, Any]:
    """Return what `model.generate`, which is running, was called with; empty where it is not.

    It hands a custom method no streamer, no assistant, and no word on whose cache it is, and does not say so: who reads
    from a streamer would wait for ever.
    """
    code = inspect.unwrap(GenerationMixin.generate).__code__
    frame = inspect.currentframe()
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    return {} if frame is None else frame.f_locals


def _refuse(config: GenerationConfig, model_kwargs: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raise for whatever `generate` was asked that a method does not honour."""
    mode = config.get_generation_mode(asked.get("assistant_model"))
    if mode not in _MODES:
        raise SettingsError(
            f"the arguments ask for {mode.value.replace('_', ' ')}, and custom_generate for another method; leave out "
            "penalty_alpha, assistant_model, prompt_lookup_num_tokens and the like (descant.speculative "
            "and descant.prompt_lookup draft)"
        )
    theirs = [name for name in CACHE_ARGUMENTS if asked.get("kwargs", {}).get(name) is not None]
    inputs = [name for name, value in model_kwargs.items() if value is not None and name not in _READ]
    unused = {
        "use_cache": config.use_cache is False,
        "cache_implementation": config.cache_implementation not in (None, "dynamic"),
        "prefill_chunk_size": config.prefill_chunk_size is not None,
        "synced_gpus": bool(asked.get("synced_gpus")),
        **dict.fromkeys([*theirs, *inputs], True),
    }
    found = [name for name, given in unused.items() if given]
    if found:
        raise SettingsError(
            f"{', '.join(found)} would have no effect: descant reads token ids from the start into a cache of its own, "
            "and returns tokens, scores and logits; leave out, or set to None (use_cache to True)"
        )


def _check_processors(method: Method, processors: LogitsProcessorList) -> None:
    if any(isinstance(entry, UnbatchedClassifierFreeGuidanceLogitsProcessor) for entry in processors):
        if method.strategy.drafting is not None:
            raise SettingsError(
                "guidance_scale keeps a cache from token to token, and speculation judges several at once; leave one "
                "out"
            )
        if method.strategy.sums_scores:
            raise SettingsError(
                "guidance_scale keeps a cache of rows, and beams change places; leave one out, or use Decoder(model, "
                "tokenizer, OtherPrompt(…)) with Guidance() and Beam()"
            )


def _prompts(input_ids: Tensor, model_kwargs: Mapping[str, Any]) -> list[list[int]]:
    """Return the tokens of each row that its mask shows.

    Raises
    ------
    SettingsError
        If the positions are not those that follow from the mask.
    """
    mask = model_kwargs.get("attention_mask")
    shown = torch.ones_like(input_ids, dtype=torch.bool) if mask is None else mask.bool()
    positions = model_kwargs.get("position_ids")
    if positions is not None and bool((positions != shown.cumsum(-1) - 1)[shown.expand_as(positions)].any()):
        raise SettingsError("position_ids are not those of the tokens that attention_mask shows; leave them out")
    return [row[visible].tolist() for row, visible in zip(input_ids, shown, strict=True)]


def _rows(
    prompts: Sequence[list[int]], method: Method, models: Models, *, new: int, endings: Sequence[Ending]
) -> list[Row]:
    """Return a row for each prompt, to gain `new` tokens at most.

    Raises
    ------
    PromptError
        If a prompt is empty or longer than the context.
    """
    context = models.context(method.scoring)
    check_rows(prompts, width=models.width(method.scoring), context=context, room=1)
    seeded = method.strategy.random and not method.strategy.whole_batch
    seed = int(torch.randint(1 << 32, ())) if seeded else 0
    limits = [len(tokens) + new for tokens in prompts]
    return [
        Row(index, tokens, len(tokens), min(limit, context or limit), ending, row_generator(seed, index))
        for index, (tokens, limit, ending) in enumerate(zip(prompts, limits, endings, strict=True))
    ]


def _eos_token_ids(criteria: StoppingCriteriaList) -> list[int]:
    """Return the ids that end a row; transformers looks at the same attribute."""
    return [token for entry in criteria if hasattr(entry, "eos_token_id") for token in entry.eos_token_id.tolist()]


def _pad(config: GenerationConfig, rows: Sequence[Row]) -> int | None:
    """Return what fills ended rows; None where they are to go on, for nothing ends one before the others."""
    if rows[0].ending.token_ids:
        return int(cast(Tensor, config._pad_token_tensor))
    if len({row.limit - row.prompt_length for row in rows}) > 1:
        raise SettingsError(
            "without an end of sequence rows are not padded, and some would end before others, at the end of the "
            "model's context; lower max_new_tokens"
        )
    return None


def _decode(
    models: Models,
    method: Method,
    rows: Sequence[Row],
    columns: Columns,
    processors: LogitsProcessorList,
    config: GenerationConfig,
) -> None:
    """Decode the rows into the columns."""
    recorded = config.return_dict_in_generate and (config.output_scores or config.output_logits)
    method = replace(method, processors=(BatchProcessors(processors, columns),) if processors else ())
    engine = _engine(models, method, rows, observe=columns.observe if recorded else None)
    engine.add(rows)
    while engine.busy:
        engine.step()
        engine.cancel(columns.advance())


def _engine(models: Models, method: Method, rows: Sequence[Row], **settings: Any) -> Engine:
    """Return an engine that decodes all rows at once."""
    sources, places = models.open(method.scoring, method.strategy), len(rows) * method.strategy.rows
    return Engine(sources, method, batch_rows=len(rows), max_rows=places, **settings)


def _result(columns: Columns, config: GenerationConfig) -> GenerateDecoderOnlyOutput | Tensor:
    if not config.return_dict_in_generate:
        return columns.ids
    found = {
        "sequences": columns.ids,
        "scores": columns.scores if config.output_scores else None,
        "logits": columns.logits if config.output_logits else None,
    }
    return GenerateDecoderOnlyOutput(**found)  # type: ignore[arg-type]


likelihood = CustomGenerate(preset("greedy"))
contrastive = CustomGenerate(preset("contrastive"))
contrastive_beta = CustomGenerate(preset("contrastive-beta"))
speculative = CustomGenerate(preset("speculative"))
speculative_contrastive = CustomGenerate(preset("speculative-contrastive"))
prompt_lookup = CustomGenerate(preset("prompt-lookup"))
