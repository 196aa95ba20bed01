"""Who is measured: descant's methods, and transformers' own way to the same tokens."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from transformers import PreTrainedModel

from descant.decoder import Decoder
from descant.lab.bench import baselines
from descant.lab.bench.clock import Decoded, follow
from descant.lab.bench.figures import Engine, Tokens
from descant.scoring import Contrastive, Likelihood, Scoring
from descant.sources import EarlyExit
from descant.strategies import Greedy, Speculative, Strategy

Base = Literal["greedy", "contrastive"]
Rows = Sequence[Sequence[int]]

WITHOUT_CACHE_TOKENS = 16
"""New tokens of a contender that reads the whole text again at every step."""

SCORINGS: dict[Base, Scoring] = {"greedy": Likelihood(), "contrastive": Contrastive()}


@dataclass(frozen=True)
class Contender:
    """One way to decode the prompts.

    Attributes
    ----------
    engine
        Whose code runs.
    name
        What it does.
    base
        The plain method whose tokens it must give.
    run
        Decodes a batch of prompts.
    note
        What a reader must know of its conditions.
    counted
        Whether all it reads is read in whole passes of its models: not where some layers of the expert draft.
    """

    engine: Engine
    name: str
    base: Base
    run: Callable[[Rows], Decoded]
    note: str = ""
    counted: bool = True


def plain(decoder: Decoder, max_new_tokens: int) -> list[Contender]:
    """Return descant's plain methods: greedy, and contrastive if there is an amateur."""
    bases: list[Base] = ["greedy"] if decoder.amateur is None else ["greedy", "contrastive"]
    return [Contender("descant", base, base, ours(decoder, max_new_tokens, base)) for base in bases]


def speculative(decoder: Decoder, max_new_tokens: int, base: Base, tokens: Tokens) -> Contender:
    """Return a method whose tokens the amateur drafts, `tokens` at a time."""
    name = "speculative" if base == "greedy" else "speculative contrastive"
    run = ours(decoder, max_new_tokens, base, Speculative(Greedy(), tokens=tokens))
    return Contender("descant", name, base, run, counted=not isinstance(decoder.amateur, EarlyExit))


def theirs(decoder: Decoder, max_new_tokens: int, *, without_cache: bool) -> list[Contender]:
    """Return what transformers alone can do with these models; a processor holds an amateur that is a model."""
    expert, amateur, count = decoder.expert, decoder.amateur, max_new_tokens
    found = [Contender("transformers", "greedy", "greedy", partial(baselines.generate, expert, max_new_tokens=count))]
    if not isinstance(amateur, PreTrainedModel):
        return found
    found += [
        Contender(
            "transformers",
            "assisted",
            "greedy",
            partial(baselines.assisted, expert, amateur, max_new_tokens=count),
            "one row after another, for it takes no batches",
        ),
        Contender(
            "transformers",
            "contrastive",
            "contrastive",
            partial(baselines.contrastive, expert, amateur, max_new_tokens=count),
            "a LogitsProcessor runs the amateur with a cache of its own",
        ),
    ]
    if without_cache:
        few = min(count, WITHOUT_CACHE_TOKENS)
        run = partial(baselines.contrastive, expert, amateur, max_new_tokens=few, use_cache=False)
        found.append(Contender("transformers", "contrastive, no cache", "contrastive", run, f"{few} new tokens"))
    return found


def ours(
    decoder: Decoder, max_new_tokens: int, base: Base, strategy: Strategy | None = None
) -> Callable[[Rows], Decoded]:
    """Return what decodes a batch with descant, every row to its length limit.

    Parameters
    ----------
    decoder
        The models.
    max_new_tokens
        New tokens of every row.
    base
        The plain method.
    strategy
        How it grows; None is greedy.
    """
    bare = copy.copy(decoder)
    bare.tokenizer = None  # transformers makes no text either

    def run(prompts: Rows) -> Decoded:
        begin = partial(
            bare.stream,
            [list(row) for row in prompts],
            SCORINGS[base],
            strategy=strategy or Greedy(),
            max_new_tokens=max_new_tokens,
            ignore_eos=True,
            batch_size=len(prompts),
        )
        return follow(len(prompts), begin)

    return run
