"""Beams in `model.generate`: its processors and criteria over beams, and its tensors of what they come to."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import (
    EosTokenCriteria,
    GenerationConfig,
    LogitsProcessorList,
    MaxLengthCriteria,
    StoppingCriteriaList,
)
from transformers.generation.utils import GenerateBeamDecoderOnlyOutput

from descant.engine.loop import Engine
from descant.errors import SettingsError
from descant.processors import History, Processor
from descant.rows import Row
from descant.strategies import Beam, Greedy, Sample

_NONE = -1e9
"""What transformers scores a sequence that does not exist."""


def beam_of(config: GenerationConfig, streamer: Any) -> Beam:
    """Return the search that `generate` was asked for.

    Raises
    ------
    SettingsError
        If it was asked for what a search does not give.
    """
    if streamer is not None:
        raise SettingsError(
            "a beam search knows no token before its end, so a streamer has nothing to show; leave it out"
        )
    if config.return_dict_in_generate and config.output_logits:
        raise SettingsError(
            "output_logits would have no effect: with num_beams, descant returns the sequences and their scores; leave "
            "it out"
        )
    base = Sample(rng="transformers") if config.do_sample else Greedy()
    return Beam(config.num_beams, config.length_penalty, config.early_stopping, base=base)


def also_ends(
    criteria: StoppingCriteriaList, prompt: Int64[Tensor, " width"]
) -> Callable[[Sequence[int]], bool] | None:
    """Return what tells whether new tokens end a row, by criteria other than its length and its end of sequence.

    Parameters
    ----------
    criteria
        As `generate` prepared them.
    prompt
        The row's prompt with its padding.
    """
    others = StoppingCriteriaList(
        entry for entry in criteria if not isinstance(entry, (MaxLengthCriteria, EosTokenCriteria))
    )

    def ends(new: Sequence[int]) -> bool:
        return bool(others(torch.cat([prompt, prompt.new_tensor(new)])[None], None).all())

    return ends if others else None


@dataclass(frozen=True)
class BeamProcessors(Processor):
    """transformers' processors, handed a row for each beam that a prompt may have, padded as `generate` pads.

    A prompt's beams are in no particular order, and those that it has not are its prompt and padding: a processor that
    knows beams by their place, or keeps state of them, is wrong here.

    Parameters
    ----------
    processors
        As `generate` prepared them.
    prompts
        `[prompts, width]`: with their padding.
    beams
        How many each may have.
    """

    processors: LogitsProcessorList
    prompts: Tensor
    beams: int

    def __call__(self, history: History, scores: Float[Tensor, "n vocab"]) -> Float[Tensor, "n vocab"]:
        assert history.batch_rows is not None
        new = torch.stack(  # beams grow in step
            [
                tokens[start:end]
                for tokens, start, end in zip(history.tokens, history.prompt_lengths, history.lengths, strict=True)
            ]
        )
        held: Counter[int] = Counter()
        places = []
        for prompt in history.batch_rows.tolist():
            places.append(prompt * self.beams + held[prompt])
            held[prompt] += 1
        batch = torch.nn.functional.pad(self.prompts.repeat_interleave(self.beams, 0), (0, new.shape[1]))
        batch[places, self.prompts.shape[1] :] = new
        whole = scores.new_zeros(len(batch), scores.shape[1])
        whole[places] = scores
        return self.processors(batch, whole)[places].to(scores)  # type: ignore[arg-type]


def search(engine: Engine, rows: Sequence[Row]) -> list[list[Row]]:
    """Decode, and return each row's sequences, best first."""
    found: list[list[Row]] = [[] for _ in rows]
    engine.add(rows)
    while engine.busy:
        for best in engine.step():
            found[best.index] = [best, *best.alternatives]
    return found


def beam_result(
    prompts: Int64[Tensor, "prompts width"], found: Sequence[Sequence[Row]], config: GenerationConfig
) -> GenerateBeamDecoderOnlyOutput | Tensor:
    """Return `num_return_sequences` sequences of each prompt as `generate` does.

    Where fewer have been found, because a scoring allows few tokens, the rest is the prompt alone and scores −10⁹.
    """
    returned: list[tuple[list[int], float]] = []
    for rows in found:
        sequences = [(row.new_tokens, _NONE if row.score is None else row.score) for row in rows]
        lacking: list[tuple[list[int], float]] = [([], _NONE)] * (config.num_return_sequences - len(rows))
        returned += [*sequences[: config.num_return_sequences], *lacking]
    width = max(len(tokens) for tokens, _ in returned)
    fill = _fill(config)
    new = prompts.new_tensor([[*tokens, *[fill] * (width - len(tokens))] for tokens, _ in returned])
    ids = torch.cat([prompts.repeat_interleave(config.num_return_sequences, 0), new], -1)
    if not config.return_dict_in_generate:
        return ids
    scores = torch.tensor([score for _, score in returned], device=ids.device) if config.output_scores else None
    return GenerateBeamDecoderOnlyOutput(sequences=ids, sequences_scores=scores)  # type: ignore[arg-type]


def _fill(config: GenerationConfig) -> int:
    """Return what follows a sequence that has ended: of `generate`, the first end of sequence where padding is 0."""
    if config._eos_token_tensor is None:
        return -1
    return int(config._pad_token_tensor or config._eos_token_tensor[0])
