"""Checkpoints and tokenizers written for tests, in the formats that the hub holds.

`write_pair` makes an expert and an amateur as Qwen2.5-Instruct comes: a Qwen2 model with tied embeddings and
padded vocabulary, sharded safetensors with an index, a generation config with two end-of-sequence ids, and a
byte-level tokenizer with ChatML's special tokens and chat template. Only the sizes are small and the weights
random; these are spread widely, so that greedy text changes with its prompt and does not repeat one token.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizer, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from descant.errors import LoadError

EXPERT_WIDTH = 416
AMATEUR_WIDTH = 448

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"]
"""Special tokens, which decoding skips; Qwen gives them the ids after its vocabulary, in this order."""

ADDED = ["<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"]
"""Added tokens that are text: decoding writes them."""

CHAT_TEMPLATE = (
    "{%- if messages[0]['role'] != 'system' -%}"
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
    "{%- endif -%}"
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)

TEXT = [
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on.",
    "You are a helpful assistant. Hello, hello world! What is the capital of France? It is Paris.",
    "Ça alors, où est passé l'élève? Größe, naïve café.",
    "世界 and 世代, Привет, мир. Numbers: 0 1 2 3 45 678.",
    "def main():\n    return 'one two three'\n",
]


def write_pair(folder: Path, seed: int = 0) -> tuple[Path, Path]:
    """Write an expert and an amateur below `folder`; return their folders."""
    tokenizer = qwen_tokenizer()
    expert = write_checkpoint(folder / "expert", tokenizer, EXPERT_WIDTH, hidden=64, layers=3, seed=seed)
    amateur = write_checkpoint(folder / "amateur", tokenizer, AMATEUR_WIDTH, hidden=32, layers=1, seed=seed + 1)
    return expert, amateur


def write_checkpoint(
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    width: int,
    *,
    hidden: int = 32,
    layers: int = 1,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write one model and its tokenizer; return the folder."""
    vocabulary = tokenizer.get_vocab()
    ends = [vocabulary["<|im_end|>"], vocabulary["<|endoftext|>"]]
    config = Qwen2Config(
        vocab_size=width,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
        tie_word_embeddings=True,
        bos_token_id=ends[1],
        eos_token_id=ends[0],
        dtype=dtype,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(config).to(dtype)
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=ends[1], bos_token_id=ends[1])
    model.save_pretrained(folder, max_shard_size="64KB")
    tokenizer.save_pretrained(folder)
    _write_as_qwen(folder, tokenizer)
    return folder


def refusal(load: Callable[[], object]) -> str:
    """Return the one line with which loading is refused: cause, then remedy."""
    with pytest.raises(LoadError) as caught:
        load()
    message = str(caught.value)
    assert "\n" not in message
    assert ": " in message
    return message


def qwen_tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer like Qwen2.5's: no bos, chat markers after the vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    words = Regex(r"(?i:'s|'t|'re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=390, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in ADDED])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=512,
    )


def sentencepiece_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer like Llama 2's: spaces as ▁, one before the text, unknown characters as bytes."""
    vocabulary = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0)]
    vocabulary += [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    letters = "abcdefghijklmnopqrstuvwxyzHW▁,.é"
    pieces = ["▁Hello", "▁world", "▁the", "▁wor", "ld", "▁dog", "llo", "▁▁", "s", "."]
    vocabulary += [(letter, -8.0) for letter in letters]
    vocabulary += [(piece, -2.0) for piece in pieces if len(piece) > 1]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in ("<unk>", "<s>", "</s>")])
    return _with_bos(tokenizer)


def metaspace_tokenizer() -> PreTrainedTokenizerFast:
    """Return a Unigram tokenizer without byte fallback, spaces handled by Metaspace."""
    vocabulary = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("▁", -6.0), ("▁▁", -4.0)]
    vocabulary += [(letter, -8.0) for letter in "abcdefghijklmnopqrstuvwxyzé,."]
    vocabulary += [(piece, -2.0) for piece in ("▁hello", "▁world", "▁a", "ld")]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in ("<unk>", "<s>", "</s>")])
    return _with_bos(tokenizer)


class SlowSentencePiece(PreTrainedTokenizer):
    """Writes and reads as SentencePiece's own classes do in transformers, over a vocabulary of words and letters."""

    def __init__(self, **options: Any) -> None:
        self._pieces = ["<unk>", "<s>", "</s>", "▁", "▁hello", "▁world", "wor", "ld", *"abcdehlorw.,"]
        super().__init__(unk_token="<unk>", bos_token="<s>", eos_token="</s>", **options)

    @property
    def vocab_size(self) -> int:
        return len(self._pieces)

    def get_vocab(self) -> dict[str, int]:
        return {piece: index for index, piece in enumerate(self._pieces)}

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        spelled = "▁" + text.replace(" ", "▁")
        return re.findall("|".join(sorted(map(re.escape, self._pieces), key=len, reverse=True)), spelled)

    def _convert_token_to_id(self, token: str) -> int:
        return self._pieces.index(token) if token in self._pieces else 0

    def _convert_id_to_token(self, index: int) -> str:
        return self._pieces[index]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return "".join(tokens).replace("▁", " ").strip()

    def build_inputs_with_special_tokens(self, ids: list[int], other: list[int] | None = None) -> list[int]:
        return [1, *ids, *(other or [])]


def wordpiece_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer like BERT's: pieces of words begin with ##, [CLS] and [SEP] enclose every text."""
    words = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "hello", "world", "wor", "##ld", "##s", "##", "the", "dog"]
    words += [".", ",", "'", "n", "##'", "'s", "!", "?", "a", "##a", "b", "##b", "i", "'m"]
    tokenizer = Tokenizer(models.WordPiece({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in words[:4]])
    tokenizer.post_processor = _enclosed(tokenizer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]"
    )


def suffix_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer like the first GPT's: the last piece of a word ends in </w>."""
    words = ["<unk>", "a", "b", "</w>", "a</w>", "b</w>", "ab</w>", "hello</w>", "wor", "ld</w>", ".</w>"]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.decoder = decoders.BPEDecoder()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def _with_bos(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """Put <s> before every text."""
    from tokenizers.processors import TemplateProcessing

    tokenizer.post_processor = TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def _enclosed(tokenizer: Tokenizer) -> object:
    """Put [CLS] before every text and [SEP] after it."""
    from tokenizers.processors import TemplateProcessing

    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    return TemplateProcessing("[CLS] $A [SEP]", special_tokens=ends)


def _write_as_qwen(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Keep in tokenizer_config.json what Qwen2.5 has there: chat template, added tokens, and class."""
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text())
    fields = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    config |= {
        "added_tokens_decoder": {
            str(token_id): {field: getattr(token, field) for field in fields}
            for token_id, token in tokenizer.added_tokens_decoder.items()
        },
        "additional_special_tokens": SPECIAL[1:],
        "bos_token": None,
        "chat_template": CHAT_TEMPLATE,
        "tokenizer_class": "Qwen2Tokenizer",
    }
    file.write_text(json.dumps(config, indent=2, ensure_ascii=False))
    (folder / "chat_template.jinja").unlink(missing_ok=True)
