"""The options that methods' parts declare, listed for the command line, which begins without loading the parts.

`make options` writes the list anew when a part has changed.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import descant.processors
import descant.scoring
import descant.strategies
from descant.files import write_whole
from descant.options import Option, options, parts
from descant.processors import Processor
from descant.scoring import Scoring
from descant.strategies import Strategy

LIST = Path(__file__).with_name("options.json")

_CONTRAST = "Contrast: the default method where there is an amateur; else greedy"
_SAMPLING = "Sampling: any of these makes a method sample; --temperature 0 is greedy"
_PENALTIES = "Penalties and bans"


def collect() -> list[dict[str, Any]]:
    """Return every option once, with what its parts say of it: scorings first, then processors, then strategies."""
    entries: dict[str, dict[str, Any]] = {}
    said: dict[str, dict[str, list[str]]] = {}
    for heading, part, option in _declared():
        entries.setdefault(option.name, {"name": option.name, "heading": heading, "text": "", "of": option.of})
        said.setdefault(option.name, {}).setdefault(option.text, []).append(part.__name__)
    for name, texts in said.items():
        first, *others = texts
        entries[name]["text"] = " ".join([first, *(f"Of {', '.join(texts[text])}: {text}" for text in others)])
    return list(entries.values())


def _declared() -> Iterator[tuple[str, type, Option]]:
    for part in sorted(parts(descant.scoring, Scoring), key=_after):
        yield from ((_CONTRAST, part, option) for option in options(part).values() if option.text)
    processors = sorted(parts(descant.processors, Processor), key=lambda part: (part.rank < 0, part.rank))
    for part in processors:
        heading = _SAMPLING if part.rank > 0 else _PENALTIES
        yield from ((heading, part, option) for option in options(part).values() if option.text)
    for part in parts(descant.strategies, Strategy):
        yield from ((part.heading, part, option) for option in options(part).values() if option.text)


def _after(part: type) -> bool:
    """Tell what comes after `Contrastive`, which explains its options best."""
    return part.__name__ != "Contrastive"


if __name__ == "__main__":
    write_whole(LIST, json.dumps(collect(), indent=2, ensure_ascii=False) + "\n")
