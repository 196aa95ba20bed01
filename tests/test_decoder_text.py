"""Text in, text out: chat templates, stop strings, streaming, tracing, on checkpoints written to disk."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

import architectures
from checkpoints import AMATEUR_WIDTH, EXPERT_WIDTH, sentencepiece_tokenizer, write_pair
from descant import Contrastive, Decoder, EarlyExit, Likelihood, NoRepeatNGram, Sample, Temperature, Window

PROMPTS = ["Hello, world!", "What is the capital of France?", "Ça alors"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def decoder(folders: tuple[Path, Path]) -> Decoder:
    return Decoder.from_pretrained(folders[0], amateur=folders[1], dtype="float64")


def test_a_pair_loads_and_decodes_as_a_user_would_the_real_one(folders: tuple[Path, Path], decoder: Decoder) -> None:
    """The expert alone must give model.generate's tokens from the same text and template."""
    expert = AutoModelForCausalLM.from_pretrained(folders[0], dtype=torch.float64)
    tokenizer = AutoTokenizer.from_pretrained(folders[0])
    outs = decoder.generate(PROMPTS, Likelihood(), max_new_tokens=16, chat=True, system="Be brief.")
    for prompt, out in zip(PROMPTS, outs, strict=True):
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": prompt}]
        inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
        expected = expert.generate(**inputs, max_new_tokens=16, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert out.prompt_token_ids == inputs["input_ids"][0].tolist()
        assert out.token_ids == expected.tolist()
        assert out.text == tokenizer.decode(expected, skip_special_tokens=True)


def test_a_chat_of_several_turns_is_a_prompt(folders: tuple[Path, Path], decoder: Decoder) -> None:
    chat = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "And now?"},
    ]
    tokenizer = AutoTokenizer.from_pretrained(folders[0])
    out = decoder.generate([chat], max_new_tokens=1, chat=True)[0]
    assert out.prompt_token_ids == tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]


def test_an_assistants_turn_at_the_end_is_continued_as_a_pipeline_does(folders: tuple[Path, Path]) -> None:
    chat = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "The capital"}]
    pipe = pipeline("text-generation", str(folders[0]), dtype=torch.float64)
    theirs = pipe(chat, max_new_tokens=12, do_sample=False)[0]["generated_text"][-1]["content"]
    out = Decoder.from_pretrained(folders[0], dtype="float64").generate([chat], max_new_tokens=12, chat=True)[0]
    assert chat[-1]["content"] + out.text == theirs


def test_the_pair_contrasts_over_its_common_vocabulary(decoder: Decoder) -> None:
    outs = decoder.generate(PROMPTS, Contrastive(alpha=1e-6), [NoRepeatNGram(1)], max_new_tokens=40)
    assert EXPERT_WIDTH < AMATEUR_WIDTH
    assert max(token for out in outs for token in out.token_ids) < EXPERT_WIDTH


def test_every_eos_id_ends_a_row(folders: tuple[Path, Path], decoder: Decoder) -> None:
    config = json.loads((folders[0] / "generation_config.json").read_text())
    assert sorted(decoder.eos_token_ids) == sorted(config["eos_token_id"])
    assert len(decoder.eos_token_ids) == 2
    model = architectures.build("qwen2", seed=1)
    plain = Decoder(model).generate([[3, 4, 5]], max_new_tokens=20)[0].token_ids
    for index in (4, 9):
        model.generation_config.eos_token_id = [plain[index], 96]
        out = Decoder(model).generate([[3, 4, 5]], max_new_tokens=20)[0]
        first = plain.index(plain[index])
        assert (out.token_ids, out.finish_reason) == (plain[: first + 1], "stop")
        ignored = Decoder(model).generate([[3, 4, 5]], max_new_tokens=20, ignore_eos=True)[0]
        assert (ignored.token_ids, ignored.finish_reason) == (plain, "length")


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_stop_strings_cut_the_text_at_their_first_occurrence(decoder: Decoder, data: st.DataObject) -> None:
    prompt = data.draw(st.sampled_from(PROMPTS))
    seed = data.draw(st.integers(0, 3))
    settings: dict[str, Any] = {
        "strategy": Sample(), "processors": [Temperature(2.0)], "seed": seed, "max_new_tokens": 24, "ignore_eos": True
    }  # fmt: skip
    free = decoder.generate(prompt, **settings)[0]
    assume(
        not set(decoder.tokenizer.all_special_ids).intersection(free.token_ids)
    )  # stop strings see what the text does not show
    start = data.draw(st.integers(0, max(0, len(free.text) - 1)))
    stop = free.text[start : start + data.draw(st.integers(1, 6))] or "never"
    out = decoder.generate(prompt, stop=stop, **settings)[0]
    if "�" in stop:  # a broken character may still become whole; what matters then is the prefix law
        assert free.text.startswith(out.text)
    elif stop in free.text:
        assert (out.text, out.finish_reason) == (free.text[: free.text.index(stop)], "stop")
        assert out.token_ids == free.token_ids[: len(out.token_ids)]
    pieces = list(decoder.stream(prompt, stop=stop, **settings))
    assert "".join(piece.text for piece in pieces) == out.text
    assert [token for piece in pieces for token in piece.token_ids] == out.token_ids


@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS[:1]])
def test_streamed_pieces_joined_are_the_output(decoder: Decoder, prompts: list[str]) -> None:
    settings: dict[str, Any] = {
        "strategy": Sample(), "processors": [Temperature(2.0)], "max_new_tokens": 30, "seed": 3
    }  # fmt: skip
    outs = decoder.generate(prompts, **settings)
    texts = ["" for _ in prompts]
    tokens: list[list[int]] = [[] for _ in prompts]
    for piece in decoder.stream(prompts, **settings):
        texts[piece.index] += piece.text
        tokens[piece.index] += piece.token_ids
        assert "�" not in texts[piece.index] or piece.output is not None or "�" in outs[piece.index].text
        if piece.output is not None:
            assert piece.output.text == texts[piece.index] == outs[piece.index].text
            assert piece.output.token_ids == tokens[piece.index] == outs[piece.index].token_ids


def test_bos_is_never_doubled() -> None:
    """A template that writes bos, with a tokenizer that adds bos."""
    tokenizer = sentencepiece_tokenizer()
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    model = architectures.build("llama", vocab_size=len(tokenizer))
    decoder = Decoder(model, tokenizer)
    for chat in (True, False):
        out = decoder.generate("Hello world", max_new_tokens=1, chat=chat)[0]
        assert out.prompt_token_ids.count(tokenizer.bos_token_id) == 1


def test_cancellation_between_steps_keeps_what_was_generated(decoder: Decoder) -> None:
    asked = iter([False, False, False, True])
    outs = decoder.generate(PROMPTS, max_new_tokens=50, ignore_eos=True, batch_size=2, cancelled=lambda: next(asked))
    assert [out.finish_reason for out in outs] == ["cancelled"] * 3
    assert [len(out.token_ids) for out in outs] == [3, 3, 0]


def test_zero_new_tokens_are_zero_tokens(decoder: Decoder) -> None:
    out = decoder.generate("Hello", max_new_tokens=0)[0]
    assert (out.text, out.token_ids, out.finish_reason) == ("", [], "length")


def test_the_context_ends_a_row() -> None:
    model = architectures.build("llama", max_position_embeddings=16)
    out = Decoder(model).generate([[3] * 10], max_new_tokens=50)[0]
    assert (len(out.token_ids), out.finish_reason) == (6, "length")


@pytest.mark.parametrize("amateur", ["model", "exit", "window"])
def test_a_trace_says_why(decoder: Decoder, amateur: str) -> None:
    expert = decoder.expert
    parts: dict[str, Any] = {"model": decoder.amateur, "exit": EarlyExit(1), "window": Window(expert, 2)}
    traced = Decoder(expert, decoder.tokenizer, parts[amateur])
    out = traced.generate(PROMPTS[1], Contrastive(alpha=0.01), max_new_tokens=8, trace=True, ignore_eos=True)[0]
    assert out.trace is not None
    text = list(out.prompt_token_ids)
    for token, why in zip(out.token_ids, out.trace, strict=True):
        with torch.inference_mode():
            logprobs = expert(torch.tensor([text])).logits[0, -1][:EXPERT_WIDTH].log_softmax(-1)
        assert why.token_id == token
        assert why.expert_logprob == pytest.approx(float(logprobs[token]), abs=1e-8)
        assert why.expert_rank == int((logprobs > logprobs[token]).sum()) + 1
        assert why.greedy_token_id == int(logprobs.argmax())
        assert why.head_size == int((logprobs >= logprobs.max() + torch.log(torch.tensor(0.01))).sum())
        assert why.expert_entropy == pytest.approx(float(-(logprobs.exp() * logprobs).sum()), abs=1e-8)
        assert why.amateur_logprob is not None
        assert why.score == pytest.approx(why.expert_logprob - why.amateur_logprob, abs=1e-8)
        assert why.head[0].token_id == token
        assert len(why.head) == min(20, why.head_size)
        text.append(token)


def test_results_record_the_settings_that_made_them(decoder: Decoder) -> None:
    out = decoder.generate("Hello", Contrastive(alpha=0.3), [Temperature(0.5)], max_new_tokens=3, stop="x")[0]
    method = json.loads(json.dumps(out.method))
    assert method["scoring"]["name"] == "Contrastive"
    assert method["scoring"]["alpha"] == 0.3
    assert method["processors"] == [{"name": "Temperature", "temperature": 0.5}]
    assert method["strategy"] == {"name": "Greedy"}
    assert (method["max_new_tokens"], method["stop"], method["seed"]) == (3, ["x"], None)
    assert method["expert"]["dtype"] == "float64"
    assert out.timing.time_to_first_token is not None
    assert 0 < out.timing.time_to_first_token <= out.timing.total
