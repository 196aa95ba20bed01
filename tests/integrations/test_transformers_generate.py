"""Inside `model.generate`: transformers' own loop is the oracle, for all that is not contrast."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    EosTokenCriteria,
    GenerationConfig,
    LogitsProcessor,
    MaxLengthCriteria,
    PreTrainedModel,
    StoppingCriteria,
)
from transformers.generation.streamers import BaseStreamer

import descant
import oracle
from architectures import build
from descant import Contrastive, Decoder, EarlyExit, OtherPrompt, OtherTokenizer, PromptLookup, Sample, SettingsError
from descant.models.architecture import CACHE_ARGUMENTS, cache_argument

EXPERT = cache(lambda: build("qwen2"))
AMATEUR = cache(lambda: build("qwen2", seed=1, num_hidden_layers=1))
IDS = torch.tensor([[0, 0, 5, 6, 7], [3, 4, 5, 6, 8], [0, 2, 3, 9, 4]])
MASK = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 1, 1, 1, 1]])
PROMPTS = [[5, 6, 7], [3, 4, 5, 6, 8], [2, 3, 9, 4]]
EOS = [11, 12, 13, 14, 15, 38, 52]


def generate(custom: Any = None, seed: int = 0, model: PreTrainedModel | None = None, **settings: Any) -> Any:
    model = model or EXPERT()
    torch.manual_seed(seed)
    settings = {"input_ids": IDS, "attention_mask": MASK, "max_new_tokens": 12, **settings}
    return model.generate(custom_generate=custom, **settings)  # type: ignore[operator]


class Recorder(BaseStreamer):
    def __init__(self) -> None:
        self.told: list[list[int] | str] = []

    def put(self, value: Tensor) -> None:
        self.told.append(value.flatten().tolist())

    def end(self) -> None:
        self.told.append("end")


class AfterToken(StoppingCriteria):
    """Ends rows behind some tokens, and remembers what it was asked."""

    def __init__(self, *tokens: int) -> None:
        self.tokens = torch.tensor(tokens)
        self.asked: list[list[list[int]]] = []

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        self.asked.append(input_ids.tolist())
        return torch.isin(input_ids[:, -1], self.tokens)


class Alternating(LogitsProcessor):
    """Knows its rows by their place, and counts its calls: forbids even tokens, in odd steps to odd rows."""

    def __init__(self) -> None:
        self.asked: list[list[list[int]]] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.asked.append(input_ids.tolist())
        scores[len(self.asked) % 2 :: 2, ::2] = -torch.inf
        return scores


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"do_sample": True},
        {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.9, "repetition_penalty": 1.3},
        {"eos_token_id": EOS},
        {"eos_token_id": EOS, "do_sample": True, "min_new_tokens": 3},
        {"do_sample": True, "num_return_sequences": 2, "no_repeat_ngram_size": 2},
        {"max_new_tokens": 1},
        {"generation_config": GenerationConfig(max_length=9, bad_words_ids=[[7], [94]], top_k=None)},
        {"attention_mask": None},
        {"eos_token_id": EOS, "begin_suppress_tokens": [45], "forced_eos_token_id": 7},
    ],
    ids=str,
)
def test_likelihood_gives_the_tokens_of_generate(settings: dict[str, Any]) -> None:
    assert torch.equal(generate(descant.likelihood, **settings), generate(**settings))


@pytest.mark.parametrize("name", ["gpt2", "mamba", "gemma3_text"])
def test_other_architectures_too(name: str) -> None:
    model = build(name)
    settings = {"do_sample": True, "input_ids": IDS[1:2], "attention_mask": None, "model": model}
    assert torch.equal(generate(descant.likelihood, **settings), generate(**settings))


@pytest.mark.parametrize("settings", [{}, {"alpha": 0.3}, {"beta": 0.5, "temperature": 0.7, "candidates": 5}], ids=str)
def test_contrastive_is_the_papers(settings: dict[str, Any]) -> None:
    names = {name: "amateur_temperature" if name == "temperature" else name for name in settings}
    given = {f"cd_{names[name]}": value for name, value in settings.items()}
    result = generate(descant.contrastive, amateur=AMATEUR(), **given)
    full = oracle.full
    expected = [oracle.decode(row, full(EXPERT()), full(AMATEUR()), count=12, **settings) for row in PROMPTS]
    assert result[:, IDS.shape[1] :].tolist() == expected
    assert torch.equal(result[:, : IDS.shape[1]], IDS)


def test_contrastive_samples_as_the_decoder_does() -> None:
    result = generate(descant.contrastive, seed=3, amateur=EarlyExit(2), do_sample=True, top_k=0)
    decoder = Decoder(EXPERT(), amateur=EarlyExit(2))
    outs = decoder.generate(PROMPTS, Contrastive(), strategy=Sample("transformers"), max_new_tokens=12, seed=3)
    assert result[:, IDS.shape[1] :].tolist() == [out.token_ids for out in outs]


SPECULATION = [
    ({"eos_token_id": EOS}, 2),
    ({"repetition_penalty": 1.3, "no_repeat_ngram_size": 3, "min_new_tokens": 4, "eos_token_id": EOS}, 4),
    ({"output_scores": True, "output_logits": True, "return_dict_in_generate": True, "eos_token_id": EOS}, 3),
]


@pytest.mark.parametrize(("settings", "tokens"), SPECULATION)
@pytest.mark.parametrize("kind", ["likelihood", "contrastive", "lookup"])
def test_speculation_changes_nothing_but_the_passes(kind: str, settings: dict[str, Any], tokens: int) -> None:
    pair = {"amateur": AMATEUR()}
    plain, drafted, own, other = {
        "likelihood": (descant.likelihood, descant.speculative, {}, pair),
        "contrastive": (descant.contrastive_beta, descant.speculative_contrastive, pair, {**pair, "cd_beta": 0.5}),
        "lookup": (descant.likelihood, descant.prompt_lookup, {}, {"draft": PromptLookup(2)}),
    }[kind]
    seen, streamed = [], []
    for method, more in ((plain, own), (drafted, {**other, "draft_tokens": tokens})):
        streamer, criterion = Recorder(), AfterToken(86)
        seen.append(generate(method, **settings, **more, streamer=streamer, stopping_criteria=[criterion]))
        streamed.append((streamer.told, criterion.asked))
    assert streamed[0] == streamed[1]
    if "return_dict_in_generate" in settings:
        assert torch.equal(seen[0].sequences, seen[1].sequences)
        for name in ("scores", "logits"):
            torch.testing.assert_close(seen[0][name], seen[1][name])
    else:
        assert torch.equal(*seen)


def test_speculative_sampling_follows_the_manual_seed() -> None:
    draw = [generate(descant.speculative, seed=seed, amateur=AMATEUR(), do_sample=True) for seed in (1, 1, 2)]
    assert torch.equal(draw[0], draw[1])
    assert not torch.equal(draw[0], draw[2])


@pytest.mark.parametrize("eos", [None, EOS])
def test_streamers_and_criteria_see_what_they_see_in_generate(eos: list[int] | None) -> None:
    told = []
    for method in (None, descant.likelihood):
        streamer, criteria = Recorder(), [AfterToken(28, 9), AfterToken(95)]
        result = generate(method, eos_token_id=eos, streamer=streamer, stopping_criteria=criteria, do_sample=True)
        told.append((streamer.told, [entry.asked for entry in criteria], result.tolist()))
    assert told[0] == told[1]
    assert told[0][0][-1] == "end"


def test_rows_end_alone() -> None:
    """What a criterion ends is not decoded further, where an end of sequence allows for padding."""
    longest = []

    class Watching(LogitsProcessor):
        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            longest.append(int((input_ids != 0).sum()))
            return scores

    ended = AfterToken(*range(0, 97))
    generate(descant.likelihood, eos_token_id=96, stopping_criteria=[ended], logits_processor=[Watching()])
    assert len(ended.asked) == len(longest) == 1


def test_a_criterion_of_the_users_replaces_the_length() -> None:
    settings = {"stopping_criteria": [MaxLengthCriteria(15)], "eos_token_id": EOS}
    assert torch.equal(generate(descant.likelihood, **settings), generate(**settings))
    settings = {"stopping_criteria": [EosTokenCriteria(torch.tensor([28]))], "eos_token_id": EOS}
    assert torch.equal(generate(descant.likelihood, **settings), generate(**settings))


@pytest.mark.parametrize("eos", [None, EOS])
def test_processors_that_know_rows_and_steps(eos: list[int] | None) -> None:
    asked = []
    for method in (None, descant.likelihood):
        processor = Alternating()
        result = generate(method, logits_processor=[processor], eos_token_id=eos, do_sample=True)
        asked.append((processor.asked, result.tolist()))
    assert asked[0] == asked[1]


def test_returned_dictionary() -> None:
    settings = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True, "eos_token_id": EOS}
    settings |= {"do_sample": True, "top_k": 30}
    theirs, ours = generate(**settings), generate(descant.likelihood, **settings)
    assert type(ours) is type(theirs)
    assert torch.equal(ours.sequences, theirs.sequences)
    assert len(ours.scores) == len(theirs.scores) == ours.sequences.shape[1] - IDS.shape[1]
    going = torch.ones(3, dtype=torch.bool)
    for place, step in enumerate(zip(ours.scores, theirs.scores, ours.logits, theirs.logits, strict=True)):
        for mine, other in (step[:2], step[2:]):
            assert mine.dtype == other.dtype
            torch.testing.assert_close(mine[going], other[going])
            assert mine[~going].argmax(-1).tolist() == [0] * int((~going).sum())  # padding
        going &= ~torch.isin(ours.sequences[:, IDS.shape[1] + place], torch.tensor(EOS))
    assert not going.all()
    only = generate(descant.likelihood, return_dict_in_generate=True)
    assert (only.scores, only.logits, only.past_key_values) == (None, None, None)
    transitions = EXPERT().compute_transition_scores(ours.sequences, ours.scores, normalize_logits=True)
    assert transitions.shape == (3, len(ours.scores))


def test_a_narrower_amateur_bounds_the_tokens_and_not_the_width() -> None:
    small = build("qwen2", seed=1, num_hidden_layers=1, vocab_size=90)
    out = generate(
        descant.contrastive, amateur=small, return_dict_in_generate=True, output_scores=True, output_logits=True
    )
    assert out.scores[0].shape == out.logits[0].shape == (3, 97)
    assert bool((out.scores[0][:, 90:] == -torch.inf).all())


def test_rows_end_with_the_context() -> None:
    model = build("qwen2", max_position_embeddings=10)
    result = generate(descant.likelihood, model=model, eos_token_id=96, max_new_tokens=8)
    ends = [oracle.decode(row, oracle.full(model), count=10 - len(row)) for row in PROMPTS]
    assert result[:, IDS.shape[1] :].tolist() == [[*end, 0, 0][:7] for end in ends]
    with pytest.raises(SettingsError, match="lower max_new_tokens"):
        generate(descant.likelihood, model=model)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"penalty_alpha": 0.6, "top_k": 4}, "ask for contrastive search"),
        ({"prompt_lookup_num_tokens": 3}, "ask for assisted generation"),
        ({"use_cache": False}, "use_cache would have no effect"),
        ({"cache_implementation": "static"}, "cache_implementation would have no effect"),
        ({"prefill_chunk_size": 2}, "prefill_chunk_size would have no effect"),
        ({"synced_gpus": True}, "synced_gpus would have no effect"),
        ({"output_attentions": True, "return_dict_in_generate": True}, "output_attentions would have no effect"),
        ({"output_hidden_states": True, "return_dict_in_generate": True}, "output_hidden_states would have no effect"),
        ({"position_ids": IDS}, "position_ids are not those"),
        ({"cd_alpha": 0.1}, "cd_alpha would have no effect"),
        ({"draft_tokens": 2}, "draft_tokens would have no effect"),
        ({"amateur": EarlyExit(1)}, "amateur would have no effect"),
    ],
    ids=str,
)
def test_what_is_not_honoured_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        generate(descant.likelihood, **settings)


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        (lambda: descant.contrastive, {}, "'contrastive' needs amateur="),
        (lambda: descant.speculative, {}, "'speculative' needs amateur="),
        (lambda: descant.contrastive, {"amateur": "gpt2"}, "str is not an amateur"),
        (lambda: descant.contrastive, {"amateur": EarlyExit(1), "cd_alpha": 2.0}, "alpha is 2.0"),
        (lambda: descant.contrastive, {"amateur": OtherPrompt("a")}, "OtherPrompt needs each prompt"),
        (lambda: descant.contrastive, {"amateur": OtherTokenizer("name")}, "OtherTokenizer compares tokens by"),
        (lambda: descant.speculative, {"amateur": OtherTokenizer("name")}, "OtherTokenizer compares tokens by"),
        (lambda: descant.prompt_lookup, {"guidance_scale": 1.5}, "guidance_scale keeps a cache"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_methods_refuse_what_they_lack(method: Callable[[], Any], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        generate(method(), **settings)


@pytest.mark.parametrize("name", CACHE_ARGUMENTS)
def test_the_cache_that_generate_makes_goes_by_any_of_its_names(name: str) -> None:
    handed = []

    def renaming(model: Any, input_ids: Tensor, **settings: Any) -> Any:
        given = [other for other in CACHE_ARGUMENTS if settings.get(other) is not None]
        handed.extend(given)
        settings[name] = settings.pop(given[0])
        return descant.likelihood(model, input_ids, **settings)

    assert torch.equal(generate(renaming), generate())
    assert handed == [cache_argument(EXPERT().forward)]


def test_a_cache_of_the_users_is_refused() -> None:
    from transformers import DynamicCache

    name = cache_argument(EXPERT().forward)
    with pytest.raises(SettingsError, match=f"{name} would have no effect"):
        generate(descant.likelihood, **{name: DynamicCache(config=EXPERT().config)})
    with pytest.raises(SettingsError, match="ask for assisted generation"):
        generate(descant.likelihood, assistant_model=AMATEUR(), input_ids=IDS[:1], attention_mask=MASK[:1])
    embeds = EXPERT().get_input_embeddings()(IDS)
    with pytest.raises(SettingsError, match="inputs_embeds would have no effect"):
        EXPERT().generate(inputs_embeds=embeds, max_new_tokens=2, custom_generate=descant.likelihood)  # type: ignore[operator]
