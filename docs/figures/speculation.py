"""What was drafted, what stood, and what the expert put in its place, round by round."""

from dataclasses import dataclass, field

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from descant import Decoder, Scoring, Speculative
from descant.strategies import Draws, Proposal
from descant.types import Chosen, Logits
from docs.figures.style import INK, LEFT_OUT, bare

COLORS = {"drafted, stands": "#F5C9A9", "drafted, rejected": LEFT_OUT, "added": "#A9D2EC"}
"""What becomes of a draft; added is what replaces a rejected one, or follows when all of them stand."""


@dataclass(frozen=True)
class Recorded(Speculative):
    """Speculation that keeps what it verified: the drafted tokens of each round, and those that stand there.

    The first round drafts nothing: nobody waits longer for the first token than without speculation.
    """

    rounds: list[tuple[list[int], list[int]]] = field(default_factory=lambda: [([], [])])

    def verify(self, scores: Logits, proposal: Proposal, draws: Draws) -> Chosen:
        right = super().verify(scores, proposal, draws)
        self.rounds.append((proposal.ids.tolist(), right.tolist()))
        return right


def draw(decoder: Decoder, prompt: str, scoring: Scoring) -> Figure:
    """Draw one line a round, one box a token."""
    strategy = Recorded()
    [output] = decoder.generate(prompt, scoring, strategy=strategy)
    assert output.speculation is not None
    assert output.speculation.rounds == len(strategy.rounds)
    figure, axes = plt.subplots(figsize=(4.2, 0.33 * len(strategy.rounds) + 0.55))
    figure.subplots_adjust(0, 0, 1, 1)
    bare(axes)
    axes.set_xlim(0, 54)  # letters
    axes.set_ylim(len(strategy.rounds) - 0.4, -1.6)
    x = 4.0
    for kind in COLORS:
        x += _draw_box(axes, x, -1, kind, kind)
    place = 0
    for line, (drafted, right) in enumerate(strategy.rounds):
        stood = next((n for n, (a, b) in enumerate(zip(drafted, right, strict=True)) if a != b), len(drafted))
        boxes = [(token, "drafted, stands" if n < stood else "drafted, rejected") for n, token in enumerate(drafted)]
        place += stood
        if place < len(output.token_ids):
            boxes.append((output.token_ids[place], "added"))
            place += 1
        axes.text(0, line, f"{line + 1}", va="center", fontsize=9)
        x = 4.0
        for token, kind in boxes:
            x += _draw_box(axes, x, line, _text(decoder, token), kind)
    return figure


def _text(decoder: Decoder, token: int) -> str:
    assert decoder.tokenizer is not None
    return "end" if token in decoder.eos_token_ids else str(decoder.tokenizer.decode([token])).strip()


def _draw_box(axes: Axes, x: float, line: int, text: str, kind: str) -> float:
    """Draw a token from x on; return how far the next one lies."""
    width = len(text) + 1.6
    axes.add_patch(Rectangle((x, line - 0.36), width, 0.72, facecolor=COLORS[kind]))
    axes.text(x + width / 2, line, text, ha="center", va="center", fontsize=9, family="DejaVu Sans Mono")
    if kind == "drafted, rejected":
        axes.hlines(line, x + 0.5, x + width - 0.5, color=INK, linewidth=1)
    return width + 0.8
