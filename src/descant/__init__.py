"""descant: decoding by contrast.

Any decoding method, in any combination, exact and batched, over transformers' causal language models.

The names below are imported when they are first used, so that the command line answers `--help` without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from descant.amateurs import EarlyExit, OtherTokenizer, Window
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
    from descant.scoring import Contrastive, Likelihood, Scoring
    from descant.strategies import Greedy, PromptLookup, Sample, Speculative

__version__ = "0.1.0"

__all__ = [
    "BadWords",
    "Candidate",
    "Contrastive",
    "Decoder",
    "DecodingError",
    "DescantError",
    "EarlyExit",
    "Epsilon",
    "Eta",
    "FrequencyPenalty",
    "Greedy",
    "Likelihood",
    "LoadError",
    "LogitBias",
    "MinNewTokens",
    "MinP",
    "NoRepeatNGram",
    "OtherTokenizer",
    "OutOfMemoryError",
    "Output",
    "Piece",
    "PresencePenalty",
    "PromptError",
    "PromptLookup",
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
    "Window",
]

_HOMES = {
    "EarlyExit": "amateurs",
    "OtherTokenizer": "amateurs",
    "Window": "amateurs",
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
    "Contrastive": "scoring",
    "Likelihood": "scoring",
    "Scoring": "scoring",
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
