"""Contrast across tokenizers, against sums over every tokenization, one uncached pass for each."""

import dataclasses
import math
import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import architectures
import oracle
import tiny_tokenizers
from descant import (
    Beam,
    Contrastive,
    ContrastiveSearch,
    Decoder,
    DecodingError,
    Guidance,
    Likelihood,
    NoRepeatNGram,
    OtherPrompt,
    OtherTokenizer,
    PromptError,
    PromptLookup,
    ProxyTuning,
    RepetitionPenalty,
    Sample,
    SettingsError,
    Speculative,
    UnsupportedModelError,
    VocabularyError,
    WhenUncertain,
)
from descant.sources.other_tokenizer.bridge import Bridge
from descant.types import Logits

EXPERT_TOKENIZER = tiny_tokenizers.byte_level(["a b", "Ġ ab", "b c"])
TOKENIZERS = {
    "byte-level": tiny_tokenizers.byte_level(["b a", "c a", "Ġ c", "Ġ b"]),
    "sentencepiece": tiny_tokenizers.sentencepiece("▁a", "▁ab", "ca", "bb"),
    "wordpiece": tiny_tokenizers.wordpiece("ab", "##ab", "ca", "##ca"),
}


def model_for(tokenizer: PreTrainedTokenizerBase, seed: int, name: str = "llama", **changes: Any) -> PreTrainedModel:
    model = architectures.build(name, seed=seed, vocab_size=len(tokenizer), num_hidden_layers=2, **changes)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model


EXPERT = model_for(EXPERT_TOKENIZER, 1, "qwen2")
AMATEURS = {kind: model_for(tokenizer, 2) for kind, tokenizer in TOKENIZERS.items()}
EXACT = {"tolerance": 0.0, "budget": None}
PROMPTS = ["ab c", "a", "cab ba", "b b bab c"]


def decoder_for(kind: str, **settings: Any) -> Decoder:
    return Decoder(EXPERT, EXPERT_TOKENIZER, OtherTokenizer(AMATEURS[kind], TOKENIZERS[kind], **settings))


def as_the_amateur_sees(kind: str, text: str) -> str:
    """The text that an amateur's tokens spell."""
    if kind == "wordpiece":
        words = re.findall(r"\w+|[^\w\s]", text.lower())
        return "".join(f" {word}" for word in words) + (" " if text[-1:].isspace() else "")
    return f" {text}" if kind == "sentencepiece" else text


def spelling(kind: str) -> list[bytes | None]:
    tokenizer = TOKENIZERS[kind]
    spelled: list[bytes | None] = []
    for token in tokenizer.convert_ids_to_tokens(range(len(tokenizer))):
        if token in tokenizer.all_special_tokens:
            spelled.append(None)
        elif re.fullmatch("<0x..>", token):
            spelled.append(bytes([int(token[3:5], 16)]))
        elif kind == "wordpiece":
            spelled.append((token[2:] if token.startswith("##") else f" {token}").encode())
        else:
            spelled.append(token.replace("Ġ", " ").replace("▁", " ").encode())
    return spelled


def log_probability(kind: str, ids: list[int], token_id: int, reopen: int = 1) -> float:
    """How probable a token of the expert is to the amateur, by its bytes, from the definition."""
    model, tokenizer, spelled = AMATEURS[kind], TOKENIZERS[kind], spelling(kind)
    text = EXPERT_TOKENIZER.decode(ids)
    read = tokenizer(text)["input_ids"]
    if kind == "wordpiece":
        read = read[:-1]
    kept = max(1, len(read) - reopen)
    before = b"".join(spelled[token] or b"" for token in read[:kept])
    tail = as_the_amateur_sees(kind, text).encode().removeprefix(before)
    below = oracle.covers(model, read[:kept], tail, spelled)
    if token_id == EXPERT_TOKENIZER.eos_token_id:
        return math.log(oracle.ends_after(model, read[:kept], tail, (tokenizer.eos_token_id,), spelled) / below)
    longer = as_the_amateur_sees(kind, text + EXPERT_TOKENIZER.decode([token_id])).encode()
    return math.log(oracle.covers(model, read[:kept], longer.removeprefix(before), spelled) / below)


def scores(kind: str, ids: list[int], alpha: float, **settings: Any) -> dict[int, float]:
    expert = oracle.last_logits(EXPERT, ids).log_softmax(-1).tolist()
    head = [token for token, logprob in enumerate(expert) if logprob >= max(expert) + math.log(alpha)]
    return {token: expert[token] - log_probability(kind, ids, token, **settings) for token in head}


@pytest.mark.parametrize("reopen", [0, 1, 2])
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_contrast_of_bytes_equals_the_sum_over_every_tokenization(kind: str, reopen: int) -> None:
    if kind == "wordpiece" and reopen == 0:
        reopen = 3
    decoder = decoder_for(kind, reopen=reopen, **EXACT)
    outs = decoder.generate(PROMPTS, Contrastive(alpha=0.1), max_new_tokens=5, trace=True)
    for prompt, out in zip(PROMPTS, outs, strict=True):
        ids = EXPERT_TOKENIZER(prompt)["input_ids"]
        assert out.trace is not None
        for token_id, trace in zip(out.token_ids, out.trace, strict=True):
            expected = scores(kind, ids, 0.1, reopen=reopen)
            found = {candidate.token_id: candidate.score for candidate in trace.head}
            assert found == pytest.approx(expected, rel=1e-6)
            assert token_id == max(expected, key=lambda token: (expected[token], -token))
            assert trace.amateur_rank is None
            ids.append(token_id)


def test_beams_add_up_contrasts_of_bytes() -> None:
    kind, width = "byte-level", 2

    def score(ids: list[int]) -> list[float]:
        head = scores(kind, ids, 0.1)
        return [head.get(token, -math.inf) for token in range(EXPERT.config.vocab_size)]

    outs = decoder_for(kind, **EXACT).generate(PROMPTS[:2], Contrastive(0.1), strategy=Beam(width), max_new_tokens=3)
    eos = [EXPERT_TOKENIZER.eos_token_id]
    for prompt, out in zip(PROMPTS, outs, strict=False):
        expected = oracle.search(EXPERT_TOKENIZER(prompt)["input_ids"], score, width, 3, eos)
        found = [out, *out.alternatives]
        assert [each.token_ids for each in found] == [tokens for tokens, _ in expected]
        assert [each.score for each in found] == pytest.approx([total for _, total in expected], rel=1e-6)


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("scoring", [Contrastive(alpha=0.05), Contrastive(alpha=0.05, beta=0.5)])
def test_rows_of_a_batch_are_decoded_as_alone(kind: str, scoring: Contrastive) -> None:
    decoder = decoder_for(kind)
    settings: dict[str, Any] = {"processors": [RepetitionPenalty(1.2), NoRepeatNGram(4)], "max_new_tokens": 5}
    alone = [decoder.generate(prompt, scoring, **settings)[0] for prompt in PROMPTS]
    for size in (4, 3):
        together = decoder.generate(PROMPTS, scoring, **settings, batch_size=size)
        assert [out.token_ids for out in together] == [out.token_ids for out in alone]
        assert [out.finish_reason for out in together] == [out.finish_reason for out in alone]


@pytest.mark.parametrize("draft", [PromptLookup(2), None, EXPERT, "other"])
def test_speculation_changes_nothing(draft: Any) -> None:
    decoder = decoder_for("sentencepiece")
    if draft == "other":
        draft = OtherTokenizer(AMATEURS["wordpiece"], TOKENIZERS["wordpiece"])
    strategy = Speculative(draft=draft, tokens=3, confidence=0.0)
    plain = decoder.generate(PROMPTS, max_new_tokens=12, processors=[RepetitionPenalty(1.3)])
    drafted = decoder.generate(PROMPTS, max_new_tokens=12, processors=[RepetitionPenalty(1.3)], strategy=strategy)
    assert [out.token_ids for out in drafted] == [out.token_ids for out in plain]
    assert sum(out.speculation.drafted for out in drafted if out.speculation) > 0


def test_bytes_are_contrasted_only_where_the_expert_is_uncertain() -> None:
    threshold, uncertain = 1.5, 0
    decoder = decoder_for("sentencepiece", **EXACT)
    outs = decoder.generate(PROMPTS, WhenUncertain(Contrastive(alpha=0.1), threshold), max_new_tokens=5)
    for prompt, out in zip(PROMPTS, outs, strict=True):
        ids = EXPERT_TOKENIZER(prompt)["input_ids"]
        for token_id in out.token_ids:
            expected = dict(enumerate(oracle.last_logits(EXPERT, ids).tolist()))
            if oracle.entropy(list(expected.values())) > threshold:
                expected = scores("sentencepiece", ids, 0.1)
                uncertain += 1
            assert token_id == max(expected, key=lambda token: (expected[token], -token))
            ids.append(token_id)
    assert 0 < uncertain < sum(len(out.token_ids) for out in outs)


def test_a_bridged_amateur_drafts_for_scorings_that_do_not_read_it() -> None:
    amateur = OtherTokenizer(AMATEURS["byte-level"], TOKENIZERS["byte-level"])
    sources = {"tuned": model_for(EXPERT_TOKENIZER, 3), "untuned": OtherPrompt("a b", model_for(EXPERT_TOKENIZER, 4))}
    decoder = Decoder(EXPERT, EXPERT_TOKENIZER, amateur, sources=sources)
    plain = decoder.generate(PROMPTS, ProxyTuning(), max_new_tokens=8)
    strategy = Speculative(tokens=3, confidence=0.0)
    drafted = decoder.generate(PROMPTS, ProxyTuning(), max_new_tokens=8, strategy=strategy)
    assert [out.token_ids for out in drafted] == [out.token_ids for out in plain]
    assert sum(out.speculation.drafted for out in drafted if out.speculation) > 0


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_draft_of_another_tokenizer_is_lossless_and_sometimes_right(kind: str) -> None:
    decoder = Decoder(EXPERT, EXPERT_TOKENIZER)
    strategy = Speculative(draft=OtherTokenizer(AMATEURS[kind], TOKENIZERS[kind]), tokens=3, confidence=0.0)
    plain = decoder.generate(PROMPTS, max_new_tokens=20, stop="abab")
    drafted = decoder.generate(PROMPTS, max_new_tokens=20, stop="abab", strategy=strategy)
    assert [out.token_ids for out in drafted] == [out.token_ids for out in plain]
    assert sum(out.speculation.drafted for out in drafted if out.speculation) > 0


def test_a_model_drafts_for_itself_what_the_expert_accepts() -> None:
    # The same model behind a tokenizer that differs in what it would merge: its tokens are other ids.
    swapped = tiny_tokenizers.byte_level(["a b", "Ġ ab", "b c", "c c"])
    twin = model_for(swapped, 1, "qwen2")
    with torch.no_grad():
        for name, parameter in EXPERT.named_parameters():
            mine = twin.get_parameter(name)
            mine[: len(parameter)] = parameter
            if mine.shape != parameter.shape:
                mine[len(parameter) :] = 0
    decoder = Decoder(EXPERT, EXPERT_TOKENIZER)
    draft = OtherTokenizer(twin, swapped)
    outs = decoder.generate(["ab cab", "ba"], max_new_tokens=16, strategy=Speculative(draft=draft, confidence=0.0))
    plain = decoder.generate(["ab cab", "ba"], max_new_tokens=16)
    assert [out.token_ids for out in outs] == [out.token_ids for out in plain]
    assert sum(out.speculation.accepted for out in outs if out.speculation) > 0


def test_sampled_drafts_keep_the_distribution() -> None:
    draft = OtherTokenizer(AMATEURS["byte-level"], TOKENIZERS["byte-level"])
    decoder = Decoder(EXPERT, EXPERT_TOKENIZER)
    prompts = ["ab c"] * 400
    plain = decoder.generate(prompts, strategy=Sample(), max_new_tokens=2, seed=1, batch_size=400)
    strategy = Speculative(base=Sample(), draft=draft, confidence=0.0)
    drafted = decoder.generate(prompts, strategy=strategy, max_new_tokens=2, seed=2, batch_size=400)
    expert = torch.zeros(2, len(EXPERT_TOKENIZER))
    for place, outs in enumerate((plain, drafted)):
        for out in outs:
            expert[place, out.token_ids[-1]] += 1 / len(outs)
    # The total variation between two samples of 400 over 8 tokens is above 0.16 with a probability below 1e-4.
    assert float((expert[0] - expert[1]).abs().sum()) / 2 < 0.16


@pytest.mark.parametrize("processors", [(), (RepetitionPenalty(1.2),)])
def test_score_is_what_generation_found(processors: tuple[Any, ...]) -> None:
    decoder = decoder_for("wordpiece")
    prompts = [EXPERT_TOKENIZER(prompt)["input_ids"] for prompt in PROMPTS]
    outs = decoder.generate(prompts, Contrastive(selective=False), processors, Sample(), max_new_tokens=6, seed=3)
    found = decoder.score(prompts, [out.token_ids for out in outs], Contrastive(), processors)
    for score, out in zip(found, outs, strict=True):
        assert score.logprobs == pytest.approx(out.logprobs, abs=1e-9)


def test_equal_tokenizers_give_the_plain_tokens() -> None:
    same = model_for(EXPERT_TOKENIZER, 5)
    plain = Decoder(EXPERT, EXPERT_TOKENIZER, same).generate(PROMPTS, max_new_tokens=12)
    bridged = Decoder(EXPERT, EXPERT_TOKENIZER, OtherTokenizer(same, EXPERT_TOKENIZER))
    assert [out.token_ids for out in bridged.generate(PROMPTS, max_new_tokens=12)] == [out.token_ids for out in plain]
    assert bridged.generate(PROMPTS, max_new_tokens=1)[0].logprobs == plain[0].logprobs[:1]
    strategy = Speculative(draft=OtherTokenizer(same, EXPERT_TOKENIZER))
    drafted = bridged.generate(PROMPTS, max_new_tokens=12, strategy=strategy)
    assert [out.token_ids for out in drafted] == [out.token_ids for out in plain]


def test_bytes_are_at_least_as_probable_as_the_token_that_spells_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """How the two ways relate with one tokenizer, if nothing is reopened: longer tokens begin with the bytes too."""
    monkeypatch.setattr("descant.sources.other_tokenizer.setting.same_vocabulary", lambda *_: False)
    same = model_for(EXPERT_TOKENIZER, 5)
    bridge = OtherTokenizer(same, EXPERT_TOKENIZER, reopen=0, **EXACT)
    [out] = Decoder(EXPERT, EXPERT_TOKENIZER, bridge).generate(
        "ab c", Contrastive(alpha=0.01), trace=True, max_new_tokens=1
    )
    tokenwise = oracle.last_logits(same, EXPERT_TOKENIZER("ab c")["input_ids"]).log_softmax(-1)
    assert out.trace is not None
    found = {candidate.token_id: candidate.amateur_logprob for candidate in out.trace[0].head}
    assert len(found) > 2
    assert all(value is not None and value >= float(tokenwise[token]) - 1e-12 for token, value in found.items())


@given(
    texts=st.lists(st.lists(st.sampled_from(range(1, len(EXPERT_TOKENIZER))), max_size=10), min_size=2, max_size=5),
    kind=st.sampled_from(sorted(TOKENIZERS)),
)
@settings(max_examples=12)
def test_rows_that_roll_back_judge_as_fresh_ones(texts: list[list[int]], kind: str) -> None:
    """Whatever was read before: the tokens of a text that changed are forgotten."""
    decoder = decoder_for(kind)
    texts = [[1, *text] for text in texts]
    asking = torch.ones(1, len(EXPERT_TOKENIZER), dtype=torch.bool)
    expert: Logits = torch.zeros(1, len(EXPERT_TOKENIZER), dtype=torch.float64)

    def opened() -> Bridge:
        bridge = decoder._models.open(decoder._models.resolve(Contrastive())).bridges["amateur"]
        assert isinstance(bridge, Bridge)
        bridge.add_rows(1)
        return bridge

    with torch.inference_mode():
        used = opened()
        for text in texts:
            judged = used.judge([text], [0], expert, asking)
            assert torch.allclose(judged, opened().judge([text], [0], expert, asking), rtol=0, atol=1e-9)


def test_what_the_amateur_cannot_spell_is_as_probable_as_to_the_expert() -> None:
    tokenizer = tiny_tokenizers.byte_level(["a b"], letters="abĠ")
    amateur = OtherTokenizer(model_for(tokenizer, 4), tokenizer)
    decoder = Decoder(EXPERT, EXPERT_TOKENIZER, amateur)
    [out] = decoder.generate("ab ", Contrastive(alpha=0.001), max_new_tokens=1, trace=True)
    assert out.trace is not None
    found = {candidate.token_id: candidate for candidate in out.trace[0].head}
    unspelled = found[EXPERT_TOKENIZER.convert_tokens_to_ids("c")]
    assert unspelled.score == pytest.approx(0.0)
    assert unspelled.amateur_logprob == pytest.approx(unspelled.expert_logprob)


def test_unfinished_characters_are_judged_by_their_bytes() -> None:
    tokenizer = tiny_tokenizers.byte_level([], letters="abÃ©")
    expert = model_for(tokenizer, 6, "qwen2")
    decoder = Decoder(
        expert, tokenizer, OtherTokenizer(AMATEURS["sentencepiece"], TOKENIZERS["sentencepiece"], **EXACT)
    )
    ids = tokenizer.convert_tokens_to_ids(["a", "Ã"])
    [out] = decoder.generate([ids], Contrastive(alpha=1e-6), max_new_tokens=1, trace=True)
    model, spelled = AMATEURS["sentencepiece"], spelling("sentencepiece")
    context = TOKENIZERS["sentencepiece"]("a")["input_ids"][:-1]
    ratio = oracle.covers(model, context, " aé".encode(), spelled) / oracle.covers(model, context, b" a\xc3", spelled)
    assert out.trace is not None
    found = {candidate.token_id: candidate.amateur_logprob for candidate in out.trace[0].head}
    assert found[tokenizer.convert_tokens_to_ids("©")] == pytest.approx(math.log(ratio))


def test_what_cannot_be_bridged_is_refused() -> None:
    amateur = OtherTokenizer(AMATEURS["wordpiece"], TOKENIZERS["wordpiece"])
    with pytest.raises(SettingsError, match="the expert has no tokenizer"):
        Decoder(EXPERT, amateur=amateur)
    with pytest.raises(SettingsError, match="no tokenizer"):
        Decoder(EXPERT).generate([[1, 2]], strategy=Speculative(draft=amateur))
    with pytest.raises(SettingsError, match="leave amateur_tokenizer out"):
        Decoder(EXPERT, EXPERT_TOKENIZER, amateur, amateur_tokenizer=TOKENIZERS["byte-level"])
    with pytest.raises(SettingsError, match="from_pretrained"):
        Decoder(EXPERT, EXPERT_TOKENIZER, OtherTokenizer("a name"))
    with pytest.raises(VocabularyError, match=r"OtherTokenizer"):
        Decoder(EXPERT, EXPERT_TOKENIZER, AMATEURS["wordpiece"], amateur_tokenizer=TOKENIZERS["wordpiece"])
    with pytest.raises(SettingsError, match="reads candidates ahead"):
        Decoder(EXPERT, EXPERT_TOKENIZER, amateur).generate("a", Contrastive(), strategy=ContrastiveSearch())
    mamba = architectures.build("mamba", vocab_size=len(TOKENIZERS["wordpiece"]))
    with pytest.raises(UnsupportedModelError, match="rolled back"):
        Decoder(EXPERT, EXPERT_TOKENIZER, OtherTokenizer(mamba, TOKENIZERS["wordpiece"]))

    class Everything(Likelihood):
        sources = ("expert", "amateur")

    for scoring in (Everything(), Guidance(1.5), WhenUncertain(Guidance(1.5), 1.0)):
        with pytest.raises(SettingsError, match="plausible tokens only"):
            Decoder(EXPERT, EXPERT_TOKENIZER, amateur).generate("ab", scoring)
    with pytest.raises(SettingsError, match="only an amateur may have another tokenizer"):
        Decoder(EXPERT, EXPERT_TOKENIZER, sources={"tuned": amateur, "untuned": EXPERT})


@pytest.mark.parametrize(
    "settings",
    [{"reopen": -1}, {"tolerance": 1.0}, {"tolerance": -0.1}, {"budget": -1}, {"tokenizer": None}, {"model": "name"}],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    given: dict[str, Any] = {"model": AMATEURS["wordpiece"], "tokenizer": TOKENIZERS["wordpiece"]}
    with pytest.raises(SettingsError, match=r"give|reopen"):
        OtherTokenizer(**{**given, **settings})


def test_a_text_beyond_the_amateurs_context_is_refused() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    short = model_for(tokenizer, 2, max_position_embeddings=8)
    decoder = Decoder(EXPERT, EXPERT_TOKENIZER, OtherTokenizer(short, tokenizer))
    with pytest.raises(DecodingError, match="longer context"):
        decoder.generate("ab c cab ab a c bbc", max_new_tokens=4)


def test_a_prompt_without_text_is_refused_where_nothing_can_begin() -> None:
    tokenizer = tiny_tokenizers.byte_level(["b a"], end="<other>")
    model = model_for(tokenizer, 2)
    tokenizer.eos_token = None
    decoder = Decoder(EXPERT, EXPERT_TOKENIZER, OtherTokenizer(model, tokenizer))
    with pytest.raises(PromptError, match="give some text"):
        decoder.generate([[0]], Contrastive(alpha=0.001))


def test_results_record_the_bridge() -> None:
    out = decoder_for("wordpiece", reopen=2).generate("ab", max_new_tokens=1)[0]
    amateur = out.method["amateur"]
    assert {name: amateur[name] for name in ("name", "reopen", "tolerance", "budget")} == {
        "name": "OtherTokenizer",
        "reopen": 2,
        "tolerance": 0.01,
        "budget": 64,
    }
    assert dataclasses.is_dataclass(OtherTokenizer)


def test_tokens_beyond_the_logits_are_none() -> None:
    """A tokenizer with a token more than its model has logits for is another tokenizer, and works."""
    longer = tiny_tokenizers.byte_level(["a b", "Ġ ab", "b c"])
    longer.add_tokens(["abc"])
    same = model_for(EXPERT_TOKENIZER, 5)
    decoder = Decoder(EXPERT, EXPERT_TOKENIZER, OtherTokenizer(same, longer))
    assert decoder.bridged
    assert len(decoder.generate("ab c", max_new_tokens=4)[0].token_ids) > 0
    assert not Decoder(EXPERT, EXPERT_TOKENIZER, OtherTokenizer(same, EXPERT_TOKENIZER)).bridged


def test_a_draft_model_with_a_short_context_stops_drafting() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    draft = OtherTokenizer(model_for(tokenizer, 2, max_position_embeddings=8), tokenizer)
    decoder = Decoder(EXPERT, EXPERT_TOKENIZER)
    plain = decoder.generate(PROMPTS, max_new_tokens=12)
    outs = decoder.generate(PROMPTS, max_new_tokens=12, strategy=Speculative(draft=draft, confidence=0.0))
    assert [out.token_ids for out in outs] == [out.token_ids for out in plain]


def test_a_broken_amateur_is_named() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    broken = model_for(tokenizer, 2)
    broken.get_output_embeddings().weight.data.fill_(math.nan)
    decoder = Decoder(EXPERT, EXPERT_TOKENIZER, OtherTokenizer(broken, tokenizer))
    with pytest.raises(DecodingError, match="logits of the amateur"):
        decoder.generate("ab c", Contrastive(alpha=0.01), max_new_tokens=8)
