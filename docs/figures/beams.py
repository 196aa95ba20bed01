"""A beam search, as the tree of the sequences that it returns."""

import math
import textwrap
from dataclasses import dataclass

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from descant import Beam, Decoder, Likelihood, Output
from docs.figures.style import EXPERT, INK, LEFT_OUT, bare

PROMPT = "Tell me about Greta Featherbank."
LENGTH = 12
COLUMNS = (0, 2.3, 5.0)
SCORES = 6.9


@dataclass
class Node:
    """Tokens that all sequences below share, the probability of the first of them, and how the sequences go on."""

    text: str
    probability: float
    outputs: list[Output]
    children: list["Node"]


def draw(decoder: Decoder) -> Figure:
    """Draw the tree, the best sequence on top."""
    [best] = decoder.generate(PROMPT, Likelihood(), strategy=Beam(4), max_new_tokens=LENGTH)
    figure, axes = plt.subplots(figsize=(6.2, 2.7), layout="constrained")
    bare(axes)
    leaves = draw_node(axes, grow(decoder, [best, *best.alternatives], 0), 0, 0)
    axes.text(SCORES, -0.75, "score", color=INK)
    axes.set_xlim(0, 7.8)
    axes.set_ylim(leaves - 0.5, -1)
    return figure


def grow(decoder: Decoder, outputs: list[Output], depth: int) -> Node:
    """Return the tree of sequences that agree up to `depth` tokens."""
    first, start = outputs[0], depth
    while depth < len(first.token_ids) and len({tuple(output.token_ids[: depth + 1]) for output in outputs}) == 1:
        depth += 1
    assert decoder.tokenizer is not None
    text = str(decoder.tokenizer.decode(first.token_ids[start:depth]))
    nexts = dict.fromkeys(output.token_ids[depth] for output in outputs) if depth < len(first.token_ids) else ()
    children = [grow(decoder, [output for output in outputs if output.token_ids[depth] == t], depth) for t in nexts]
    return Node(text.strip(), math.exp(first.logprobs[start]), outputs, children)


def draw_node(axes: Axes, node: Node, level: int, first: int) -> int:
    """Draw a node and what is below it, from line `first` on; return the next free line."""
    x, line = COLUMNS[level], first + (len(node.outputs) - 1) / 2
    best = first == 0
    probability = f"{node.probability:.2f}  " if level else ""
    text = textwrap.fill(probability + node.text, 20, subsequent_indent=" " * 9)
    axes.text(x, line, text, va="center", color=EXPERT if best else INK)
    if not node.children:
        axes.text(SCORES, line, f"{node.outputs[0].score:.3f}", va="center", color=EXPERT if best else INK)
    lowest = first
    for child in node.children:
        below = lowest + (len(child.outputs) - 1) / 2
        start, end = COLUMNS[level + 1] - (0.75 if level == 0 else 0.6), COLUMNS[level + 1] - 0.08
        axes.plot([start, end], [line, below], color=EXPERT if lowest == 0 else LEFT_OUT, linewidth=1.5)
        draw_node(axes, child, level + 1, lowest)
        lowest += len(child.outputs)
    return first + len(node.outputs)
