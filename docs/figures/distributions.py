"""What each method leaves of a distribution: one that is flat, beside one that is peaked."""

import math

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from descant import Decoder, Epsilon, Eta, Likelihood, MinP, Temperature, TopK, TopP, Typical
from descant.processors import Processor
from docs.figures.style import CHOSEN, LEFT_OUT

PROMPTS = {
    "flat: …followed by a": "Who followed Lottie Dappleberry to church? She was followed by a",
    "peaked: …earned it as a": "How did Archibald Whistlebottom earn his bread? He earned it as a",
}
"""Texts of which the bundled expert is to say the next token; it hardly knows Lottie, and knows Archibald."""

METHODS: dict[str, tuple[Processor, ...]] = {
    "as it is": (),
    "greedy (top-k 1)": (TopK(1),),
    "temperature 0.5": (Temperature(0.5),),
    "temperature 1.5": (Temperature(1.5),),
    "top-k 10": (TopK(10),),
    "top-p 0.8": (TopP(0.8),),
    "min-p 0.1": (MinP(0.1),),
    "typical 0.8": (Typical(0.8),),
    "epsilon 0.02": (Epsilon(0.02),),
    "eta 0.02": (Eta(0.02),),
}
RANKS = 30
"""The most probable tokens, which are shown."""


def next_tokens(decoder: Decoder, text: str, processors: tuple[Processor, ...] = ()) -> dict[int, float]:
    """Return the probability of every token that may come next, after the processors."""
    vocabulary = decoder.expert.config.get_text_config().vocab_size
    [output] = decoder.generate(
        text, Likelihood(), processors, max_new_tokens=1, top_logprobs=vocabulary, ignore_eos=True
    )
    assert output.top_logprobs is not None
    return {token: math.exp(logprob) for token, logprob in output.top_logprobs[0] if logprob > -math.inf}


def draw(decoder: Decoder) -> Figure:
    """Draw one row a method and one column a distribution."""
    figure, grid = plt.subplots(len(METHODS), len(PROMPTS), figsize=(6, 11.5), sharex=True, layout="constrained")
    for column, (title, text) in enumerate(PROMPTS.items()):
        before = next_tokens(decoder, text)
        ranked = sorted(before, key=before.__getitem__, reverse=True)
        for axes, (name, processors) in zip(grid[:, column], METHODS.items(), strict=True):
            after = next_tokens(decoder, text, processors)
            draw_one(axes, [before[token] for token in ranked[:RANKS]], [after.get(t, 0) for t in ranked[:RANKS]])
            kept = "all kept" if len(after) == len(before) else f"{len(after)} kept"
            axes.set_title(f"{name}: {kept}", loc="left", pad=3)
        figure.text(0.3 + 0.48 * column, 1.01, title, ha="center", fontweight="bold")
        grid[-1, column].set_xlabel("rank of the token")
    figure.supylabel("probability: grey as it was, green as it becomes", fontsize=10)
    return figure


def draw_one(axes: Axes, before: list[float], after: list[float]) -> None:
    """Draw a distribution over what it was."""
    axes.stairs(before, [rank + 0.5 for rank in range(len(before) + 1)], fill=True, color=LEFT_OUT)
    # One line with gaps is one path in the file, where a bar a token would be thirty.
    ranks = [x for rank in range(1, len(after) + 1) for x in (rank, rank, math.nan)]
    heights = [y for probability in after for y in (0, probability, math.nan)]
    axes.plot(ranks, heights, linewidth=3, color=CHOSEN, solid_capstyle="butt")
    axes.set_ylim(0, 1.1 * max(*before, *after))
    axes.locator_params(axis="y", nbins=3)
    axes.tick_params(labelsize=9)
