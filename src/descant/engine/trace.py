"""Why a token was chosen: the numbers behind one step."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from descant.results import Candidate, TokenTrace
from descant.types import Chosen, Logits

TraceText = Callable[[int], str]
"""The text of a token by itself."""

_HEAD_MEMBERS = 20


def trace_tokens(
    logits: Mapping[str, Logits], raw: Float[Tensor, "n vocab"], ids: Chosen, text: TraceText, *, bytewise: bool
) -> list[TokenTrace]:
    """Describe one step of every row.

    Parameters
    ----------
    logits
        The sources' logits `[n, vocab]` by name.
    raw
        What the scoring made of them, before the processors.
    ids
        The tokens that were chosen.
    text
        Gives the text of a token.
    bytewise
        Whether the amateur judges bytes: its are log-probabilities of some tokens, without a distribution.
    """
    logprobs = {
        name: values if bytewise and name == "amateur" else values.log_softmax(-1)
        for name, values in logits.items()
        if name in ("expert", "amateur")
    }
    return [
        _trace_row(
            {name: values[row] for name, values in logprobs.items()}, raw[row], int(ids[row]), text, ranked=not bytewise
        )
        for row in range(len(ids))
    ]


def _trace_row(
    logprobs: Mapping[str, Tensor], raw: Tensor, token_id: int, text: TraceText, *, ranked: bool
) -> TokenTrace:
    expert, amateur = logprobs["expert"], logprobs.get("amateur")
    allowed = raw > -torch.inf
    size = int(allowed.sum())
    members = raw.topk(min(size, _HEAD_MEMBERS)).indices.tolist()
    return TokenTrace(
        token_id=token_id,
        text=text(token_id),
        expert_logprob=float(expert[token_id]),
        expert_rank=_rank(expert, token_id),
        amateur_logprob=None if amateur is None else float(amateur[token_id]),
        amateur_rank=None if amateur is None or not ranked else _rank(amateur, token_id),
        score=float(raw[token_id]),
        head_size=size,
        head=tuple(
            Candidate(
                token_id=member,
                expert_logprob=float(expert[member]),
                amateur_logprob=None if amateur is None else float(amateur[member]),
                score=float(raw[member]),
            )
            for member in members
        ),
        expert_entropy=_entropy(expert),
        amateur_entropy=None if amateur is None or not ranked else _entropy(amateur),
        greedy_token_id=int(expert.argmax()),
    )


def _rank(logprobs: Tensor, token_id: int) -> int:
    return int((logprobs > logprobs[token_id]).sum()) + 1


def _entropy(logprobs: Tensor) -> float:
    return float(-torch.special.xlogy(logprobs.exp(), logprobs.exp()).sum())
