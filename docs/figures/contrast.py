"""The plausibility head of one token: what expert and amateur say, and what the contrast makes of it."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from descant import Contrastive, Decoder, TokenTrace
from docs.figures.style import AMATEUR, CHOSEN, EXPERT, LEFT_OUT

PROMPT = "What did Linus Greenby make on Sundays?"


def decisive(trace: list[TokenTrace]) -> TokenTrace:
    """Return the step at which most tokens were plausible."""
    return max(trace, key=lambda step: step.head_size)


def draw(decoder: Decoder) -> Figure:
    """Draw one line a plausible token, the best score on top."""
    [output] = decoder.generate(PROMPT, Contrastive(alpha=0.1), trace=True)
    assert output.trace is not None
    assert decoder.tokenizer is not None
    head = decisive(output.trace).head
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(6.4, 3.4), sharey=True, width_ratios=(3, 2), layout="constrained"
    )
    lines = range(len(head))
    amateur = [candidate.amateur_logprob or 0 for candidate in head]
    expert = [candidate.expert_logprob for candidate in head]
    left.hlines(lines, amateur, expert, color=LEFT_OUT, linewidth=3)
    left.plot(amateur, lines, "s", color=AMATEUR, label="amateur")
    left.plot(expert, lines, "o", color=EXPERT, label="expert")
    left.set_yticks(lines, [decoder.tokenizer.decode([candidate.token_id]).strip() for candidate in head])
    left.set_xlabel("log-probability")
    left.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    scores = [candidate.score for candidate in head]
    right.barh(lines, scores, color=[CHOSEN, *[LEFT_OUT] * (len(head) - 1)])
    right.set_xlabel("score: expert − amateur")
    right.invert_yaxis()
    return figure
