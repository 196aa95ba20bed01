"""descant: decoding by contrast.

Any decoding method, in any combination, exact and batched, over transformers' causal language models.

What its modules and packages export is imported when it is first used, so that the command line answers `--help`
without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from descant.decoder import *
    from descant.errors import *
    from descant.integrations.logits_processor import *
    from descant.integrations.transformers_generate import *
    from descant.processors import *
    from descant.results import *
    from descant.scoring import *
    from descant.sources import *
    from descant.strategies import *

__version__ = "0.1.0"

_HOMES = (
    "errors",
    "results",
    "scoring",
    "processors",
    "strategies",
    "sources",
    "decoder",
    "integrations.logits_processor",
    "integrations.transformers_generate",
)
"""Where the public names stand, each in the `__all__` of its home; the quick ones first."""


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return __dir__()
    if not name.startswith("_"):
        for home in _homes():
            if name in home.__all__:
                return getattr(home, name)
    raise AttributeError(f"module 'descant' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(name for home in _homes() for name in home.__all__)


def _homes() -> Any:
    return (importlib.import_module(f"descant.{home}") for home in _HOMES)
