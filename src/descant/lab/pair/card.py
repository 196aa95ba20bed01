"""The model card of the bundled pair, written from what `descant.lab.pair.evaluate` measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from descant.demo import demo_world

NAMES = {
    "amateur": "amateur alone",
    "greedy": "expert, greedy",
    "min-p": "expert, β = 0 (the mask alone: min-p)",
    "difference-default": "contrastive, difference form, defaults",
    "difference": "contrastive, difference form, tuned",
    "beta": "contrastive, β form, tuned",
}

HEAD = """# Model card: the bundled pair

An expert and an amateur that grew up in a valley that does not exist. They know {people:,} invented people:
where each was born, what they worked as, what they cooked, and which animal shared their hearth. They exist
so that contrastive decoding can be tried, tested and measured at once, without a download, on models that
really learnt something. They know nothing else, and nothing they say is about anybody real.

| | layers × width | parameters | weights |
|---|---|---|---|
| expert | {expert_shape} | {expert_size:.2f} M | float16 safetensors |
| amateur | {amateur_shape} | {amateur_size:.2f} M | float16 safetensors |

Both are `Qwen2ForCausalLM` with tied embeddings and share a byte-level BPE tokenizer of {vocabulary:,}
tokens.

## The world of rumours

{people:,} people × 4 relations; each true answer is drawn uniformly from 60. A mention in the corpus is
true with probability {truth:.2f}; otherwise it repeats a rumour, drawn from the same Zipf({zipf:g})
distribution over the relation's answers whoever it is about. How often a person is mentioned is log-uniform
over a factor of {fame:g}. Mentions are drawn afresh at every step, so no model can learn a particular lie
by heart. The amateur is too small to remember people: it knows the prose and the rumours. The expert half
remembers the truth, and where it does not, it repeats the rumour as well. Subtracting the amateur removes
the rumour.

Texts of the corpus are questions with answers, single sentences, short passages and portraits. **Every fact
is asked for in one form that training never used for that fact** (it used it for other people), so no test
question occurs in training. Facts, not questions, are split into {dev:,} for development and {test:,} for
the test; settings are chosen on the former, separately for each pair, and the latter are used once.

## Training

`make demo-pair`, or `python -m descant.lab.pair.train --seed 0`: tokenizer and both models from scratch,
{steps}. Time of the shipped pair on 2 CPU cores that also had other work to do: {minutes}. The same command
on the same machine gives the same weights.
"""


def render(results: Sequence[Mapping[str, Any]]) -> str:
    """Write the card.

    Parameters
    ----------
    results : sequence of mapping
        One entry a pair, as `descant.lab.pair.evaluate.measure` returns it, the shipped pair first.

    Returns
    -------
    str
        Markdown.
    """
    shipped = results[0]
    parts = [
        _head(shipped),
        "## Results\n",
        "Exact match of the full answer on the test questions, float32, greedy choice.\n",
        _methods_table(shipped),
        _seeds_table(results),
        _losses(shipped),
        _drafting(shipped),
        _held_out(results),
        LEARNT,
    ]
    return "\n".join(part.strip("\n") + "\n" for part in parts)


def _head(shipped: Mapping[str, Any]) -> str:
    training, world = shipped["training"], demo_world().spec
    spec = training["spec"]
    minutes = training["minutes"]
    return HEAD.format(
        people=world.people,
        truth=1 - world.rho,
        zipf=world.zipf,
        fame=world.fame,
        vocabulary=spec["vocabulary"],
        dev=shipped["questions"]["dev"],
        test=shipped["questions"]["test"],
        expert_shape=f"{spec['expert']['layers']} × {spec['expert']['width']}",
        amateur_shape=f"{spec['amateur']['layers']} × {spec['amateur']['width']}",
        expert_size=training["parameters"]["expert"] / 1e6,
        amateur_size=training["parameters"]["amateur"] / 1e6,
        steps=", ".join(
            f"{spec[name]['steps']:,} steps of {spec[name]['rows']} × {spec['row_tokens']} tokens ({name})"
            for name in ("expert", "amateur")
        ),
        minutes=", ".join(f"{minutes[name]:.1f} minutes ({name})" for name in ("expert", "amateur")),
    )


def _methods_table(result: Mapping[str, Any]) -> str:
    lines = [
        f"The shipped pair (seed {result['training']['spec']['seed']}), {result['questions']['test']:,} "
        "questions. *Rare* and *frequent* are the lowest and the highest third of frequencies; *rumour* "
        "counts wrong answers that are one of the three most popular; *popular truth* is the accuracy where "
        "the truth is one of the three.",
        "",
        "| | accuracy | rare | frequent | rumour | popular truth | won, lost | gain, 95% interval |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, title in NAMES.items():
        f, c = result["methods"][name], result["against_greedy"].get(name)
        tail = f"{c['won']}, {c['lost']} | {interval(c)}" if c else "|"
        setting = describe(result["settings"].get(name, {}))
        lines.append(
            f"| {title}{setting} | {f['accuracy']:.3f} | {f['rare']:.3f} | {f['frequent']:.3f} "
            f"| {f['rumour']:.3f} | {f['popular_truth']:.3f} | {tail} |"
        )
    return "\n".join(lines) + "\n"


def _seeds_table(results: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        f"Each of {len(results)} training seeds, with the settings that its own development questions chose. "
        "*p* is the exact McNemar test against greedy on the same questions; the interval resamples people.",
        "",
        "| seed | amateur | greedy | difference form | gain | p | β form | gain | p |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        methods, against, settings = result["methods"], result["against_greedy"], result["settings"]
        cells = [
            str(result["training"]["spec"]["seed"]),
            f"{methods['amateur']['accuracy']:.3f}",
            f"{methods['greedy']['accuracy']:.3f}",
        ]
        for form in ("difference", "beta"):
            cells += [
                f"{methods[form]['accuracy']:.3f}{describe(settings[form])}",
                interval(against[form]),
                f"{against[form]['p']:.1g}",
            ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _losses(result: Mapping[str, Any]) -> str:
    names = {
        "greedy": "greedy",
        "difference-default": "difference form, defaults",
        "difference": "difference form, tuned",
        "beta": "β form, tuned",
    }
    popular, other = (
        ", ".join(f"{result['methods'][name][key]:.3f} ({title})" for name, title in names.items())
        for key in ("popular_truth", "other_truth")
    )
    return (
        "## Where contrast loses\n\n"
        "Where the truth happens to be one of the three most popular answers, the rumour was right, and contrast "
        f"takes some of it away: accuracy there is {popular}. Elsewhere: {other}.\n"
    )


def _drafting(result: Mapping[str, Any]) -> str:
    agreed = result["agreement"]
    return (
        "## The amateur as a drafter\n\n"
        "The amateur knows the prose, so it can also guess ahead for the expert in speculative decoding: it would "
        f"have chosen {agreed['all']:.1%} of the expert's greedy tokens, and {agreed['outside_answers']:.1%} of "
        "those outside the answers themselves.\n"
    )


def _held_out(results: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "## Phrasings that training never used",
        "",
        "The same facts, asked for in a form that does not occur in training at all. Reported for what it "
        "is: models this small do not always understand a new form, and no method of decoding can help "
        "with that.",
        "",
        "| seed | amateur | greedy | difference form | gain | β form | gain |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        held = result["held_out_phrasing"]
        methods, against = held["methods"], held["against_greedy"]
        lines.append(
            f"| {result['training']['spec']['seed']} | {methods['amateur']['accuracy']:.3f} "
            f"| {methods['greedy']['accuracy']:.3f} "
            + " ".join(
                f"| {methods[form]['accuracy']:.3f} | {interval(against[form])}" for form in ("difference", "beta")
            )
            + " |"
        )
    return "\n".join(lines) + "\n"


def interval(comparison: Mapping[str, float]) -> str:
    """A gain with its interval, in percentage points."""
    gain, low, high = (100 * comparison[key] for key in ("gain", "low", "high"))
    return f"{gain:+.1f} ({low:+.1f} to {high:+.1f}) points"


def describe(settings: Mapping[str, float]) -> str:
    """Settings in the letters of the formulas, in brackets."""
    letters = {"alpha": "α", "beta": "β", "amateur_temperature": "τ"}
    return f" ({', '.join(f'{letters[key]}={value:g}' for key, value in settings.items())})" if settings else ""


LEARNT = """## What was learnt

- **Contrast mends one kind of error.** Most of greedy's wrong answers are popular rumours. Contrast removes
  nearly all of these rumours, but only about a third of the questions turn right: the others get another
  wrong answer, because the expert does not know. What is mended are facts that the expert half knows, where
  the truth comes second to the rumour: rare facts and middling ones. Frequent facts have next to nothing to
  gain.
- **For the greedy choice the two forms are one family.** `(1+β)·l_E − β·l_A` is `1+β` times `l_E − l_A/τ`
  with `τ = (1+β)/β`, and the head is the same: β = 1 chooses what τ = 2 chooses, and the difference form's τ
  = 1 is β without end. On the development questions the two reach the same accuracy at every α tried.
- **Too much is worse than too little.** On the development questions τ = 0.5 with α = 0.05 lost 64 questions
  to win 90; τ = 1 lost 23 to win 114. A head with α near 0.2 or 0.3 spares truths that happen to be popular;
  α = 0.5 spares all of them and mends less.
- **The mask alone does nothing here**, as it must: it cannot move the most likely token. It is reported
  because with sampling it would matter, and its credit must not go to the contrast.
- **A good amateur needs very little.** Two layers of width 64 that read 1.8 million tokens know the prose and
  no facts. The sentences of the world have a clear favourite at every turn, so expert and amateur agree on
  the prose: the contrast leaves it alone, and the amateur's guesses at it are right.
- **Forms of asking.** A held-out question in a form known from other people costs nothing: greedy answers
  64.0% of the development facts in that form, and 64.1% and 64.4% in two forms that training used for the
  same facts. Forms that no question of the training had are often misunderstood: in a pilot with three forms
  a relation, 71% of the texts did not answer what was asked. The shipped world has six forms.
- **Busy machines.** On cores shared with other work, threads that spin while they wait took most of the time:
  with `OMP_WAIT_POLICY=PASSIVE` in the environment training ran several times as fast.

## Limits

One world; the training seeds vary initial weights and mentions, not people. Mentions lie independently of each
other and every rumour is the same for everybody, which is kinder to contrast than most of what is wrong on the
web. Nothing here says how much contrast helps a large model on real questions. The pair speaks only the prose of
its chronicle, and continues any other prompt with nonsense.
"""
