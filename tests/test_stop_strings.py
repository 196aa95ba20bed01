"""Stop strings see special tokens, which the text does not show; `model.generate` tells where a row ends."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LogitsProcessor, PreTrainedModel, PreTrainedTokenizerBase

import architectures
from checkpoints import (
    SPECIAL,
    SlowSentencePiece,
    metaspace_tokenizer,
    qwen_tokenizer,
    sentencepiece_tokenizer,
    wordpiece_tokenizer,
)
from descant import Beam, Decoder, Greedy, PromptLookup, Sample, Speculative
from descant.rows import TextFollower

QWEN = qwen_tokenizer()
MODEL = architectures.build("qwen2", vocab_size=len(QWEN), num_hidden_layers=1)
PROMPT = "The quick"
SPELLED = QWEN.convert_tokens_to_ids(list("<|im_end|>"))
"""What a model writes that knows the text of a special token and not the token."""


class Written(LogitsProcessor):
    """Makes a model write given tokens, and then a space again and again."""

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids = [*ids, *[QWEN.convert_tokens_to_ids("Ġ")] * 8]

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        scores[:, self.ids[input_ids.shape[1] - len(QWEN(PROMPT)["input_ids"])]] += 200.0
        return scores


def ids_of(text: str) -> list[int]:
    return list(QWEN(text)["input_ids"])


CASES = [
    ("ab<|im_end|>\n<|im_start|>user\n", "<|im_end|>\n", "ab"),
    ("ab\n<|im_start|>user", "\n<|im_start|>", "ab"),
    ("ab\n<|im_start|>user", "<|im_start|>user", "ab\n"),
    ("ab<|im_start|>use", "<|im_start|>user", "abuse    "),
    ("a<|im_end|>b<|im_start|>c", "b<|im_start|>", "a"),
    ("a<|im_end|><|im_end|>b", "<|im_end|><|im_end|>", "a"),
]
STRATEGIES: dict[str, tuple[Any, dict[str, Any]]] = {
    "greedy": (Greedy(), {}),
    "sample": (Sample(rng="transformers"), {"do_sample": True, "top_k": 0}),
    "beam": (Beam(2), {"num_beams": 2}),
    "speculative": (Speculative(draft=MODEL, tokens=3), {}),
    "prompt lookup": (Speculative(draft=PromptLookup(1), tokens=3), {}),
    "speculative sample": (Speculative(Sample(), draft=MODEL, tokens=3), {}),
}


def theirs(ids: list[int], stop: str, options: dict[str, Any], tokens: int) -> list[int]:
    prompt = torch.tensor([QWEN(PROMPT)["input_ids"]])
    out = MODEL.generate(
        prompt, stop_strings=[stop], tokenizer=QWEN, logits_processor=[Written(ids)], max_new_tokens=tokens, **options
    )
    return list(out[0, prompt.shape[1] :].tolist())


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.filterwarnings("ignore:.*do_sample")
def test_stop_strings_that_hold_special_tokens_end_every_kind_of_row(name: str) -> None:
    strategy, options = STRATEGIES[name]
    decoder = Decoder(MODEL, QWEN)
    cases = [(ids_of(text), stop, shown) for text, stop, shown in CASES]
    cases.append(([*ids_of("ab"), *SPELLED], "<|im_end|>", "ab"))
    for ids, stop, shown in cases:
        made = {"strategy": strategy, "processors": [Written(ids)], "max_new_tokens": len(ids) + 4, "ignore_eos": True}
        out = decoder.generate(PROMPT, stop=["never", stop], **made)[0]
        assert out.text == shown
        assert out.finish_reason == ("stop" if shown != "abuse    " else "length")
        assert out.token_ids == theirs(ids, stop, options, len(ids) + 4)
        pieces = list(decoder.stream(PROMPT, stop=[stop], **made))
        assert "".join(piece.text for piece in pieces) == shown
        assert [token for piece in pieces for token in piece.token_ids] == out.token_ids


TOKENIZERS: dict[str, PreTrainedTokenizerBase] = {
    "bytes": QWEN,
    "llama": sentencepiece_tokenizer(),
    "metaspace": metaspace_tokenizer(),
    "wordpiece": wordpiece_tokenizer(),
    "slow": SlowSentencePiece(),
}
OPENING = {"bytes": "a", "llama": "Hello", "metaspace": "hello", "wordpiece": "hello", "slow": "hello"}


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_stop_ends_the_text_where_it_begins(kind: str, data: st.DataObject) -> None:
    """The seen text is what each token adds to the decoded whole, special tokens written out."""
    tokenizer = TOKENIZERS[kind]
    before = tokenizer(OPENING[kind], add_special_tokens=False)["input_ids"]
    plain = [
        i for t, i in sorted(tokenizer.get_vocab().items()) if t.isascii() and not t.startswith("<0x") and t != "##"
    ]
    special = sorted(tokenizer.added_tokens_decoder)[:5]
    ids = data.draw(st.lists(st.sampled_from(plain) | st.sampled_from(special), min_size=1, max_size=10))
    seen, shown = _texts(tokenizer, before, ids)
    start = data.draw(st.integers(0, len(seen)))
    stop = seen[start : start + data.draw(st.integers(1, 14))] or "never"
    follower = TextFollower(tokenizer, before, [stop])
    for token in ids:
        follower.push(token)
        assert shown.startswith(follower.text)
        if follower.matched:
            break
    follower.finish()
    assert follower.matched == (stop in seen)
    assert follower.text == _texts(tokenizer, before, ids, until=stop)[1]


def _texts(
    tokenizer: PreTrainedTokenizerBase, before: list[int], ids: list[int], until: str = "never"
) -> tuple[str, str]:
    """Return the text with special tokens, and that which is shown before a stop string."""
    names = tokenizer.added_tokens_decoder
    letters: list[tuple[str, bool]] = []
    known = list(before)
    for token in ids:
        hidden = token in names and names[token].special
        old = tokenizer.decode(known, clean_up_tokenization_spaces=False)
        added = tokenizer.decode([*known, token], clean_up_tokenization_spaces=False)[len(old) :]
        letters += [(letter, hidden) for letter in added]
        known += [] if hidden else [token]
    seen = "".join(letter for letter, _ in letters)
    end = seen.index(until) if until in seen else len(seen)
    return seen, "".join(letter for letter, hidden in letters[:end] if not hidden)


def test_a_byte_that_waits_is_seen_before_a_special_token() -> None:
    """Llama's newline is a byte, of which the next token decides; a special token is decided itself."""
    tokenizer = TOKENIZERS["llama"]
    hello, newline, end = tokenizer.convert_tokens_to_ids(["▁Hello", "<0x0A>", "</s>"])
    follower = TextFollower(tokenizer, [hello], ["\n</s>"])
    for token in (hello, newline, end):
        follower.push(token)
    assert (follower.text, follower.matched) == (" Hello", True)
    follower = TextFollower(tokenizer, [hello], ["never"])
    for token in (newline, end, hello):
        follower.push(token)
    follower.finish()
    assert follower.text == "\n Hello"


def test_every_special_token_is_seen() -> None:
    decoder = Decoder(_chain(["a", *SPECIAL, "b"]), QWEN)
    for place, stop in enumerate(SPECIAL, 1):
        out = decoder.generate([[QWEN.convert_tokens_to_ids("a")]], stop=stop, ignore_eos=True, max_new_tokens=6)[0]
        assert (out.text, len(out.token_ids), out.finish_reason) == ("", place, "stop")


def _chain(tokens: list[str]) -> PreTrainedModel:
    return architectures.chain(QWEN.convert_tokens_to_ids(tokens), len(QWEN))
