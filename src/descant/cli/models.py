"""From the options to loaded models."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from descant.cli.options import DraftOptions, ExitOptions, ModelOptions, flag
from descant.decoder import Decoder
from descant.errors import UsageError
from descant.models.loading import PAIRS
from descant.sources import EarlyExit, OtherPrompt, OtherTokenizer, Window
from descant.sources.confident_exit import ConfidentExit
from descant.strategies import PromptLookup


@dataclass(frozen=True)
class Plan:
    """Which checkpoints to load, by what the options say.

    Attributes
    ----------
    expert, amateur
        Hub ids or folders.
    asked
        The option that asked for an amateur, if one did.
    bundled
        Whether the expert is the one that ships with descant.
    options
        All options.
    """

    expert: str
    amateur: str | None
    asked: str | None
    bundled: bool
    options: ModelOptions

    @property
    def has_amateur(self) -> bool:
        """Whether there is something to contrast with."""
        return self.amateur is not None or self.asked is not None


def plan_models(options: ModelOptions) -> Plan:
    """Decide which checkpoints the options name.

    Raises
    ------
    UsageError
        If two options exclude each other.
    """
    if options.pair is not None and (options.expert is not None or options.amateur is not None):
        raise UsageError("--pair names expert and amateur; drop it, or --expert and --amateur")
    layer = options.amateur_layer is not None
    if layer and (options.amateur is not None or options.amateur_window is not None):
        other = "--amateur" if options.amateur is not None else "--amateur-window"
        raise UsageError(f"--amateur-layer makes the amateur from the expert, so {other} cannot be honoured; drop one")
    elsewise = options.amateur_window is not None or options.amateur_prompt is not None
    if options.bridge_tokenizers and (options.amateur is None or elsewise):
        raise UsageError(
            "--bridge-tokenizers is for an amateur with another tokenizer, which sees the text as it is; give it with "
            "--amateur NAME and without --amateur-window or --amateur-prompt, or drop it"
        )
    if options.amateur_prompt is not None and (layer or options.amateur_window is not None):
        other = "--amateur-layer" if layer else "--amateur-window"
        raise UsageError(f"--amateur-prompt makes the amateur in another way than {other}; drop one")
    bundled = options.pair is None and options.expert is None
    expert, amateur = _names(options)
    named = (
        ("--amateur-layer", options.amateur_layer),
        ("--amateur-window", options.amateur_window),
        ("--amateur-prompt", options.amateur_prompt),
    )
    asked = next((name for name, value in (*named, ("--amateur", options.amateur)) if value is not None), None)
    if options.amateur_prompt is not None and options.pair is None:
        amateur = options.amateur  # the bundled amateur has not been asked for
    return Plan(expert, None if layer else amateur, asked, bundled, options)


def load_models(
    plan: Plan,
    *,
    reads_amateur: bool,
    reads: Collection[str] = (),
    confident_exit: ConfidentExit | None = None,
) -> Decoder:
    """Load what the plan names; the amateur only if it will be read.

    Parameters
    ----------
    reads_amateur
        Whether it will.
    reads
        All sources that the methods' scorings read.
    confident_exit
        As `Decoder` takes it.

    Raises
    ------
    UsageError
        If an amateur or another source was asked for that would not be read, or one is lacking.
    LoadError
        If a checkpoint is missing, damaged or not a causal language model.
    """
    if plan.asked is not None and not reads_amateur:
        raise UsageError(f"{plan.asked} would have no effect: the method reads no amateur; drop it, or --method")
    options = plan.options
    _check_quantization(plan, reads_amateur=reads_amateur)
    sources = _parse_sources(options.source or (), reads)
    amateur: str | EarlyExit | Window | OtherTokenizer | None = None
    if reads_amateur and options.amateur_layer is not None:
        amateur = EarlyExit(options.amateur_layer)
    elif reads_amateur and plan.amateur is not None:
        amateur = plan.amateur if options.amateur_window is None else Window(plan.amateur, options.amateur_window)
        if options.bridge_tokenizers:
            amateur = OtherTokenizer(plan.amateur)
    decoder = Decoder.from_pretrained(
        plan.expert,
        amateur=amateur,
        sources=sources,
        device=options.device,
        dtype="float32" if plan.bundled and options.dtype == "auto" else options.dtype,
        allow_pickle=options.allow_pickle,
        trust_remote_code=options.trust_remote_code,
        runner=options.runner,  # type: ignore[arg-type]
        quantization=options.quantization,  # type: ignore[arg-type]
        amateur_quantization=options.amateur_quantization,  # type: ignore[arg-type]
        confident_exit=confident_exit,
    )
    part: Window | OtherPrompt
    if reads_amateur and amateur is None and options.amateur_window is not None:
        part = Window(decoder.expert, options.amateur_window)
    elif reads_amateur and options.amateur_prompt is not None:
        reader = decoder.amateur
        assert reader is None or isinstance(reader, PreTrainedModel)
        part = OtherPrompt(options.amateur_prompt, reader)
    else:
        return decoder
    return Decoder(
        decoder.expert,
        decoder.tokenizer,
        part,
        sources=decoder.sources,
        runner=decoder.runner,
        confident_exit=confident_exit,
    )


def _parse_sources(given: Sequence[str], reads: Collection[str]) -> dict[str, str]:
    """Return the names of further models by their role, which are those that the methods read."""
    sources = {}
    for entry in given:
        role, equals, name = entry.partition("=")
        if not (role and equals and name):
            raise UsageError(f"--source is {entry!r}; give ROLE=NAME, such as tuned=NAME")
        if role not in reads or role in ("expert", "amateur"):
            raise UsageError(f"--source {entry} would have no effect: the method reads no such source; drop it")
        sources[role] = name
    lacking = [role for role in reads if role not in ("expert", "amateur", *sources)]
    if lacking:
        raise UsageError(f"the method needs {' and '.join(f'--source {role}=NAME' for role in lacking)}")
    return sources


def _check_quantization(plan: Plan, *, reads_amateur: bool) -> None:
    options = plan.options
    named = (("--quantization", options.quantization), ("--amateur-quantization", options.amateur_quantization))
    for name, scheme in named:
        if scheme not in (None, "int8", "int4"):
            raise UsageError(f"{name} is {scheme!r}; choose int8 or int4")
    if options.amateur_quantization is not None and not (reads_amateur and plan.amateur is not None):
        raise UsageError("--amateur-quantization would have no effect: no amateur of its own is read; drop it")


def choose_exit(options: ExitOptions) -> ConfidentExit | None:
    """Return when tokens leave the expert early, as the options say.

    Raises
    ------
    UsageError
        If they do not say from which confidence on.
    """
    given = options.given()
    if given and "exit_threshold" not in given:
        raise UsageError(f"{' and '.join(map(flag, given))} would have no effect: give --exit-threshold X as well")
    names = {"exit_threshold": "threshold", "exit_measure": "measure", "exit_layer": "layers"}
    return ConfidentExit(**{names[name]: value for name, value in given.items()}) if given else None


def choose_draft(options: DraftOptions) -> Any:
    """Return what the options name as drafting: a name still to be loaded, layers, a lookup, or None for the amateur.

    Raises
    ------
    UsageError
        If they name several.
    """
    named = {
        "--draft-model": options.draft_model,
        "--draft-layer": None if options.draft_layer is None else EarlyExit(options.draft_layer),
        "--draft-lookup": None if options.draft_lookup is None else PromptLookup(options.draft_lookup),
    }
    given = {name: draft for name, draft in named.items() if draft is not None}
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} each name what drafts; drop all but one")
    return next(iter(given.values()), None)


def load_draft(name: str, plan: Plan, decoder: Decoder) -> PreTrainedModel | OtherTokenizer:
    """Load a model that drafts for a decoder; its tokens may be others, since a draft never changes the text.

    Raises
    ------
    LoadError
        If the checkpoint is missing, damaged or not a causal language model.
    VocabularyError
        If its tokens are not the expert's, and cannot be told byte by byte.
    """
    options = plan.options
    # As the amateur of a pair it would be checked in the same way.
    pair = Decoder.from_pretrained(
        name,
        device=options.device,
        dtype=options.dtype,
        allow_pickle=options.allow_pickle,
        trust_remote_code=options.trust_remote_code,
    )
    bridged = OtherTokenizer(pair.expert, pair.tokenizer)
    together = Decoder(decoder.expert, decoder.tokenizer, bridged)
    return bridged if together.bridged else pair.expert


def _names(options: ModelOptions) -> tuple[str, str | None]:
    """Return the expert and its amateur."""
    if options.pair is not None:
        if options.pair not in PAIRS:
            raise UsageError(f"there is no pair {options.pair!r}; choose from {', '.join(PAIRS)}")
        return PAIRS[options.pair]
    if options.expert is not None:
        return options.expert, options.amateur
    from descant.demo import demo_paths

    expert, amateur = demo_paths()
    return str(expert), options.amateur or str(amateur)
