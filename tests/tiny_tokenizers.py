"""Tokenizers of a few tokens over the letters a, b, c, for sums over every tokenization."""

from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast


def byte_level(merges: Sequence[str], letters: str = "abcĠ", end: str = "<eos>") -> PreTrainedTokenizerFast:
    """Byte-level BPE: `merges` like "a b"; no special tokens but one, the end, which is id 0."""
    tokens = [end, *letters, *(merge.replace(" ", "") for merge in merges)]
    pairs = [tuple(merge.split()) for merge in merges]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(end, special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end)


def sentencepiece(*pieces: str) -> PreTrainedTokenizerFast:
    """Unigram as in SentencePiece: ▁ before the text, bytes of a, b and é beside the letters, <s> before every text."""
    tokens = ["<unk>", "<s>", "</s>", "<0x61>", "<0x62>", "<0xC3>", "<0xA9>", "▁", "a", "b", "c", *pieces]
    scores = [(token, -1.0 if token in pieces else -6.0 - len(token)) for token in tokens]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=0, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in tokens[:3]])
    tokenizer.post_processor = TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def wordpiece(*words: str) -> PreTrainedTokenizerFast:
    """WordPiece over single letters and `words`, [CLS] and [SEP] around every text."""
    letters = [*"abc.", *(f"##{letter}" for letter in "abc")]
    tokens = ["[UNK]", "[CLS]", "[SEP]", *letters, *words]
    tokenizer = Tokenizer(models.WordPiece({word: index for index, word in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in tokens[:3]])
    tokenizer.post_processor = TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", eos_token="[SEP]"
    )
