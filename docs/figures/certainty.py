"""How sure the expert is of each token that it writes greedily."""

import math

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from descant import Decoder, Likelihood
from docs.figures.style import EXPERT

PROMPT = "Who followed Lottie Dappleberry to church?"


def draw(decoder: Decoder) -> Figure:
    """Draw one bar a token."""
    [output] = decoder.generate(PROMPT, Likelihood())
    assert decoder.tokenizer is not None
    tokens = [str(decoder.tokenizer.decode([token])).strip() for token in output.token_ids]
    figure, axes = plt.subplots(figsize=(6.2, 2.2), layout="constrained")
    probabilities = [math.exp(logprob) for logprob in output.logprobs]
    bars = axes.bar(range(len(tokens)), probabilities, color=EXPERT, width=0.7)
    axes.bar_label(bars, [f"{probability:.2f}" for probability in probabilities], fontsize=9)
    axes.set_xticks(range(len(tokens)), ["end" if token == "<eos>" else token for token in tokens])
    axes.set_ylabel("probability")
    axes.set_ylim(0, 1.1)
    return figure
