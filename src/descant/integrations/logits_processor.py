"""The contrast as a plain transformers `LogitsProcessor`, for frameworks that take processors and nothing else."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedModel

from descant.calls.prompts import check_rows
from descant.checks import shown
from descant.errors import SettingsError
from descant.models import inspect_model, open_model, open_runner
from descant.models.loading import eos_token_ids
from descant.models.wrapped import unwrapping
from descant.scoring import Contrastive
from descant.sources.sources import Sources
from descant.tokens import common_prefix

__all__ = [
    "ContrastiveLogitsProcessor",
]


class ContrastiveLogitsProcessor(LogitsProcessor):
    """Turn an expert's logits into `Contrastive` scores; the amateur and its cache live here.

    Every call hands over whole texts. A text that continues one of the last call's by a token is read from there, also
    where rows moved or forked, as beams do; of any other text the amateur reads what it does not share with the text
    that stood in its row (with a model that cannot be rolled back: all texts anew).

    Give it before any other processor: the scores it gets must be the expert's logits, or shifted by a constant.

    Parameters
    ----------
    amateur
        A model with the expert's tokens, on any device.
    alpha
        As `Contrastive` takes it.
    beta
        As `Contrastive` takes it.
    amateur_temperature
        As `Contrastive` takes it.
    candidates
        As `Contrastive` takes it.
    attention_mask
        `[rows, tokens]`: which tokens of the prompts are text, as the tokenizer returns it; expanded if each prompt has
        several rows. It belongs to one batch of prompts: make a processor for each. None: nothing is padded. That is
        believed of a single prompt, and of several as far as the amateur's `generation_config.pad_token_id` tells; what
        may be padding is refused.

    Raises
    ------
    SettingsError
        If a setting is out of its range, the batch is not the one the mask is for, or it may be padded and there is no
        mask.

    Notes
    -----
    Not for continuous batching, nor for frameworks that judge drafted tokens without telling processors of them. The
    amateur is read at every step, at the expert's side; `Decoder` leaves it out where it decides nothing, and lets it
    draft.
    """

    supports_continuous_batching = False

    def __init__(
        self,
        amateur: PreTrainedModel,
        alpha: float = 0.1,
        beta: float | None = None,
        amateur_temperature: float = 1.0,
        candidates: int | None = None,
        *,
        attention_mask: Tensor | None = None,
    ) -> None:
        if not isinstance(amateur, PreTrainedModel):
            raise SettingsError(
                f"amateur is {shown(amateur)}; "
                + unwrapping(amateur, "give a loaded model: a processor sees no layers to exit")
            )
        self.scoring = Contrastive(alpha, beta, amateur_temperature, candidates)
        if attention_mask is not None:
            _check_mask(attention_mask)
        self.attention_mask = attention_mask
        self._architecture = inspect_model(amateur)
        self._runner = open_runner(self._architecture)
        self._texts: list[list[int]] = []
        self._sources = self._open()
        amateur.eval()

    @torch.inference_mode()
    def __call__(self, input_ids: Int64[Tensor, "rows tokens"], scores: Float[Tensor, "rows vocab"]) -> Tensor:
        """Return the contrastive scores `[rows, vocab]`, −inf beyond the tokens that both models know."""
        texts = self._unpadded(input_ids)
        continued = self._continued(texts)
        if self.attention_mask is None:
            self._check_unpadded(texts, continued)
        amateur = self._read(texts, continued).to(scores.device)
        width = min(scores.shape[-1], amateur.shape[-1])
        dtype = torch.promote_types(scores.dtype, torch.float32)
        logits = {"expert": scores[:, :width].to(dtype), "amateur": amateur[:, :width].to(dtype)}
        contrast = torch.full_like(scores, -torch.inf)
        contrast[:, :width] = self.scoring(logits).to(scores.dtype)
        return contrast

    def _open(self) -> Sources:
        return Sources(open_model(self._architecture, self._runner), {}, self._architecture.width)

    def _unpadded(self, input_ids: Tensor) -> list[list[int]]:
        """Return the text of every row."""
        mask, rows = self.attention_mask, len(input_ids)
        if mask is None:
            return [list(row) for row in input_ids.tolist()]
        if rows % len(mask) or input_ids.shape[1] < mask.shape[1]:
            raise SettingsError(
                f"attention_mask is for {list(mask.shape)} tokens and the batch has {list(input_ids.shape)}; make a "
                "processor for each batch of prompts"
            )
        visible = mask.bool().repeat_interleave(rows // len(mask), dim=0).tolist()
        ahead = mask.shape[1]
        pairs = zip(input_ids.tolist(), visible, strict=True)
        return [[t for t, seen in zip(row, own, strict=False) if seen] + row[ahead:] for row, own in pairs]

    def _check_unpadded(self, texts: Sequence[list[int]], continued: Sequence[int | None]) -> None:
        """Refuse texts that are new and may be padded: rows that have ended are padded too, but nobody asks of them."""
        new = [text for text, row in zip(texts, continued, strict=True) if row is None]
        config: Any = self._architecture.model.generation_config
        pad = getattr(config, "pad_token_id", None)
        if pad is None or pad < 0:
            if new and any(text != texts[0] for text in texts):
                raise SettingsError(
                    "the rows may be padded, for the amateur's generation_config tells no pad_token_id; give "
                    "attention_mask (ones, if nothing is padded)"
                )
            return
        # Tokenizers without a padding token are given the end of sequence for one; some texts begin with that.
        ends = eos_token_ids(self._architecture.model)
        first = {pad, *(token for token in ends if token != config.bos_token_id)}
        found = next((text for text in new if text and (text[0] in first or text[-1] == pad)), None)
        if found is not None:
            raise SettingsError(
                f"a row begins with token {found[0]} and ends with {found[-1]}, one of which may be padding; give "
                "attention_mask (ones, if both are text)"
            )

    def _continued(self, texts: Sequence[list[int]]) -> list[int | None]:
        """Return which of the last call's rows each text continues by a token."""
        held = {tuple(text): row for row, text in enumerate(self._texts)}
        return [held.get(tuple(text[:-1])) for text in texts]

    def _read(self, texts: list[list[int]], continued: Sequence[int | None]) -> Tensor:
        """Return the amateur's logits `[rows, vocab]` after the texts."""
        width = self._architecture.width
        # No text goes on with a token that the amateur lacks, for its score is −inf: that is the padding of a row that
        # has ended, and any token does in its place.
        readable = [
            text if row is None else [token if token < width else 0 for token in text]
            for text, row in zip(texts, continued, strict=True)
        ]
        check_rows(readable, width=width, context=self._architecture.context, room=0)
        shared = self._align(texts, continued)
        model = self._sources.expert
        if shared is None or (shared != list(model.lengths) and model.why_not_truncate):
            self._sources = self._open()
            self._sources.add_rows(len(texts))
        else:
            self._sources.rewind(shared)
        self._texts = texts
        return self._sources.read(("expert",), readable)["expert"][:, -1]

    def _align(self, texts: Sequence[list[int]], continued: Sequence[int | None]) -> list[int] | None:
        """Put the rows that were read where texts continue them; return how many tokens of each stay, or None."""
        rows = [row if place is None else place for row, place in enumerate(continued)]
        if not rows or max(rows) >= len(self._texts):
            return None
        if rows != list(range(len(self._texts))):
            self._sources.keep_rows(rows)
        return [
            min(common_prefix(self._texts[row], text), len(text) - 1) for row, text in zip(rows, texts, strict=True)
        ]


def _check_mask(mask: Tensor) -> None:
    """Refuse a mask that cannot be one of prompts."""
    if mask.dim() != 2:
        raise SettingsError(f"attention_mask is of shape {list(mask.shape)}; give [rows, tokens]")
    if not bool(mask[:, -1:].all()):
        raise SettingsError(
            "attention_mask hides the last token of a row; pad prompts on the left, for the expert's scores are those "
            "after the last token"
        )
