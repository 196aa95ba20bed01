"""What a call asks for besides sequences, under beams: batches, text, stops, reports; and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

import architectures
from checkpoints import write_pair
from descant import (
    BadWords,
    Beam,
    Contrastive,
    Decoder,
    DecodingError,
    Likelihood,
    LogitBias,
    NoRepeatNGram,
    Output,
    Sample,
    SettingsError,
    Speculative,
)
from descant.tokens import Detokenizer

PROMPTS = [[5, 17, 3], [8, 2, 9, 41, 7, 30], [60], [33, 33], [21, 4, 50, 11]]
MODEL = architectures.build("qwen2", seed=5)
AMATEUR = architectures.build("qwen2", seed=6)


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> Decoder:
    monkeypatch.setattr(MODEL.generation_config, "eos_token_id", [4, 11, 50])
    return Decoder(MODEL, amateur=AMATEUR)


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    """A decoder of text."""
    folders: tuple[Path, Path] = write_pair(tmp_path_factory.mktemp("pair"))
    return Decoder.from_pretrained(folders[0], amateur=folders[1], dtype="float64")


def assert_alike(one: Output, other: Output) -> None:
    for beam, twin in zip([one, *one.alternatives], [other, *other.alternatives], strict=True):
        assert (beam.token_ids, beam.finish_reason) == (twin.token_ids, twin.finish_reason)
        assert [beam.score, *beam.logprobs] == pytest.approx([twin.score, *twin.logprobs], abs=1e-9)


@pytest.mark.parametrize("scoring", [Likelihood(), Contrastive()], ids=str)
@pytest.mark.parametrize("beam", [Beam(3), Beam(4, groups=2, diversity=0.5), Beam(2, base=Sample())], ids=str)
@pytest.mark.parametrize("batch_size", [4, 9, 64])
def test_a_prompt_searches_as_if_it_were_alone(decoder: Decoder, scoring: Any, beam: Beam, batch_size: int) -> None:
    settings = {"processors": [NoRepeatNGram(2)], "strategy": beam, "max_new_tokens": 10}
    together = decoder.generate(PROMPTS, scoring, **settings, seed=3, batch_size=batch_size)
    for index, prompt in enumerate(PROMPTS):
        others = [[1]] * index  # a prompt draws by its place in the call
        alone = decoder.generate([*others, prompt], scoring, **settings, seed=3, batch_size=beam.width)[-1]
        assert_alike(together[index], alone)


def test_a_beam_reports_what_a_greedy_row_does(decoder: Decoder) -> None:
    scoring = Contrastive(1e-3)
    outputs = decoder.generate(
        PROMPTS, scoring, [NoRepeatNGram(2)], Beam(3), max_new_tokens=6, top_logprobs=2, trace=True
    )
    for output in outputs:
        assert output.method["strategy"]["name"] == "Beam"
        assert output.method["strategy"]["width"] == 3
        for beam in (output, *output.alternatives):
            assert beam.top_logprobs is not None
            assert beam.trace is not None
            [score] = decoder.score([output.prompt_token_ids], [beam.token_ids], scoring, [NoRepeatNGram(2)])
            assert beam.logprobs == pytest.approx(score.logprobs)
            assert [entry.token_id for entry in beam.trace] == beam.token_ids
            assert beam.score == pytest.approx(sum(entry.score for entry in beam.trace) / len(beam.token_ids))
            assert len(beam.top_logprobs) == len(beam.token_ids) == len(beam.logprobs)
            assert all(
                logprob <= top[0][1] + 1e-9 for logprob, top in zip(beam.logprobs, beam.top_logprobs, strict=True)
            )


@pytest.mark.parametrize("stop", ["e", " t"])
@torch.inference_mode()
def test_stop_strings_end_beams_as_in_transformers(writer: Decoder, stop: str) -> None:
    prompt = "What is the capital of France?"
    [output] = writer.generate(prompt, Likelihood(), strategy=Beam(4), max_new_tokens=16, stop=[stop])
    ids = torch.tensor([output.prompt_token_ids])
    assert writer.tokenizer is not None
    found = writer.expert.generate(
        ids, attention_mask=torch.ones_like(ids), num_beams=4, num_return_sequences=4, max_new_tokens=16,
        do_sample=False, stop_strings=[stop], tokenizer=writer.tokenizer, pad_token_id=writer.eos_token_ids[0],
    )  # type: ignore[operator]  # fmt: skip
    beams = [output, *output.alternatives]
    for beam, row in zip(beams, found[:, ids.shape[1] :].tolist(), strict=True):
        assert beam.token_ids == row[: len(beam.token_ids)]
        assert set(row[len(beam.token_ids) :]) <= {writer.eos_token_ids[0]}
        assert stop not in beam.text
    assert any(stop in writer.tokenizer.decode(beam.token_ids) for beam in beams)


def test_a_stream_yields_the_whole_text_at_the_end(writer: Decoder) -> None:
    prompts = ["Hello, world!", "Ça alors"]
    settings: dict[str, Any] = {"strategy": Beam(3), "max_new_tokens": 8}
    outputs = writer.generate(prompts, **settings)
    pieces = list(writer.stream(prompts, **settings))
    assert sorted(piece.index for piece in pieces) == [0, 1]
    for piece in pieces:
        assert piece.output is not None
        assert (piece.text, piece.token_ids) == (outputs[piece.index].text, outputs[piece.index].token_ids)
        assert piece.text == piece.output.text != ""


def test_cancelling_ends_a_search_with_what_it_has(decoder: Decoder) -> None:
    asked = iter([False] * 4 + [True] * 9)
    outputs = decoder.generate(
        PROMPTS[:3], Likelihood(), strategy=Beam(3), ignore_eos=True, batch_size=6, cancelled=lambda: next(asked)
    )
    assert [output.finish_reason for output in outputs] == ["cancelled"] * 3
    assert [len(output.token_ids) for output in outputs] == [4, 4, 0]
    whole = decoder.generate(PROMPTS[:2], Likelihood(), strategy=Beam(3), ignore_eos=True, max_new_tokens=4)
    for output, reference in zip(outputs, whole, strict=False):
        beams, expected = ([x, *x.alternatives] for x in (output, reference))
        assert [beam.token_ids for beam in beams] == [beam.token_ids for beam in expected]
        assert [beam.finish_reason for beam in beams] == ["cancelled"] * 3


def test_no_tokens_are_no_search(decoder: Decoder) -> None:
    [output] = decoder.generate(PROMPTS[:1], strategy=Beam(3), max_new_tokens=0)
    assert (output.token_ids, output.finish_reason, output.score, output.alternatives) == ([], "length", None, ())


def test_fewer_sequences_than_beams_are_returned_where_fewer_are_allowed(decoder: Decoder) -> None:
    [output] = decoder.generate(PROMPTS[:1], Contrastive(1.0), strategy=Beam(4), max_new_tokens=5)
    assert output.alternatives == ()
    [greedy] = decoder.generate(PROMPTS[:1], Likelihood(), max_new_tokens=5)
    assert output.token_ids == greedy.token_ids


def test_a_search_without_any_allowed_token_is_an_error(decoder: Decoder) -> None:
    ban = BadWords([[token] for token in range(architectures.VOCAB)])
    with pytest.raises(DecodingError, match="forbid every continuation of row 0, whose 3 beams"):
        decoder.generate(PROMPTS[:2], Likelihood(), [ban], Beam(3), max_new_tokens=4)


def test_a_damaged_model_is_an_error() -> None:
    broken = architectures.build("llama", vocab_size=23)
    broken.lm_head.weight.data[3] = torch.nan
    with pytest.raises(DecodingError, match="logits of the expert are not finite"):
        Decoder(broken).generate([[5]], strategy=Beam(2), max_new_tokens=2)


def test_diversity_is_taken_from_processed_scores(decoder: Decoder) -> None:
    """With a cost beyond any score, the groups never share a token at a step."""
    beam = Beam(3, groups=3, diversity=1e4)
    [output] = decoder.generate(
        PROMPTS[:1], Likelihood(), [LogitBias({7: 5.0})], beam, max_new_tokens=8, ignore_eos=True
    )
    for tokens in zip(*(row.token_ids for row in (output, *output.alternatives)), strict=True):
        assert len(set(tokens)) == 3


def test_forked_detokenizers_go_their_own_ways(writer: Decoder) -> None:
    assert writer.tokenizer is not None
    ids = writer.tokenizer("naïve 🙂 façade")["input_ids"]
    for cut in range(len(ids)):
        one = Detokenizer(writer.tokenizer)
        text = "".join(map(one.push, ids[:cut]))
        other = one.fork()
        ends = [text + "".join(map(each.push, rest)) + each.flush() for each, rest in ((one, ids[cut:]), (other, ids))]
        assert ends[0] == writer.tokenizer.decode(ids)
        assert ends[1] == writer.tokenizer.decode([*ids[:cut], *ids])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 0}, "width is 0"),
        ({"width": 2.5}, "width is 2.5"),
        ({"length_penalty": float("nan")}, "length_penalty is nan"),
        ({"early_stopping": "always"}, 'give True, False or "never"'),
        ({"width": 4, "groups": 3, "diversity": 1.0}, "divisor of width=4"),
        ({"width": 4, "groups": 2}, "all the same without diversity"),
        ({"diversity": 1.0}, "there is one"),
        ({"diversity": -1.0}, "number from 0"),
        ({"base": Speculative()}, "give Greedy\\(\\) or Sample\\(\\)"),
        ({"ranking": "amateur"}, "ranking is 'amateur'"),
        ({"ranking": "expert", "base": Sample()}, "drop one"),
        ({"groups": 2, "diversity": 1.0, "base": Sample()}, "drop one"),
        ({"groups": 2, "diversity": 1.0, "ranking": "expert"}, "drop one"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str, unchecked_types: None) -> None:
    del unchecked_types
    with pytest.raises(SettingsError, match=message):
        Beam(**settings)


def test_speculation_refuses_beams_and_says_why(unchecked_types: None) -> None:
    del unchecked_types
    with pytest.raises(SettingsError, match="cannot draft for a beam search"):
        Speculative(base=Beam())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("scoring", "strategy", "message"),
    [
        (Likelihood(), Beam(5), "a prompt takes 5 rows"),
        (Likelihood(), Beam(3, base=Sample(rng="transformers")), "raise it to 6"),
    ],
    ids=str,
)
def test_calls_that_cannot_work_are_refused(decoder: Decoder, scoring: Any, strategy: Beam, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        decoder.generate(PROMPTS[:2], scoring, strategy=strategy, batch_size=4)


def test_selective_contrast_of_normalised_scores_works_under_beams(decoder: Decoder) -> None:
    settings: dict[str, Any] = {"strategy": Beam(3), "max_new_tokens": 8}
    [one] = decoder.generate(PROMPTS[:1], Contrastive(0.5, beta=0.5, selective=True), **settings)
    [other] = decoder.generate(PROMPTS[:1], Contrastive(0.5, beta=0.5, selective=False), **settings)
    assert_alike(one, other)
