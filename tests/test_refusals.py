"""Bad input: each is refused at once, with cause and remedy, and costs nothing that was done."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BatchEncoding

import architectures
import descant.models.cache
from checkpoints import qwen_tokenizer, sentencepiece_tokenizer
from descant import (
    BadWords,
    Contrastive,
    Decoder,
    DecodingError,
    EarlyExit,
    Greedy,
    Likelihood,
    LoadError,
    OutOfMemoryError,
    PromptError,
    Sample,
    SettingsError,
    Temperature,
    TopK,
    VocabularyError,
    Window,
)
from descant.calls.options import Options
from descant.calls.prompts import as_list, check_pairs, check_rows, encode_pairs, encode_prompts

MODEL = architectures.build("qwen2")
DECODER = Decoder(MODEL)


@pytest.mark.parametrize(
    ("prompts", "settings", "error", "message"),
    [
        ([[]], {}, PromptError, "no tokens"),
        ([[3] * 128], {}, PromptError, "longer than the context"),
        ([[3, 97]], {}, PromptError, "vocabulary of 97"),
        ([[-1]], {}, PromptError, "vocabulary of 97"),
        ([3, 4], {}, PromptError, "list of them"),
        ([{"role": "user", "content": "x"}], {"chat": True}, PromptError, "list of them"),
        ([[1.5]], {}, PromptError, "integer token ids"),
        ([["a"]], {}, PromptError, "integer token ids"),
        ([None], {}, PromptError, "neither text nor"),
        (None, {}, PromptError, "neither text nor"),
        ("text", {}, PromptError, "needs a tokenizer"),
        ([[3]], {"stop": "x"}, PromptError, "needs a tokenizer"),
        ([[3]], {"max_new_tokens": -1}, SettingsError, "max_new_tokens is -1"),
        ([[3]], {"batch_size": 0}, SettingsError, "batch_size is 0"),
        ([[3]], {"top_logprobs": -2}, SettingsError, "top_logprobs is -2"),
        ([[3]], {"scoring": Contrastive()}, SettingsError, "needs an amateur"),
        ([[3]], {"system": "x"}, SettingsError, "chat=True"),
        ([[3]], {"chat": True}, SettingsError, "texts, not token ids"),
        ([[3]], {"processors": ["top-k"]}, SettingsError, "processor"),
        ([[3]], {"strategy": "greedy"}, SettingsError, "not a strategy"),
        ([[3]] * 3, {"strategy": Sample(rng="transformers"), "batch_size": 2}, SettingsError, "raise it"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_unusable_calls(prompts: Any, settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        DECODER.generate(prompts, **settings)
    assert "\n" not in str(caught.value)


def options(**given: Any) -> Options:
    """The defaults of `Decoder.generate`, with changes."""
    settings: dict[str, Any] = {
        "scoring": None,
        "processors": (),
        "strategy": Greedy(),
        "max_new_tokens": 256,
        "stop": (),
        "ignore_eos": False,
        "seed": None,
        "chat": False,
        "system": None,
        "top_logprobs": 0,
        "trace": False,
        "batch_size": 64,
    }
    return Options(**{**settings, **given})


NO_WHOLE_NUMBERS = [None, "5", 3.5, float("inf"), float("nan"), True, [3], np.float64(3), np.array([1, 2]), int]


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("stop", [[5], b"x", 5, [b"x"], [None]], r"stop is .*; give a string or a list of strings"),
        ("processors", [Temperature(0.5), 3, "top-k", TopK], r"processors is .*; give a list"),
        ("scoring", [Contrastive, "contrastive", MODEL, [Likelihood()]], r"is not a scoring; give Contrastive\(\)"),
        ("strategy", [Greedy, Sample, None, "greedy"], r"is not a strategy; give Greedy\(\)"),
        ("max_new_tokens", [*NO_WHOLE_NUMBERS, -1], "max_new_tokens is .*; give a whole number from 0"),
        ("top_logprobs", [*NO_WHOLE_NUMBERS, -1], "top_logprobs is .*; give a whole number from 0"),
        ("batch_size", [*NO_WHOLE_NUMBERS, 0, 2.0], "batch_size is .*; give a whole number from 1"),
        ("ignore_eos", [None, 1, "no", np.array([True, False])], "ignore_eos is .*; give True or False"),
        ("chat", [None, 0, "yes"], "chat is .*; give True or False"),
        ("trace", [None, 2, "no"], "trace is .*; give True or False"),
        ("seed", [*NO_WHOLE_NUMBERS[1:], 2**64, -(2**63) - 1], r"seed is .*; give a whole number from -2\*\*63"),
        ("system", [3, b"x"], "system is .*; give text, or None"),
        ("system", ["x"], "give chat=True as well"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_unusable_settings(name: str, values: list[Any], message: str) -> None:
    for value in values:
        with pytest.raises(SettingsError, match=message) as caught:
            options(**{name: value})
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 200


@pytest.mark.usefixtures("unchecked_types")
def test_settings_are_kept_in_their_plain_types() -> None:
    given = options(
        stop=None,
        processors=None,
        max_new_tokens=np.int64(3),
        seed=np.uint64(2**64 - 1),
        top_logprobs=torch.tensor(2),
        batch_size=np.int8(1),
    )
    assert given == options(max_new_tokens=3, seed=2**64 - 1, top_logprobs=2, batch_size=1)
    assert [type(value) for value in (given.max_new_tokens, given.seed, given.top_logprobs)] == [int] * 3
    assert options(stop="x").stop == options(stop=["x"]).stop == options(stop=iter("x")).stop == ("x",)
    assert options(processors=iter([TopK(3)])).processors == (TopK(3),)
    assert options(seed=-(2**63)).seed == -(2**63)
    assert options(chat=True, system="x").system == "x"


@pytest.mark.parametrize("layer", ["1", 1.5, True, None, [1]])
@pytest.mark.usefixtures("unchecked_types")
def test_a_layer_is_a_whole_number(layer: Any) -> None:
    with pytest.raises(SettingsError, match=r"EarlyExit\.layer is .*; give a whole number"):
        EarlyExit(layer)


@pytest.mark.usefixtures("unchecked_types")
def test_an_early_exit_of_plain_types() -> None:
    assert repr(EarlyExit(np.int64(1))) == "EarlyExit(layer=1, norm=True)"  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r"EarlyExit\.norm is 'no'; give True or False"):
        EarlyExit(1, norm="no")  # type: ignore[arg-type]


@pytest.mark.parametrize("layer", [0, 3, 7, -1])
def test_an_unknown_layer_is_named_with_the_known_ones(layer: int) -> None:
    with pytest.raises(SettingsError, match="choose 1 to 2"):
        Decoder(MODEL, amateur=EarlyExit(layer))


@pytest.mark.parametrize("tokens", [*NO_WHOLE_NUMBERS, 0, -1])
@pytest.mark.usefixtures("unchecked_types")
def test_a_window_of_nothing(tokens: Any) -> None:
    with pytest.raises(SettingsError, match=r"Window\.tokens is .*; show it at least 1 token"):
        Window(MODEL, tokens)


@pytest.mark.parametrize("model", [None, 3, b"x", type(MODEL), torch.nn.Linear(2, 2)])
@pytest.mark.usefixtures("unchecked_types")
def test_a_window_of_no_model(model: Any) -> None:
    with pytest.raises(SettingsError, match=r"Window\.model is .*; give a PreTrainedModel, a hub id or a folder"):
        Window(model, 3)


def test_a_window_of_a_folder() -> None:
    assert Window(Path("some", "folder"), 3) == Window(str(Path("some", "folder")), 3)


TOKENIZER = qwen_tokenizer()


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({"a": 1}, "a dict is no prompt; give texts"),
        ({"role": "user", "content": "x"}, r"a dict is no prompt; .* chats \[\[{…}\]\]"),
        (BatchEncoding({"input_ids": [[3]]}), r'a BatchEncoding is no prompt; .* tokenizer\(texts\)\["input_ids"\]'),
        ([BatchEncoding({"input_ids": [3]})], "^a BatchEncoding is no prompt"),
        (b"abc", "decode it"),
        ([b"abc"], "decode it"),
        ([bytearray(b"abc")], "decode it"),
        ([[True, False]], "integer token ids .*bool"),
        ([torch.tensor([True])], "integer token ids .*bool"),
        ([[torch.tensor(True)]], "integer token ids .*bool"),
        (np.array([[True]]), "integer token ids .*bool"),
        ([[[3]]], "integer token ids"),
        (torch.ones(1, 1, 1, dtype=torch.long), "integer token ids"),
        (torch.ones(1, 2), "integer token ids"),
        (torch.tensor([3, 4]), "one row of token ids; give a list"),
        (np.array([3, 4]), "one row of token ids; give a list"),
        ([np.int64(3), np.int64(4)], "one row of token ids; give a list"),
        ([torch.tensor(3)], "one row of token ids; give a list"),
        (torch.tensor(3), "neither text nor"),
        (3, "neither text nor"),
        pytest.param(object(), "neither text nor", id="object"),
        ([3.5], "neither text nor a row"),
        ([[{"role": "user", "content": "x"}, 5]], "integer token ids"),
        ([{"role": "user", "content": "x"}], "one chat; give a list"),
    ],
    ids=repr,
)
@pytest.mark.usefixtures("unchecked_types")
def test_unusable_prompts(prompts: Any, message: str) -> None:
    for call in (
        lambda: encode_prompts(TOKENIZER, prompts, chat=False, system=None),
        lambda: encode_pairs(TOKENIZER, prompts, prompts),
    ):
        with pytest.raises(PromptError) as caught:
            call()
        assert "\n" not in str(caught.value)
        assert not str(caught.value).startswith("prompt 0")
    with pytest.raises(PromptError, match=message):
        encode_prompts(TOKENIZER, prompts, chat=False, system=None)


@pytest.mark.parametrize(
    "prompts",
    [
        [[3, 4], [5, 6]],
        ((3, 4), (5, 6)),
        torch.tensor([[3, 4], [5, 6]]),
        np.array([[3, 4], [5, 6]], dtype=np.uint8),
        [torch.tensor([3, 4]), np.array([5, 6])],
        [[torch.tensor(3), np.int32(4)], [5, 6]],
        (iter(row) for row in [[3, 4], [5, 6]]),
    ],
    ids=lambda prompts: type(prompts).__name__,
)
@pytest.mark.usefixtures("unchecked_types")
def test_rows_of_token_ids_in_any_container(prompts: Any) -> None:
    rows = encode_prompts(None, prompts, chat=False, system=None)
    assert rows == [[3, 4], [5, 6]]
    assert all(type(token) is int for row in rows for token in row)


@pytest.mark.usefixtures("unchecked_types")
def test_texts_in_any_container() -> None:
    for texts in (["a", "b"], ("a", "b"), iter("ab"), np.array(["a", "b"])):
        assert as_list(texts) == ["a", "b"]  # type: ignore[arg-type]
    assert as_list("ab") == ["ab"]
    assert as_list([]) == []
    assert encode_prompts(TOKENIZER, ["a", "b"], chat=False, system=None) == [[64], [65]]


@pytest.mark.parametrize(
    ("prompts", "chat", "error", "message"),
    [
        ([[3], [4], [1.5]], False, PromptError, "^prompt 2: a prompt is neither text nor"),
        (["a", ""], False, PromptError, "^prompt 1: the prompt is empty"),
        (["a", None], False, PromptError, "^prompt 1: None is neither text nor"),
        ([[3], 5], False, PromptError, "^prompt 1: 5 is neither text nor"),
        ([[3], b"x"], False, PromptError, "^prompt 1: a prompt is bytes"),
        ([[3], {"role": "user"}], False, PromptError, "^prompt 1: a dict is no prompt"),
        ([[3], [4]], True, SettingsError, "^prompt 0: the chat template takes texts"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_of_several_prompts_the_unusable_one_is_named(
    prompts: Any, chat: bool, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        encode_prompts(TOKENIZER, prompts, chat=chat, system=None)


def test_of_several_rows_the_unusable_one_is_named() -> None:
    with pytest.raises(PromptError, match=r"^prompt 1: a prompt or continuation has no tokens"):
        check_rows([[3], []], width=9, context=None, room=0)
    with pytest.raises(PromptError, match=r"^prompt 2: token ids 3 to 9 do not fit"):
        check_rows([[3], [4], [9, 3]], width=9, context=None, room=0)
    with pytest.raises(PromptError, match=r"^a text of 4 tokens is longer"):
        check_rows([[3] * 4], width=9, context=4, room=1)
    check_rows([[3] * 4, [8]], width=9, context=4, room=0)
    with pytest.raises(PromptError, match=r"^prompt 1: a text of 4 tokens is longer"):
        check_pairs([([3, 3, 3], [4, 4]), ([3, 3, 3, 3], [4, 4])], width=9, context=4)
    with pytest.raises(PromptError, match=r"^prompt 0: token ids 9 to 9"):
        check_pairs([([3], [9]), ([3], [4])], width=9, context=4)
    with pytest.raises(PromptError, match=r"^prompt 1: prompt and continuation must both"):
        encode_pairs(TOKENIZER, ["a", "b"], ["c", [3]])  # type: ignore[arg-type]


@pytest.mark.usefixtures("unchecked_types")
def test_something_else_is_no_amateur() -> None:
    with pytest.raises(SettingsError, match="not an amateur"):
        Decoder(MODEL, amateur="amateur")  # type: ignore[arg-type]


def test_an_encoder_is_no_language_model() -> None:
    from transformers import BertConfig, BertLMHeadModel

    config = BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    with pytest.raises(LoadError, match="not a causal language model"):
        Decoder(BertLMHeadModel(config).eval())


def test_different_tokenizers_are_refused() -> None:
    tokenizer, other = qwen_tokenizer(), sentencepiece_tokenizer()
    expert = architectures.build("qwen2", vocab_size=416)
    with pytest.raises(VocabularyError):
        Decoder(expert, tokenizer, architectures.build("qwen2", vocab_size=416), amateur_tokenizer=other)
    with pytest.raises(VocabularyError, match="97 wide"):
        Decoder(expert, tokenizer, MODEL)


@pytest.mark.parametrize("broken", ["expert", "amateur"])
@pytest.mark.parametrize("selective", [True, False])
def test_logits_that_are_not_numbers_name_step_and_source(broken: str, selective: bool) -> None:
    """The damage strikes at the second step: the first must have gone well."""
    expert, amateur = architectures.build("qwen2", seed=1), architectures.build("qwen2", seed=2)
    victim = {"expert": expert, "amateur": amateur}[broken]
    decoder = Decoder(expert, amateur=amateur)
    settings: dict[str, Any] = {"scoring": Contrastive(alpha=1e-9, selective=selective)}
    first = decoder.generate([[3, 4]], max_new_tokens=1, **settings)[0].token_ids[0]
    victim.model.embed_tokens.weight.data[first] = torch.nan
    with pytest.raises(DecodingError, match=rf"logits of the {broken} .* step 1 of row 0"):
        decoder.generate([[3, 4]], max_new_tokens=8, **settings)


def test_a_vocabulary_banned_whole_is_refused() -> None:
    ban = BadWords([[token] for token in range(97)])
    with pytest.raises(DecodingError, match="forbid every token at step 0 of row 0"):
        DECODER.generate([[3]], processors=[ban])


def test_memory_that_cannot_fit_is_refused_with_the_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """3 layers × 2 heads × 8 numbers × 2 (keys, values) × 8 bytes = 768 bytes a token."""
    monkeypatch.setattr(descant.models.cache, "free_memory", lambda device: 768 * 100)
    assert DECODER.generate([[3] * 50], max_new_tokens=50)[0].finish_reason == "length"
    with pytest.raises(OutOfMemoryError, match=r"1 rows of 101 tokens needs .* GiB"):
        DECODER.generate([[3] * 50], max_new_tokens=51)


def test_a_failed_allocation_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    model = architectures.build("qwen2")
    monkeypatch.setattr(model.model, "forward", fail)
    with pytest.raises(OutOfMemoryError, match="decode fewer rows"):
        Decoder(model).generate([[3]])


def test_scoring_needs_as_many_ends_as_prompts() -> None:
    with pytest.raises(PromptError, match="as many of each"):
        DECODER.score([[3]], [[4], [5]])
    with pytest.raises(PromptError, match="no tokens"):
        DECODER.score([[3]], [[]])
    with pytest.raises(PromptError, match="longer than the context"):
        DECODER.score([[3] * 100], [[4] * 30])
