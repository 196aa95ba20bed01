"""Every error descant raises on purpose, in one tree.

Each message states the cause and then the remedy, in one line. The command line prints that line and exits
with 2 where the input was unusable (`UsageError` and below) and with 1 otherwise.

    DescantError
    ├── UsageError (also a ValueError)   the call itself cannot be honoured
    │   ├── SettingsError                a setting is outside its range, or two settings exclude each other
    │   ├── PromptError                  a prompt is empty, malformed, or longer than the model's context
    │   └── VocabularyError              expert and amateur do not share their tokens
    ├── LoadError                        a checkpoint is missing, corrupt, or of the wrong kind
    ├── UnsupportedModelError            a model works, but not in the way that was asked for
    ├── OutOfMemoryError                 what was asked for does not fit; the message holds the figure
    └── DecodingError                    a step failed: logits that are not numbers, no token left to choose
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

__all__ = [
    "DecodingError",
    "DescantError",
    "LoadError",
    "OutOfMemoryError",
    "PromptError",
    "SettingsError",
    "UnsupportedModelError",
    "UsageError",
    "VocabularyError",
]


class DescantError(Exception):
    """Base of every error that descant raises on purpose.

    Attributes
    ----------
    outputs
        Where `Decoder.generate` failed on the way: the outputs of the rows that had ended, by their place in the call.
    """

    outputs: Mapping[int, Any] = MappingProxyType({})


class UsageError(DescantError, ValueError):
    """The call cannot be honoured as it was made."""


class SettingsError(UsageError):
    """A setting is outside its range, or two settings exclude each other."""


class PromptError(UsageError):
    """A prompt is empty, malformed, or longer than the model's context."""


class VocabularyError(UsageError):
    """Expert and amateur do not share their tokens."""


class LoadError(DescantError):
    """A checkpoint is missing, corrupt, or not a causal language model."""


class UnsupportedModelError(DescantError):
    """A model cannot be used in the way that was asked for."""


class OutOfMemoryError(DescantError):
    """What was asked for does not fit into memory."""


class DecodingError(DescantError):
    """A decoding step failed."""


def first_line(error: BaseException) -> str:
    """Return what an error says, in one line of readable length."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:200] or type(error).__name__
