"""Contrastive search gives the tokens of transformers and of the papers' equation, in any batch and composition."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import architectures
import oracle
from checkpoints import write_pair
from descant import (
    BadWords,
    Beam,
    Contrastive,
    ContrastiveSearch,
    Decoder,
    DecodingError,
    DoLa,
    EarlyExit,
    Greedy,
    Likelihood,
    MinNewTokens,
    NGram,
    NoRepeatNGram,
    OtherPrompt,
    OutOfMemoryError,
    RepetitionPenalty,
    SettingsError,
    Speculative,
    TopK,
    UnsupportedModelError,
    Window,
)
from descant.models import cache
from golden import make_contrastive_search

PROMPTS = [[5, 17, 3], [8, 2, 9, 41, 7, 30], [60], [33, 33], [21, 4, 50, 11]]
NEW = 12
GOLDEN = json.loads(make_contrastive_search.GOLDEN.read_text(encoding="utf-8"))["cases"]
_PARTS: dict[str, Any] = {
    "repetition_penalty": RepetitionPenalty,
    "no_repeat_ngram_size": NoRepeatNGram,
    "min_new_tokens": MinNewTokens,
}


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"{case['kind']} {case['k']} {case['penalty']}")
def test_tokens_are_those_of_the_last_transformers_that_had_it(case: dict[str, Any]) -> None:
    model = make_contrastive_search.build(case["kind"])
    assert make_contrastive_search.checksum(model) == pytest.approx(case["checksum"], rel=1e-12)
    processors = [_PARTS[name](value) for name, value in case["processed"].items()]
    outputs = Decoder(model).generate(
        make_contrastive_search.PROMPTS,
        Likelihood(),
        processors,
        ContrastiveSearch(case["k"], case["penalty"]),
        max_new_tokens=make_contrastive_search.NEW,
    )
    assert [output.token_ids for output in outputs] == case["tokens"]


def naive(
    expert: PreTrainedModel,
    prompt: Sequence[int],
    score: Callable[[list[int]], list[float]],
    k: int = 4,
    penalty: float = 0.6,
) -> list[int]:
    """Decode by the equation, from a function that gives the scores of the token after a text."""
    return oracle.contrastive_search(prompt, score, lambda text: oracle.hidden_states(expert, text), k, penalty, NEW)


@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral windowed", "gemma2", "opt projected", "bloom", "cohere"])
@pytest.mark.parametrize(("k", "penalty"), [(3, 0.6), (6, 0.9)])
def test_tokens_are_those_of_the_equation(name: str, k: int, penalty: float) -> None:
    model = architectures.build(name)
    outputs = Decoder(model).generate(
        PROMPTS[:3], Likelihood(), strategy=ContrastiveSearch(k, penalty), max_new_tokens=NEW
    )
    for prompt, output in zip(PROMPTS, outputs, strict=False):
        source = oracle.full(model)
        assert output.token_ids == naive(model, prompt, lambda text: source(text).tolist(), k, penalty)  # noqa: B023


EXPERT = architectures.build("qwen2", seed=5)
AMATEUR = architectures.build("qwen2", seed=6)


@pytest.mark.parametrize("amateur", [AMATEUR, EarlyExit(1), Window(EXPERT, 2)], ids=["model", "exit", "window"])
@pytest.mark.parametrize("alpha", [1e-4, 0.1])
def test_any_scoring_gives_the_probabilities(amateur: Any, alpha: float) -> None:
    """A small head leaves fewer tokens than candidates: none beyond it is taken."""
    expert = oracle.full(EXPERT)
    weak = {
        PreTrainedModel: lambda: oracle.full(AMATEUR),
        EarlyExit: lambda: oracle.early_exit(EXPERT, 1),
        Window: lambda: oracle.window(EXPERT, 2),
    }[next(kind for kind in (PreTrainedModel, EarlyExit, Window) if isinstance(amateur, kind))]()
    outputs = Decoder(EXPERT, amateur=amateur).generate(
        PROMPTS, Contrastive(alpha), strategy=ContrastiveSearch(4, 0.8), max_new_tokens=NEW, ignore_eos=True
    )
    for prompt, output in zip(PROMPTS, outputs, strict=True):
        wanted = naive(
            EXPERT, prompt, lambda text: oracle.contrastive(expert(text), weak(text), alpha=alpha), penalty=0.8
        )
        assert output.token_ids == wanted


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> Decoder:
    monkeypatch.setattr(EXPERT.generation_config, "eos_token_id", [4, 11, 50])
    return Decoder(EXPERT, amateur=AMATEUR)


@pytest.mark.parametrize("scoring", [Likelihood(), Contrastive(1e-3), DoLa("low")], ids=str)
def test_a_prompt_decodes_as_if_it_were_alone(decoder: Decoder, scoring: Any) -> None:
    settings: dict[str, Any] = {"processors": [RepetitionPenalty(1.2)], "strategy": ContrastiveSearch(3, 0.7)}
    settings["max_new_tokens"] = NEW
    singly = [decoder.generate([prompt], scoring, **settings)[0] for prompt in PROMPTS]
    assert len({len(output.token_ids) for output in singly}) > 1, "rows end at different steps"
    for batch_size in (7, 64):
        together = decoder.generate(PROMPTS, scoring, **settings, batch_size=batch_size)
        for output, alone in zip(together, singly, strict=True):
            assert (output.token_ids, output.finish_reason) == (alone.token_ids, alone.finish_reason)
            assert output.logprobs == pytest.approx(alone.logprobs, abs=1e-9)


@pytest.mark.parametrize("amateur", [OtherPrompt([7, 9]), NGram(2)], ids=["other prompt", "n-gram"])
def test_sources_that_are_no_forks_follow_the_chosen_tokens(amateur: Any) -> None:
    decoder = Decoder(EXPERT, amateur=amateur)
    strategy = ContrastiveSearch(4, 0.8)
    outputs = decoder.generate(PROMPTS, Contrastive(1e-3), strategy=strategy, max_new_tokens=NEW)
    for prompt, output in zip(PROMPTS, outputs, strict=True):
        [alone] = decoder.generate([prompt], Contrastive(1e-3), strategy=strategy, max_new_tokens=NEW)
        [score] = decoder.score([prompt], [output.token_ids], Contrastive(1e-3))
        assert output.token_ids == alone.token_ids
        assert output.logprobs == pytest.approx(score.logprobs)


@pytest.mark.parametrize("strategy", [ContrastiveSearch(1, 0.9), ContrastiveSearch(5, 0.0)], ids=str)
def test_without_rivals_or_penalty_it_is_greedy(decoder: Decoder, strategy: ContrastiveSearch) -> None:
    ours, greedy = (
        decoder.generate(PROMPTS, Contrastive(), [TopK(2)], chosen, max_new_tokens=NEW)
        for chosen in (strategy, Greedy())
    )
    assert [output.token_ids for output in ours] == [output.token_ids for output in greedy]


def test_a_forbidden_token_is_never_taken(decoder: Decoder) -> None:
    """Two tokens are allowed and four are candidates."""
    settings: dict[str, Any] = {"max_new_tokens": 24, "ignore_eos": True, "top_logprobs": 2}
    outputs = decoder.generate(PROMPTS, Likelihood(), [TopK(2)], ContrastiveSearch(4, 1.0), **settings)
    for output in outputs:
        assert output.top_logprobs is not None
        for token, top in zip(output.token_ids, output.top_logprobs, strict=True):
            assert token in dict(top)


def test_long_prompts_are_read_in_parts(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = [(7 * place + place % 5) % 90 + 3 for place in range(50)]
    settings: dict[str, Any] = {"strategy": ContrastiveSearch(4, 0.8), "max_new_tokens": 8, "ignore_eos": True}
    whole = decoder.generate([prompt, *PROMPTS], Contrastive(), **settings)
    monkeypatch.setattr("descant.sources.sources._ROW_TOKENS", 16)
    parts = decoder.generate([prompt, *PROMPTS], Contrastive(), **settings)
    assert [output.token_ids for output in parts] == [output.token_ids for output in whole]


def test_compiled_decoders_search_as_eager_ones_do() -> None:
    eager, compiled = (
        Decoder(EXPERT, runner=runner).generate(  # type: ignore[arg-type]
            PROMPTS[:2], strategy=ContrastiveSearch(2), max_new_tokens=4
        )
        for runner in ("eager", "compiled")
    )
    assert [output.token_ids for output in compiled] == [output.token_ids for output in eager]


def test_memory_is_planned_for_every_fork_of_the_expert(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    planned: list[tuple[int, int]] = []
    plan = cache.RaggedCache.plan

    def note(self: cache.RaggedCache, rows: int, length: int, beside: Any) -> None:
        planned.append((rows, length))
        plan(self, rows, length, beside)

    monkeypatch.setattr(cache.RaggedCache, "plan", note)
    decoder.generate(PROMPTS[:2], Contrastive(), strategy=ContrastiveSearch(5), max_new_tokens=3)
    assert planned == [(10, 9), (2, 9)]
    monkeypatch.setattr(cache, "free_memory", lambda _: 0)
    with pytest.raises(OutOfMemoryError, match="10 rows of 9 tokens"):
        decoder.generate(PROMPTS[:2], Contrastive(), strategy=ContrastiveSearch(5), max_new_tokens=3)


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    """A decoder of text."""
    folders: tuple[Path, Path] = write_pair(tmp_path_factory.mktemp("pair"))
    return Decoder.from_pretrained(folders[0], amateur=folders[1], dtype="float64")


def test_streams_stops_and_reports_are_those_of_every_strategy(writer: Decoder) -> None:
    prompts = ["What is the capital of France?", "Ça alors"]
    settings: dict[str, Any] = {"strategy": ContrastiveSearch(4, 0.8), "max_new_tokens": 16}
    outputs = writer.generate(prompts, Contrastive(1e-3), **settings, trace=True, top_logprobs=1)
    pieces = list(writer.stream(prompts, Contrastive(1e-3), **settings))
    for index, output in enumerate(outputs):
        assert "".join(piece.text for piece in pieces if piece.index == index) == output.text
        assert sum(piece.index == index for piece in pieces) > 2
        assert output.trace is not None
        assert [entry.token_id for entry in output.trace] == output.token_ids
        [score] = writer.score([output.prompt_token_ids], [output.token_ids], Contrastive(1e-3))
        assert output.logprobs == pytest.approx(score.logprobs)
        assert output.method["strategy"] == {"name": "ContrastiveSearch", "k": 4, "penalty": 0.8}
    stop = outputs[0].text[3:6]
    [stopped] = writer.generate(prompts[:1], Contrastive(1e-3), **settings, stop=[stop])
    assert stopped.finish_reason == "stop"
    assert stopped.text == outputs[0].text[: outputs[0].text.index(stop)]


def test_cancelling_ends_rows_where_they_stand(decoder: Decoder) -> None:
    strategy = ContrastiveSearch(4)
    whole = decoder.generate(PROMPTS[:3], strategy=strategy, max_new_tokens=4, ignore_eos=True)
    asked = iter([False] * 4 + [True])
    cut = decoder.generate(PROMPTS[:3], strategy=strategy, ignore_eos=True, batch_size=8, cancelled=lambda: next(asked))
    assert [output.finish_reason for output in cut] == ["cancelled"] * 3
    assert [output.token_ids for output in cut] == [*(output.token_ids for output in whole[:2]), []]


def test_the_context_is_used_up_to_its_end() -> None:
    model = architectures.build("gpt2", n_positions=16, max_position_embeddings=16)
    [output] = Decoder(model).generate([PROMPTS[1]], strategy=ContrastiveSearch(3), max_new_tokens=64)
    assert (len(output.token_ids), output.finish_reason) == (10, "length")
    [empty] = Decoder(model).generate([PROMPTS[1]], strategy=ContrastiveSearch(3), max_new_tokens=0)
    assert (empty.token_ids, empty.finish_reason) == ([], "length")


def test_what_defines_no_distribution_is_an_error(decoder: Decoder) -> None:
    ban = BadWords([[token] for token in range(architectures.VOCAB)])
    with pytest.raises(DecodingError, match="forbid every token at step 0 of row 0"):
        decoder.generate(PROMPTS[:2], Likelihood(), [ban], ContrastiveSearch(3), max_new_tokens=4)
    broken = architectures.build("llama", vocab_size=23)
    broken.lm_head.weight.data[3] = torch.nan
    with pytest.raises(DecodingError, match="logits of the expert are not finite"):
        Decoder(broken).generate([[5]], strategy=ContrastiveSearch(2), max_new_tokens=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0}, "k is 0"),
        ({"k": 2.5}, "k is 2.5"),
        ({"penalty": -0.1}, "penalty is -0.1"),
        ({"penalty": 1.5}, "penalty is 1.5"),
        ({"penalty": float("nan")}, "penalty is nan"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str, unchecked_types: None) -> None:
    del unchecked_types
    with pytest.raises(SettingsError, match=message):
        ContrastiveSearch(**settings)


def test_what_cannot_work_is_refused(decoder: Decoder, unchecked_types: None) -> None:
    del unchecked_types
    search: Any = ContrastiveSearch(5)
    with pytest.raises(SettingsError, match="cannot draft for a contrastive search"):
        Speculative(base=search)
    with pytest.raises(SettingsError, match=r"Beam.base is ContrastiveSearch\(k=5, penalty=0.6\)"):
        Beam(base=search)
    with pytest.raises(SettingsError, match="a prompt takes 5 rows, one a candidate, but batch_size is 4"):
        decoder.generate(PROMPTS, strategy=search, batch_size=4)
    with pytest.raises(UnsupportedModelError, match="compares hidden states, which MambaForCausalLM does not show"):
        Decoder(architectures.build("mamba")).generate([[5]], strategy=search)
