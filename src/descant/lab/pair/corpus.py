"""Texts of a world as tokens: the tokenizer and the packed batches that training reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
CONTEXT = 512


@dataclass(frozen=True)
class Batch:
    """Rows of whole texts, one behind the other.

    Parameters
    ----------
    tokens, text, position : Tensor
        Of shape rows × row_tokens: token ids, the number of the text within its row (−1 for padding), and the
        position within the text.
    """

    tokens: Tensor
    text: Tensor
    position: Tensor


def train_tokenizer(texts: Iterator[str], size: int, documents: int = 30_000) -> PreTrainedTokenizerFast:
    """Learn a byte-level BPE tokenizer from texts.

    Parameters
    ----------
    texts : iterator of str
        Endless.
    size : int
        Vocabulary size, special tokens included.
    documents : int
        Number of texts to learn from.

    Returns
    -------
    PreTrainedTokenizerFast
        It puts the beginning-of-sequence token before every text.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(islice(texts, documents), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def batches(texts: Iterator[str], tokenizer: PreTrainedTokenizerFast, rows: int, row_tokens: int) -> Iterator[Batch]:
    """Yield packed batches as long as there are texts.

    Parameters
    ----------
    texts : iterator of str
        Endless, and short enough for a row each.
    tokenizer : PreTrainedTokenizerFast
        As made by `train_tokenizer`.
    rows, row_tokens : int
        Shape of a batch.
    """
    eos = tokenizer.eos_token_id
    pending: list[list[int]] = []
    packed: list[list[list[int]]] = [[]]
    room = row_tokens
    while True:
        if not pending:
            chunk = list(islice(texts, 2048))
            pending = [[*ids, eos] for ids in tokenizer(chunk)["input_ids"]][::-1]
        text = pending.pop()
        if len(text) > row_tokens:
            raise ValueError(f"a text of {len(text)} tokens does not fit a row of {row_tokens}: make rows longer")
        if len(text) > room:
            if len(packed) == rows:
                yield _pack(packed, row_tokens, tokenizer.pad_token_id)
                packed = []
            packed.append([])
            room = row_tokens
        packed[-1].append(text)
        room -= len(text)


def _pack(rows: Sequence[Sequence[Sequence[int]]], length: int, pad: int) -> Batch:
    tokens = torch.full((len(rows), length), pad)
    number = torch.full((len(rows), length), -1)
    position = torch.zeros((len(rows), length), dtype=torch.long)
    for row, texts in enumerate(rows):
        flat = [token for text in texts for token in text]
        tokens[row, : len(flat)] = torch.tensor(flat)
        number[row, : len(flat)] = torch.tensor([i for i, text in enumerate(texts) for _ in text])
        position[row, : len(flat)] = torch.tensor([i for text in texts for i in range(len(text))])
    return Batch(tokens, number, position)
