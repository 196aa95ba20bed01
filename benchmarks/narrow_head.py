"""What it saves to multiply the amateur's output head for the plausible tokens alone."""

from typing import Any

from benchmarks.beams import steps_of
from benchmarks.shapes import peaked, shape
from descant import Contrastive, Decoder, Greedy
from descant.lab.bench.measure import Spread, in_rounds, ratio
from descant.models.linears.packing import pack
from descant.types import Candidates, Logits

_PAIRS = (("Qwen2.5-0.5B", False, (1, 16)), ("Qwen2.5-0.5B", True, (1, 16)), ("Qwen2.5-3B", True, (1, 8)))
"""Experts, whether linear layers are packed, and the batches."""

_STEPS, _ROUNDS = 6, 5


class _WholeHead(Contrastive):
    """Reads all of the amateur's logits, as a method must that shows or adds up scores."""

    def needed(self, expert: Logits, *, exactly: bool = False) -> Candidates | None:
        del expert, exactly
        return None


def narrow_head() -> list[dict[str, Any]]:
    """A step of plain contrastive decoding at a vocabulary of 151,936, with the amateur's head narrowed or whole.

    The amateur has Qwen2.5-0.5B's shape and is read at every step, which default settings do above 4 rows; below, steps
    whose head has one token skip it. Random weights with peaked logits, bfloat16, eager; the prefill is not counted.
    """
    table = []
    amateurs = {packed: peaked(shape("Qwen2.5-0.5B")) for packed in (False, True)}
    pack(amateurs[True])
    for name, packed, batches in _PAIRS:
        expert = amateurs[packed] if name == "Qwen2.5-0.5B" else peaked(shape(name))
        if expert is not amateurs[packed]:
            pack(expert)
        decoder = Decoder(expert, amateur=amateurs[packed], runner="eager")
        for rows in batches:
            cases = {
                way: steps_of(decoder, scoring(selective=False), Greedy(), rows, _STEPS)
                for way, scoring in (("whole", _WholeHead), ("narrowed", Contrastive))
            }
            milliseconds = in_rounds(cases, rounds=_ROUNDS)
            table.append(
                {
                    "expert": name,
                    "linears": "packed" if packed else "plain",
                    "batch": rows,
                    "whole head ms/step": Spread.of(milliseconds["whole"]),
                    "narrowed ms/step": Spread.of(milliseconds["narrowed"]),
                    "narrowed over whole": ratio(milliseconds["narrowed"], milliseconds["whole"]),
                }
            )
    return table
