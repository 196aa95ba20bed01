"""descant: decoding by contrast.

Any decoding method, in any combination, exact and batched, over transformers' causal language models.

The names below are imported when they are first used, so that the command line answers `--help` without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from descant.decoder import Decoder
    from descant.errors import (
        DecodingError,
        DescantError,
        LoadError,
        OutOfMemoryError,
        PromptError,
        SettingsError,
        UnsupportedModelError,
        UsageError,
        VocabularyError,
    )
    from descant.integrations.logits_processor import ContrastiveLogitsProcessor
    from descant.integrations.transformers_generate import (
        contrastive,
        contrastive_beta,
        likelihood,
        prompt_lookup,
        speculative,
        speculative_contrastive,
    )
    from descant.processors import (
        BadWords,
        Epsilon,
        Eta,
        FrequencyPenalty,
        LogitBias,
        MinNewTokens,
        MinP,
        NoRepeatNGram,
        PresencePenalty,
        RepetitionPenalty,
        Temperature,
        TopK,
        TopNSigma,
        TopP,
        TransformersProcessor,
        Typical,
    )
    from descant.results import Candidate, Output, Piece, Score, Speculation, Timing, TokenTrace
    from descant.scoring import (
        AutoContrastive,
        ContextAware,
        Contrastive,
        DExperts,
        DoLa,
        Guidance,
        Likelihood,
        ProxyTuning,
        Scoring,
        WhenUncertain,
    )
    from descant.sources.confident_exit import ConfidentExit
    from descant.sources.settings import EarlyExit, NGram, OtherPrompt, OtherTokenizer, Window
    from descant.strategies import Beam, ContrastiveSearch, Greedy, PromptLookup, Sample, Speculative

__version__ = "0.1.0"

__all__ = [
    "AutoContrastive",
    "BadWords",
    "Beam",
    "Candidate",
    "ConfidentExit",
    "ContextAware",
    "Contrastive",
    "ContrastiveLogitsProcessor",
    "ContrastiveSearch",
    "DExperts",
    "Decoder",
    "DecodingError",
    "DescantError",
    "DoLa",
    "EarlyExit",
    "Epsilon",
    "Eta",
    "FrequencyPenalty",
    "Greedy",
    "Guidance",
    "Likelihood",
    "LoadError",
    "LogitBias",
    "MinNewTokens",
    "MinP",
    "NGram",
    "NoRepeatNGram",
    "OtherPrompt",
    "OtherTokenizer",
    "OutOfMemoryError",
    "Output",
    "Piece",
    "PresencePenalty",
    "PromptError",
    "PromptLookup",
    "ProxyTuning",
    "RepetitionPenalty",
    "Sample",
    "Score",
    "Scoring",
    "SettingsError",
    "Speculation",
    "Speculative",
    "Temperature",
    "Timing",
    "TokenTrace",
    "TopK",
    "TopNSigma",
    "TopP",
    "TransformersProcessor",
    "Typical",
    "UnsupportedModelError",
    "UsageError",
    "VocabularyError",
    "WhenUncertain",
    "Window",
    "contrastive",
    "contrastive_beta",
    "likelihood",
    "prompt_lookup",
    "speculative",
    "speculative_contrastive",
]

_HOMES = {
    "EarlyExit": "sources.settings",
    "NGram": "sources.settings",
    "OtherPrompt": "sources.settings",
    "OtherTokenizer": "sources.settings",
    "Window": "sources.settings",
    "Decoder": "decoder",
    "DecodingError": "errors",
    "DescantError": "errors",
    "LoadError": "errors",
    "OutOfMemoryError": "errors",
    "PromptError": "errors",
    "SettingsError": "errors",
    "UnsupportedModelError": "errors",
    "UsageError": "errors",
    "VocabularyError": "errors",
    "ContrastiveLogitsProcessor": "integrations.logits_processor",
    "contrastive": "integrations.transformers_generate",
    "contrastive_beta": "integrations.transformers_generate",
    "likelihood": "integrations.transformers_generate",
    "prompt_lookup": "integrations.transformers_generate",
    "speculative": "integrations.transformers_generate",
    "speculative_contrastive": "integrations.transformers_generate",
    "ConfidentExit": "sources.confident_exit",
    "BadWords": "processors",
    "Epsilon": "processors",
    "Eta": "processors",
    "FrequencyPenalty": "processors",
    "LogitBias": "processors",
    "MinNewTokens": "processors",
    "MinP": "processors",
    "NoRepeatNGram": "processors",
    "PresencePenalty": "processors",
    "RepetitionPenalty": "processors",
    "Temperature": "processors",
    "TopK": "processors",
    "TopNSigma": "processors",
    "TopP": "processors",
    "TransformersProcessor": "processors",
    "Typical": "processors",
    "Candidate": "results",
    "Output": "results",
    "Piece": "results",
    "Score": "results",
    "Speculation": "results",
    "Timing": "results",
    "TokenTrace": "results",
    "AutoContrastive": "scoring",
    "ContextAware": "scoring",
    "Contrastive": "scoring",
    "DExperts": "scoring",
    "DoLa": "scoring",
    "Guidance": "scoring",
    "Likelihood": "scoring",
    "ProxyTuning": "scoring",
    "Scoring": "scoring",
    "WhenUncertain": "scoring",
    "Beam": "strategies",
    "ContrastiveSearch": "strategies",
    "Greedy": "strategies",
    "PromptLookup": "strategies",
    "Sample": "strategies",
    "Speculative": "strategies",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'descant' has no attribute {name!r}")
    return getattr(importlib.import_module(f"descant.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
