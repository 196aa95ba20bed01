"""The contrast as a plain transformers `LogitsProcessor`, for frameworks that take processors and nothing else."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedModel

from descant.checks import shown
from descant.errors import SettingsError
from descant.models import Runner, inspect_model, open_model
from descant.models.sources import Sources
from descant.models.wrapped import unwrapping
from descant.prompts import check_rows
from descant.scoring import Contrastive
from descant.tokens import common_prefix


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
        `[rows, tokens]`: which tokens of the prompts are text, where they are padded; expanded if each prompt has
        several rows. It belongs to one batch of prompts: make a processor for each.

    Raises
    ------
    SettingsError
        If a setting is out of its range, or the batch is not the one the mask is for.

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
        self.attention_mask = attention_mask
        self._architecture = inspect_model(amateur)
        self._runner = Runner(self._architecture)
        self._pad = amateur.generation_config.pad_token_id if amateur.generation_config is not None else None
        self._texts: list[list[int]] = []
        self._sources = self._open()
        amateur.eval()

    @torch.inference_mode()
    def __call__(self, input_ids: Int64[Tensor, "rows tokens"], scores: Float[Tensor, "rows vocab"]) -> Tensor:
        """Return the contrastive scores `[rows, vocab]`, −inf beyond the tokens that both models know."""
        amateur = self._read(self._unpadded(input_ids)).to(scores.device)
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
            if rows > 1 and self._pad is not None and bool((input_ids[:, 0] == self._pad).any()):
                raise SettingsError(
                    f"a row begins with the padding token {self._pad}; give attention_mask (ones, if it is text)"
                )
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

    def _read(self, texts: list[list[int]]) -> Tensor:
        """Return the amateur's logits `[rows, vocab]` after the texts."""
        check_rows(texts, width=self._architecture.width, context=self._architecture.context, room=0)
        shared = self._align(texts)
        model = self._sources.expert
        if shared is None or (shared != list(model.lengths) and model.why_not_truncate):
            self._sources = self._open()
            self._sources.add_rows(len(texts))
        else:
            self._sources.rewind(shared)
        self._texts = texts
        return self._sources.read(("expert",), texts)["expert"][:, -1]

    def _align(self, texts: Sequence[list[int]]) -> list[int] | None:
        """Put the rows that were read where texts continue them; return how many tokens of each stay, or None."""
        held = {tuple(text): row for row, text in enumerate(self._texts)}
        found = [held.get(tuple(text[:-1])) for text in texts]
        rows = [row if place is None else place for row, place in enumerate(found)]
        if not rows or max(rows) >= len(self._texts):
            return None
        if rows != list(range(len(self._texts))):
            self._sources.keep_rows(rows)
        return [
            min(common_prefix(self._texts[row], text), len(text) - 1) for row, text in zip(rows, texts, strict=True)
        ]
