"""Which shapes the passes of a method have: what is to be compiled before it decodes at full speed."""

from collections.abc import Sequence

from descant.models.ragged import RaggedModel
from descant.sources.ngram import NGramModel
from descant.sources.other_prompt import OtherPromptModel
from descant.sources.sources import Sources
from descant.strategies import Strategy


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
    looks_inside = strategy.reads_hidden_states or sources.has_exits
    ready = not looks_inside  # then the expert's passes show more than logits, and are eager
    for name, source in {"expert": sources.expert, **sources.others}.items():
        model = source.model if isinstance(source, OtherPromptModel) else source
        if name == "expert" and looks_inside:
            continue
        if not isinstance(model, RaggedModel):
            ready = ready and isinstance(model, NGramModel)  # counting has no passes
            continue
        drafter = "draft" if "draft" in sources.others else "amateur"
        for tokens, every, drafts in strategy.passes(name, drafts=name == drafter):
            warmed = model.runner.warm_up(rows, [tokens], every=every, drafts=drafts)
            ready = ready and (warmed or bool(drafts))  # a model that does not draft in one call drafts in passes
    return ready
