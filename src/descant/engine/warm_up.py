"""Which shapes the passes of a method have: what is to be compiled before it decodes at full speed."""

from collections.abc import Iterator, Sequence

from descant.engine.draft_length import LONGEST
from descant.models.passes.runner import DRAFT_BUCKETS, TOKEN_BUCKETS
from descant.models.ragged import RaggedModel
from descant.sources.ngram import NGramModel
from descant.sources.other_prompt import OtherPromptModel
from descant.sources.sources import Sources
from descant.strategies import ContrastiveSearch, Greedy, PromptLookup, Speculative, Strategy

_BEHIND = (1, 2, 3)
"""New tokens of a source that is asked now and then, or that drafts: one of its own rows is seldom further behind."""


def warm_up(sources: Sources, strategy: Strategy, rows: Sequence[int]) -> bool:
    """Load or compile what a method's passes after the prompts take; return whether all of them will run compiled.

    Parameters
    ----------
    sources
        The models it reads.
    strategy
        How it chooses.
    rows
        Rows of a pass; each number is made ready.
    """
    looks_inside = isinstance(strategy, ContrastiveSearch) or sources.has_exits
    ready = not looks_inside  # then the expert's passes show more than logits, and are eager
    for name, source in {"expert": sources.expert, **sources.others}.items():
        model = source.model if isinstance(source, OtherPromptModel) else source
        if name == "expert" and looks_inside:
            continue
        if not isinstance(model, RaggedModel):
            ready = ready and isinstance(model, NGramModel)  # counting has no passes
            continue
        drafter = "draft" if "draft" in sources.others else "amateur"
        for tokens, every, drafts in _shapes(strategy, name, drafting=name == drafter):
            warmed = model.runner.warm_up(rows, [tokens], every=every, drafts=drafts)
            ready = ready and (warmed or bool(drafts))  # a model that does not draft in one call drafts in passes
    return ready


def _shapes(strategy: Strategy, name: str, *, drafting: bool) -> Iterator[tuple[int, bool, int]]:
    """Yield the new tokens of a source's passes, whether all their logits are read, and the drafts that follow."""
    if not isinstance(strategy, Speculative):
        yield from ((tokens, False, 0) for tokens in ((1,) if name == "expert" else _BEHIND))
        return
    most = LONGEST if strategy.tokens == "auto" else strategy.tokens
    if name == "expert" or not drafting or isinstance(strategy.draft, PromptLookup):
        verified = [bucket for bucket in TOKEN_BUCKETS if bucket < most + 1]
        yield from ((tokens, True, 0) for tokens in (*verified, most + 1))
    if name != "expert":
        yield from ((tokens, False, 0) for tokens in _BEHIND)
    if drafting and isinstance(strategy.base, Greedy) and not isinstance(strategy.draft, PromptLookup):
        ahead = [bucket for bucket in DRAFT_BUCKETS if bucket < most]
        yield from ((tokens, False, drafts) for drafts in (*ahead, most) for tokens in _BEHIND[:2])
